//! A Kafka record, and its coordinates.

use std::fmt;
use std::sync::Arc;

use super::headers::Headers;
use super::offset::Offset;
use super::partition::PartitionIndex;
use super::timestamp::Timestamp;

/// The content of a Kafka record, without its position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The key; `None` is Kafka's null.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is Kafka's null, a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers.
    pub headers: Headers,
    /// The timestamp, if the record has one.
    pub timestamp: Option<Timestamp>,
}

impl Record {
    /// The size of key, value and headers in bytes, as buffers and requests count it.
    pub fn bytes(&self) -> usize {
        let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        len(&self.key) + len(&self.value) + self.headers.bytes()
    }
}

/// Where a record was first consumed. The coordinates identify the record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinates {
    /// The alias of the source topic.
    pub topic: Arc<str>,
    /// The source partition.
    pub partition: PartitionIndex,
    /// The source offset.
    pub offset: Offset,
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)
    }
}
