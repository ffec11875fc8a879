//! Conversions between librdkafka's numbers and errors and the core's. librdkafka uses negative numbers for "unknown".

use std::ops::Range;

use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::types::RDKafkaErrorCode as Code;
use switchboard_core::record::{Offset, PartitionIndex, Timestamp};
use switchboard_core::worker::{Cause, KafkaErrorCode};

/// The offset's number, if it is an absolute offset.
pub(crate) fn absolute(offset: rdkafka::Offset) -> Option<Offset> {
    match offset {
        rdkafka::Offset::Offset(offset) => Offset::new(offset),
        _ => None,
    }
}

pub(crate) fn to_absolute(offset: Offset) -> rdkafka::Offset {
    rdkafka::Offset::Offset(offset.get())
}

/// A log's watermarks.
///
/// # Errors
/// When they are unknown.
pub(crate) fn watermarks((start, end): (i64, i64)) -> KafkaResult<Range<Offset>> {
    match (Offset::new(start), Offset::new(end)) {
        (Some(start), Some(end)) => Ok(start..end),
        _ => Err(KafkaError::MetadataFetch(Code::NoOffset)),
    }
}

/// The offset of a consumed record.
///
/// # Panics
/// When it is negative: Kafka has no such records.
pub(crate) fn offset_of(message: &impl Message) -> Offset {
    Offset::new(message.offset()).expect("Kafka numbers records from 0")
}

/// The number of a partition that librdkafka gave with a record, an event or an answer.
///
/// # Panics
/// When it is negative: Kafka has no such partitions.
pub(crate) fn partition(number: i32) -> PartitionIndex {
    PartitionIndex::new(number).expect("Kafka numbers partitions from 0")
}

/// The timestamp of a record, if it has one.
pub(crate) fn timestamp_of(message: &impl Message) -> Option<Timestamp> {
    message.timestamp().to_millis().map(Timestamp::from_millis)
}

/// The worker's form of an error: a text, and the error's code.
pub(crate) fn cause(text: String, error: &KafkaError) -> Cause {
    Cause::new(text, error.rdkafka_error_code().map(code))
}

pub(crate) fn code(code: Code) -> KafkaErrorCode {
    KafkaErrorCode::new(code as i32)
}
