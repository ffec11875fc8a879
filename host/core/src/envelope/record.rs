use std::fmt;
use std::sync::Arc;

/// A record header. Names repeat and keep their order.
///
/// Kafka says that names are UTF-8, but brokers do not check it: a name is bytes here, so that nothing is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: Vec<u8>,
    /// `None` is Kafka's null, not an empty value.
    pub value: Option<Vec<u8>>,
}

impl Header {
    /// A header with a value.
    pub fn new(name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), value: Some(value.into()) }
    }
}

/// What a Kafka record carries, without its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<Header>,
    /// Milliseconds since 1970, where the record has a timestamp.
    pub timestamp: Option<i64>,
}

impl Record {
    /// Bytes of key, value and headers: what it weighs in a buffer or a request.
    pub fn bytes(&self) -> usize {
        let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|header| header.name.len() + len(&header.value)).sum();
        len(&self.key) + len(&self.value) + headers
    }
}

/// The last header of that name: of a name given twice the last counts.
pub fn last_header<'a>(headers: &'a [Header], name: &str) -> Option<&'a Header> {
    headers.iter().rev().find(|header| header.name == name.as_bytes())
}

/// Where a record was first consumed: its identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinates {
    /// The source topic's token.
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)
    }
}
