//! A JSON object whose fields are decoded one by one, on request.
//!
//! Serde's derive does not fit the contract, which is both stricter and more lenient:
//!
//! * Fields are checked in the contract's own order.
//! * A body that is not needed may be anything, also nested too deeply for a recursive parser.
//! * An array is not an object.
//! * A repeated field is an error only if it is decoded.

use std::any::type_name;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::WireError;

/// The fields of an object in their order: name and raw JSON.
#[derive(Default)]
pub(crate) struct Object<'a>(Vec<(Text<'a>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Parses a whole document: UTF-8 without a byte order mark, JSON, an object.
    pub(crate) fn parse(document: &'a [u8]) -> Result<Self, WireError> {
        let text = str::from_utf8(document)?;
        // serde_json does not validate names and values that it skips as bytes.
        serde_json::from_str::<IgnoredAny>(text).map_err(WireError::NotJson)?;
        serde_json::from_str(text).map_err(|_| WireError::NotObject)
    }

    /// The object in the field `name`; empty if the field is missing or null.
    pub(crate) fn object(&self, name: &'static str) -> Result<Self, WireError> {
        let Some(json) = self.field(name)? else {
            return Ok(Self::default());
        };
        serde_json::from_str(json.get()).map_err(|_| WireError::WrongType { field: name, expected: "an object" })
    }

    /// The text in the field `name`; `None` if it is missing or null.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<Cow<'a, str>>, WireError> {
        let Some(json) = self.field(name)? else {
            return Ok(None);
        };
        let text: Text<'a> =
            serde_json::from_str(json.get()).map_err(|_| WireError::WrongType { field: name, expected: "a string" })?;
        Ok(Some(text.0))
    }

    /// The integer in the field `name`; `None` if it is missing or null. `T` is an unsigned integer.
    pub(crate) fn integer<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, WireError> {
        let Some(json) = self.field(name)? else {
            return Ok(None);
        };
        // The only JSON values that Rust parses as an unsigned integer have no sign, fraction or exponent.
        let integer =
            json.get().parse().map_err(|_| WireError::NotInteger { field: name, integer: type_name::<T>() })?;
        Ok(Some(integer))
    }

    /// The UUID in the field `name`, with hyphens; `None` if it is missing or null.
    pub(crate) fn uuid(&self, name: &'static str) -> Result<Option<Uuid>, WireError> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        // The parser accepts other forms too, but only the hyphenated one has this length.
        let hyphenated = text.len() == uuid::fmt::Hyphenated::LENGTH;
        let uuid = Uuid::try_parse(&text).ok().filter(|_| hyphenated);
        uuid.map(Some).ok_or(WireError::WrongType { field: name, expected: "a UUID" })
    }

    /// The value of the field; `None` if it is missing or null.
    fn field(&self, name: &'static str) -> Result<Option<&'a RawValue>, WireError> {
        let mut values = self.0.iter().filter(|(given, _)| given.0 == name).map(|(_, value)| *value);
        let value = values.next();
        if values.next().is_some() {
            return Err(WireError::GivenTwice(name));
        }
        Ok(value.filter(|value| value.get() != "null"))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// A JSON string. JSON allows lone surrogates (`"\ud800"`), Rust strings do not: each becomes U+FFFD.
struct Text<'a>(Cow<'a, str>);

impl<'a> Text<'a> {
    /// From UTF-8 that may also encode surrogates.
    fn new(bytes: &'a [u8]) -> Self {
        if let Ok(text) = str::from_utf8(bytes) {
            return Self(text.into());
        }
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            // A surrogate has three bytes, and each is an invalid chunk. This is the first one.
            if chunk.invalid() == [0xed] {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        Self(text.into())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Text::new(bytes))
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Text(Text::new(bytes).0.into_owned().into()))
            }
        }

        // serde_json accepts lone surrogates in bytes.
        deserializer.deserialize_bytes(Bytes)
    }
}
