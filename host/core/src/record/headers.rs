//! Record headers, in one buffer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The headers of a record in their order. Names may repeat.
///
/// All names and values are in one buffer. A record has a handful of short headers and is copied at every hop, so one
/// allocation per name and value would be most of the work. Kafka defines names as UTF-8, but brokers do not check
/// that. Names are bytes here, so that nothing is lost.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headers {
    /// All names and values, one after the other.
    #[serde(with = "blob")]
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

/// The lengths of a name and its value; `None` is Kafka's null, not an empty value.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Span {
    name: u32,
    value: Option<u32>,
}

impl Span {
    fn length(self) -> usize {
        self.name as usize + self.value.unwrap_or(0) as usize
    }
}

/// One header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Header<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The value; `None` is Kafka's null, not an empty value.
    pub value: Option<&'a [u8]>,
}

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// No headers, with room for this many headers and this many bytes of names and values.
    pub fn with_capacity(headers: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), spans: Vec::with_capacity(headers) }
    }

    /// Appends a header.
    ///
    /// # Panics
    /// If a name or value is longer than `u32::MAX`. Kafka allows no such length.
    pub fn push(&mut self, name: impl AsRef<[u8]>, value: Option<&[u8]>) {
        let (name, length) =
            (name.as_ref(), |bytes: &[u8]| u32::try_from(bytes.len()).expect("Kafka's lengths are i32"));
        self.spans.push(Span { name: length(name), value: value.map(length) });
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value.unwrap_or_default());
    }

    /// Appends a header with a value.
    pub fn add(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.push(name, Some(value.as_ref()));
    }

    /// Appends all headers of `other`.
    pub fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.spans.extend_from_slice(&other.spans);
    }

    /// The headers in their order.
    pub fn iter(&self) -> impl Iterator<Item = Header<'_>> + Clone {
        let mut rest = self.bytes.as_slice();
        self.spans.iter().map(move |span| {
            let (name, after) = rest.split_at(span.name as usize);
            let (value, after) = after.split_at(span.value.unwrap_or(0) as usize);
            rest = after;
            Header { name, value: span.value.map(|_| value) }
        })
    }

    /// The last header with this name. If a name repeats, the last header counts.
    pub fn last(&self, name: &str) -> Option<Header<'_>> {
        self.iter().filter(|header| header.name == name.as_bytes()).last()
    }

    /// The number of headers.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are no headers.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The size of all names and values in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the lengths add up. Deserialized headers must be checked.
    pub(super) fn is_sound(&self) -> bool {
        self.spans.iter().map(|span| span.length()).sum::<usize>() == self.bytes.len()
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, Option<V>)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, Option<V>)>>(headers: I) -> Self {
        let mut collected = Self::new();
        for (name, value) in headers {
            collected.push(name, value.as_ref().map(AsRef::as_ref));
        }
        collected
    }
}

impl<'a> FromIterator<Header<'a>> for Headers {
    fn from_iter<I: IntoIterator<Item = Header<'a>>>(headers: I) -> Self {
        headers.into_iter().map(|Header { name, value }| (name, value)).collect()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        f.debug_list().entries(self.iter().map(|header| (text(header.name), header.value.map(text)))).finish()
    }
}

/// Serializes bytes as one piece. Serde's own form of `Vec<u8>` is a sequence of numbers.
mod blob {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> Headers {
        let all: [(&[u8], Option<&[u8]>); 5] =
            [(b"a", Some(b"1")), (b"", None), (b"a", Some(b"")), (b"\xff", Some(b"\x00")), (b"b", None)];
        all.into_iter().collect()
    }

    #[test]
    fn headers_keep_order_duplicates_nulls_and_bytes() {
        let headers = headers();
        let listed: Vec<_> = headers.iter().map(|header| (header.name, header.value)).collect();
        let expected: [(&[u8], Option<&[u8]>); 5] =
            [(b"a", Some(b"1")), (b"", None), (b"a", Some(b"")), (b"\xff", Some(b"\x00")), (b"b", None)];
        assert_eq!(listed, expected);
        assert_eq!(headers.last("a").unwrap().value, Some(&b""[..]), "the last of a name counts");
        assert_eq!(headers.last("c"), None);
        assert_eq!((headers.len(), headers.bytes()), (5, 6));
    }

    #[test]
    fn appended_headers_follow() {
        let mut all = headers();
        all.append(&headers());
        all.add("z", "26");
        let again: Headers =
            headers().iter().chain(headers().iter()).chain([Header { name: b"z", value: Some(b"26") }]).collect();
        assert_eq!(all, again);
        assert!(all.is_sound());
    }
}
