//! Tenants: from a record's headers to its tenant and shard.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::dead_letter::{Class, DeadLetter};
use super::headers::Headers;
use super::partition::ShardId;

/// All characters but the unreserved ones of RFC 3986, so that `/` and U+0000 are unambiguous separators.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The longest value of a tenant header in bytes. The value becomes part of every key of the tenant's state.
const MAX_VALUE: usize = 256;

/// The format of a tenant header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderKind {
    /// 36 ASCII characters with hyphens. Upper and lower case are the same tenant.
    Uuid,
    /// UTF-8 text, possibly empty.
    Text,
    /// One byte.
    U8,
    /// A number in two bytes, big-endian.
    U16,
    /// A number in four bytes, big-endian.
    U32,
    /// A number in eight bytes, big-endian.
    U64,
}

/// One of the headers that identify a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantHeader {
    /// The name of the header.
    pub name: String,
    /// Its format.
    #[serde(rename = "type")]
    pub kind: HeaderKind,
}

/// The canonical text of a tenant, such as `uuid/region/major/minor`. It has the values in the configured order,
/// joined by `/`: UUIDs in lower case, text percent-encoded, numbers in decimal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The tenant with this canonical text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for TenantId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for TenantId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// The tenant of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The canonical text.
    pub id: TenantId,
    /// The tenant headers as consumed, in the configured order. Outputs carry these bytes.
    pub headers: Headers,
    /// The same values as text for HTTP: text as consumed, numbers in decimal.
    pub texts: Vec<String>,
}

/// The configured headers that identify a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSchema {
    headers: Vec<TenantHeader>,
}

/// A text that is not a tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a tenant: give {form}")]
pub struct TenantTextError {
    text: String,
    form: String,
}

impl TenantSchema {
    /// The schema with these headers. An empty list means a single tenant, whose canonical text is empty.
    pub fn new(headers: Vec<TenantHeader>) -> Self {
        Self { headers }
    }

    /// The headers in the configured order.
    pub fn headers(&self) -> &[TenantHeader] {
        &self.headers
    }

    /// Parses a tenant that a person wrote: its canonical text, or a text with UUIDs in upper case, leading zeros, or
    /// text that is not percent-encoded.
    ///
    /// # Errors
    /// If no record can have that tenant. The error says what the text must look like.
    pub fn parse(&self, text: &str) -> Result<TenantId, TenantTextError> {
        let error = || TenantTextError { text: text.to_owned(), form: self.form() };
        let parts: Vec<_> = if self.headers.is_empty() && text.is_empty() { vec![] } else { text.split('/').collect() };
        if parts.len() != self.headers.len() {
            return Err(error());
        }
        let mut headers = Headers::with_capacity(self.headers.len(), text.len());
        for (TenantHeader { name, kind }, part) in self.headers.iter().zip(parts) {
            let part = percent_decode_str(part).decode_utf8().map_err(|_| error())?;
            match kind {
                HeaderKind::Uuid | HeaderKind::Text => headers.add(name, part.as_bytes()),
                HeaderKind::U8 => headers.add(name, part.parse::<u8>().map_err(|_| error())?.to_be_bytes()),
                HeaderKind::U16 => headers.add(name, part.parse::<u16>().map_err(|_| error())?.to_be_bytes()),
                HeaderKind::U32 => headers.add(name, part.parse::<u32>().map_err(|_| error())?.to_be_bytes()),
                HeaderKind::U64 => headers.add(name, part.parse::<u64>().map_err(|_| error())?.to_be_bytes()),
            }
        }
        self.decode(&headers).map(|tenant| tenant.id).map_err(|_| error())
    }

    /// The form of a canonical text, such as `TENANT_ID (uuid)/REGION (text)`.
    fn form(&self) -> String {
        let part =
            |TenantHeader { name, kind }: &TenantHeader| format!("{name} ({})", format!("{kind:?}").to_lowercase());
        let parts: Vec<_> = self.headers.iter().map(part).collect();
        if parts.is_empty() { "the empty text, as no tenant headers are set".into() } else { parts.join("/") }
    }

    /// Decodes the tenant of a record. If a name repeats, the last header counts.
    ///
    /// # Errors
    /// A dead letter of class `envelope` if a header is missing, null or malformed.
    pub fn decode(&self, record: &Headers) -> Result<Tenant, DeadLetter> {
        let mut id = String::with_capacity(64);
        let mut headers = Headers::with_capacity(self.headers.len(), 128);
        let mut texts = Vec::with_capacity(self.headers.len());
        for TenantHeader { name, kind } in &self.headers {
            let failure =
                |error: HeaderError| DeadLetter::new(Class::Envelope, format!("tenant header {name}: {error}"));
            let header = record.last(name).ok_or_else(|| failure(HeaderError::Missing))?;
            let value = header.value.ok_or_else(|| failure(HeaderError::Null))?;
            if value.len() > MAX_VALUE {
                return Err(failure(HeaderError::TooLong));
            }
            if !headers.is_empty() {
                id.push('/');
            }
            texts.push(decode_value(*kind, value, &mut id).map_err(failure)?);
            headers.add(name, value);
        }
        Ok(Tenant { id: TenantId::new(id), headers, texts })
    }
}

/// A memory of decoded tenants, since a worker meets the same ones again and again.
#[derive(Debug)]
pub struct Tenants {
    schema: TenantSchema,
    /// By the values of the tenant headers, each prefixed by its length.
    known: BTreeMap<Vec<u8>, Arc<Tenant>>,
    key: Vec<u8>,
}

/// How many tenants are remembered. When the limit is reached, all are forgotten.
const MOST_KNOWN: usize = 100_000;

impl Tenants {
    /// An empty memory.
    pub fn new(schema: TenantSchema) -> Self {
        Self { schema, known: BTreeMap::new(), key: Vec::new() }
    }

    /// Decodes the tenant of a record, as [`TenantSchema::decode`] does.
    ///
    /// # Errors
    /// As [`TenantSchema::decode`].
    pub fn decode(&mut self, record: &Headers) -> Result<Arc<Tenant>, DeadLetter> {
        self.key.clear();
        for header in &self.schema.headers {
            let Some(value) = record.last(&header.name).and_then(|header| header.value) else {
                return self.schema.decode(record).map(Arc::new);
            };
            self.key.extend_from_slice(&value.len().to_ne_bytes());
            self.key.extend_from_slice(value);
        }
        if let Some(tenant) = self.known.get(&self.key) {
            return Ok(Arc::clone(tenant));
        }
        let tenant = Arc::new(self.schema.decode(record)?);
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        self.known.insert(self.key.clone(), Arc::clone(&tenant));
        Ok(tenant)
    }
}

/// Why the value of a tenant header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum HeaderError {
    #[error("missing")]
    Missing,
    #[error("null")]
    Null,
    #[error("longer than {MAX_VALUE} bytes")]
    TooLong,
    #[error("not a UUID of 36 ASCII characters")]
    NotUuid,
    #[error("not UTF-8")]
    NotUtf8,
    #[error("not {bytes} byte{} (u{}{})", if *bytes == 1 { "" } else { "s" }, 8 * bytes, if *bytes == 1 { "" } else { ", big-endian" })]
    NotNumber { bytes: usize },
}

/// Appends the canonical form of a value to `id`, and returns its plain text.
fn decode_value(kind: HeaderKind, value: &[u8], id: &mut String) -> Result<String, HeaderError> {
    fn number<const N: usize>(value: &[u8]) -> Result<[u8; N], HeaderError> {
        value.try_into().map_err(|_| HeaderError::NotNumber { bytes: N })
    }
    let text = match kind {
        HeaderKind::Uuid => {
            let text = std::str::from_utf8(value).ok().filter(|text| text.len() == 36);
            let (text, uuid) =
                text.and_then(|text| Some((text, Uuid::try_parse(text).ok()?))).ok_or(HeaderError::NotUuid)?;
            write!(id, "{}", uuid.hyphenated()).expect("writing to a String does not fail");
            return Ok(text.to_owned());
        }
        HeaderKind::Text => {
            let text = std::str::from_utf8(value).map_err(|_| HeaderError::NotUtf8)?;
            id.extend(utf8_percent_encode(text, RESERVED));
            return Ok(text.to_owned());
        }
        HeaderKind::U8 => u8::from_be_bytes(number(value)?).to_string(),
        HeaderKind::U16 => u16::from_be_bytes(number(value)?).to_string(),
        HeaderKind::U32 => u32::from_be_bytes(number(value)?).to_string(),
        HeaderKind::U64 => u64::from_be_bytes(number(value)?).to_string(),
    };
    id.push_str(&text);
    Ok(text)
}

/// The shard of a tenant. It is the murmur2 hash of the canonical text, as Java's default partitioner computes it for
/// a record with this key.
pub fn shard_of(tenant: &TenantId, shards: u32) -> ShardId {
    let positive = murmur2::murmur2(tenant.as_str().as_bytes(), murmur2::KAFKA_SEED) & 0x7fff_ffff;
    ShardId::try_from(positive % shards).expect("below 2^31")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messenger() -> TenantSchema {
        let header = |name: &str, kind| TenantHeader { name: name.into(), kind };
        TenantSchema::new(vec![
            header("TENANT_ID", HeaderKind::Uuid),
            header("REGION", HeaderKind::Text),
            header("MAJOR_VERSION", HeaderKind::U16),
            header("MINOR_VERSION", HeaderKind::U16),
        ])
    }

    const GOOD: [(&str, &[u8]); 5] = [
        ("MINOR_VERSION", &[0, 1]),
        ("other", &[0xff]),
        ("TENANT_ID", b"61CC3717-e260-57fa-b286-57354c3748ff"),
        ("REGION", b"G/M S"),
        ("MAJOR_VERSION", &[1, 0]),
    ];

    fn record() -> Headers {
        GOOD.into_iter().map(|(name, value)| (name, Some(value))).collect()
    }

    #[test]
    fn the_canonical_text_is_lower_case_encoded_and_decimal_while_headers_stay_as_they_came() {
        let tenant = messenger().decode(&record()).unwrap();
        assert_eq!(tenant.id.as_str(), "61cc3717-e260-57fa-b286-57354c3748ff/G%2FM%20S/256/1");
        assert_eq!(tenant.headers.iter().next().unwrap().value, Some(GOOD[2].1));
        assert_eq!(tenant.texts, ["61CC3717-e260-57fa-b286-57354c3748ff", "G/M S", "256", "1"]);
    }

    #[test]
    fn a_tenant_that_a_person_wrote_is_brought_into_its_canonical_text() {
        let canonical = messenger().decode(&record()).unwrap().id;
        for text in [canonical.as_str(), "61CC3717-e260-57fa-b286-57354c3748ff/G%2FM S/0256/1"] {
            assert_eq!(messenger().parse(text), Ok(canonical.clone()));
        }
        let none = "61cc3717-e260-57fa-b286-57354c3748ff//256/1";
        assert_eq!(messenger().parse(none), Ok(TenantId::new(none)));
        for text in
            ["", "a/b/1/1", "61cc3717-e260-57fa-b286-57354c3748ff/GMS/83", &format!("{none}/1"), &format!("{none}x")]
        {
            let error = messenger().parse(text).unwrap_err().to_string();
            assert!(
                error.ends_with("TENANT_ID (uuid)/REGION (text)/MAJOR_VERSION (u16)/MINOR_VERSION (u16)"),
                "{error}"
            );
        }
        assert_eq!(TenantSchema::new(vec![]).parse(""), Ok(TenantId::new("")));
        assert!(TenantSchema::new(vec![]).parse("t").unwrap_err().to_string().contains("empty text"));
    }

    #[test]
    fn an_empty_region_is_a_region() {
        let mut headers = record();
        headers.add("REGION", "");
        let tenant = messenger().decode(&headers).unwrap();
        assert_eq!(tenant.id.as_str(), "61cc3717-e260-57fa-b286-57354c3748ff//256/1", "the last REGION counts");
    }

    #[test]
    fn missing_null_and_malformed_headers_are_refused_by_name() {
        let broken: [(&str, Option<&[u8]>, &str); 8] = [
            ("REGION", Some(&[b'x'; 257]), "256 bytes"),
            ("TENANT_ID", None, "null"),
            ("TENANT_ID", Some(b"61cc3717e26057fab28657354c3748ff"), "UUID"),
            ("TENANT_ID", Some(b"{61cc3717-e260-57fa-b286-57354c3748}"), "UUID"),
            ("TENANT_ID", Some(b"61cc3717-e260-57fa-b286-57354c3748fg"), "UUID"),
            ("REGION", Some(&[0xff]), "UTF-8"),
            ("MAJOR_VERSION", Some(b"8"), "2 bytes"),
            ("MINOR_VERSION", Some(&[0, 0, 1]), "2 bytes"),
        ];
        let mut tenants = Tenants::new(messenger());
        tenants.decode(&record()).unwrap();
        for (name, value, expected) in broken {
            let mut headers = record();
            headers.push(name, value);
            let letter = messenger().decode(&headers).unwrap_err();
            assert_eq!(letter.class, Class::Envelope);
            assert!(letter.reason.contains(name) && letter.reason.contains(expected), "{}", letter.reason);
            assert_eq!(tenants.decode(&headers).unwrap_err(), letter);
        }
        for name in ["TENANT_ID", "REGION", "MAJOR_VERSION", "MINOR_VERSION"] {
            let without: Headers = record().iter().filter(|header| header.name != name.as_bytes()).collect();
            assert!(tenants.decode(&without).unwrap_err().reason.contains("missing"));
        }
    }

    #[test]
    fn a_remembered_tenant_is_the_one_that_would_be_decoded() {
        let mut tenants = Tenants::new(messenger());
        // Values that are equal when joined, but not one by one; and another spelling of the same id.
        for (region, id) in [("a", "61CC3717"), ("", "61CC3717"), ("a", "61cc3717")] {
            let mut headers = record();
            headers.add("REGION", region);
            headers.add("TENANT_ID", format!("{id}-e260-57fa-b286-57354c3748ff"));
            for _ in 0..2 {
                assert_eq!(*tenants.decode(&headers).unwrap(), messenger().decode(&headers).unwrap());
            }
        }
        assert_eq!(tenants.known.len(), 3);
    }

    /// Values of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn shards_are_placed_as_java_clients_place_keys() {
        for (key, hash) in
            [("21", -973_932_308_i32), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
        {
            let expected = ShardId::try_from((hash & 0x7fff_ffff) % 16).unwrap();
            assert_eq!(shard_of(&TenantId::new(key), 16), expected, "{key}");
        }
    }
}
