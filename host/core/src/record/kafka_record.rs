use std::fmt;
use std::sync::Arc;

use super::headers::Headers;
use super::offset::Offset;
use super::partition::PartitionIndex;
use super::timestamp::Timestamp;

/// What a Kafka record carries, without its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
    /// `None` where the record has no timestamp.
    pub timestamp: Option<Timestamp>,
}

impl Record {
    /// Bytes of key, value and headers: what it weighs in a buffer or a request.
    pub fn bytes(&self) -> usize {
        let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        len(&self.key) + len(&self.value) + self.headers.bytes()
    }
}

/// Where a record was first consumed: its identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinates {
    /// The source topic's alias.
    pub topic: Arc<str>,
    pub partition: PartitionIndex,
    pub offset: Offset,
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)
    }
}
