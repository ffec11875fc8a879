//! A JSON object whose fields are decoded one by one, when they are asked for.
//!
//! Not serde's derive, because the contract is stricter and laxer than that: fields are checked in an order of its own, a
//! body that is not looked at may be anything (nested too deep for a recursive parser, say), an array is not an object,
//! and a field given twice matters only when it is decoded.

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::any::type_name;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The fields of an object, in their order: name and raw JSON.
#[derive(Default)]
pub(crate) struct Object<'a>(Vec<(Text<'a>, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Reads a whole document: UTF-8 without byte order mark, JSON, an object.
    pub(crate) fn parse(document: &'a [u8]) -> Result<Self, String> {
        let text = str::from_utf8(document).map_err(|error| format!("not UTF-8: {error}"))?;
        // Names and values that are skipped as bytes are not checked for what JSON allows in a string.
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| format!("not JSON: {error}"))?;
        serde_json::from_str(text).map_err(|_| "not a JSON object".to_owned())
    }

    /// The object in the field `name`; an empty one when it is missing or null.
    pub(crate) fn object(&self, name: &str) -> Result<Self, String> {
        let Some(json) = self.field(name)? else {
            return Ok(Self::default());
        };
        serde_json::from_str(json.get()).map_err(|_| format!("{name} is not an object"))
    }

    /// The text in the field `name`; `None` when it is missing or null.
    pub(crate) fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, String> {
        let Some(json) = self.field(name)? else {
            return Ok(None);
        };
        let text: Text<'a> = serde_json::from_str(json.get()).map_err(|_| format!("{name} is not a string"))?;
        Ok(Some(text.0))
    }

    /// The integer in the field `name`; `None` when it is missing or null. `T` is an unsigned integer.
    pub(crate) fn integer<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(json) = self.field(name)? else {
            return Ok(None);
        };
        // Of JSON's values, Rust reads as an unsigned integer exactly those without sign, fraction and exponent.
        let integer = json.get().parse().map_err(|_| format!("{name} is not a {}", type_name::<T>()))?;
        Ok(Some(integer))
    }

    /// The UUID in the field `name`, hyphenated; `None` when it is missing or null.
    pub(crate) fn uuid(&self, name: &str) -> Result<Option<Uuid>, String> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        // The parser takes other forms too; only the hyphenated one is that long.
        let hyphenated = text.len() == uuid::fmt::Hyphenated::LENGTH;
        let uuid = Uuid::try_parse(&text).ok().filter(|_| hyphenated);
        uuid.map(Some).ok_or_else(|| format!("{name} is not a UUID"))
    }

    /// The field's value; `None` when it is missing or null.
    fn field(&self, name: &str) -> Result<Option<&'a RawValue>, String> {
        let mut values = self.0.iter().filter(|(given, _)| given.0 == name).map(|(_, value)| *value);
        let value = values.next();
        if values.next().is_some() {
            return Err(format!("{name} is given twice"));
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

/// A JSON string. JSON allows lone surrogates (`"\ud800"`), Rust's strings do not: each reads as U+FFFD.
struct Text<'a>(Cow<'a, str>);

impl<'a> Text<'a> {
    /// From UTF-8 in which surrogates may be encoded too.
    fn new(bytes: &'a [u8]) -> Self {
        if let Ok(text) = str::from_utf8(bytes) {
            return Self(text.into());
        }
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            // A surrogate is three bytes, each of them an invalid chunk; the first is this one.
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

        // As bytes, serde_json lets lone surrogates pass.
        deserializer.deserialize_bytes(Bytes)
    }
}
