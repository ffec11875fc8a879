//! Conversions between librdkafka's numbers and the core's. Librdkafka has negative numbers for what is not known.

use std::ops::Range;

use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::types::RDKafkaErrorCode as Code;
use switchboard_core::record::{Offset, PartitionIndex, Timestamp};
use switchboard_core::worker::{Cause, KafkaErrorCode};

/// An absolute offset, if it is one.
pub(super) fn absolute(offset: rdkafka::Offset) -> Option<Offset> {
    match offset {
        rdkafka::Offset::Offset(offset) => Offset::new(offset),
        _ => None,
    }
}

pub(super) fn to_absolute(offset: Offset) -> rdkafka::Offset {
    rdkafka::Offset::Offset(offset.get())
}

/// A log's watermarks.
///
/// # Errors
/// When they are not known.
pub(super) fn watermarks((start, end): (i64, i64)) -> KafkaResult<Range<Offset>> {
    match (Offset::new(start), Offset::new(end)) {
        (Some(start), Some(end)) => Ok(start..end),
        _ => Err(KafkaError::MetadataFetch(Code::NoOffset)),
    }
}

/// The offset of a record that was consumed.
///
/// # Panics
/// When it is negative: Kafka has no such records.
pub(super) fn offset_of(message: &impl Message) -> Offset {
    Offset::new(message.offset()).expect("Kafka numbers records from 0")
}

/// A partition's number that librdkafka gave with a record, an event or an answer.
///
/// # Panics
/// When it is negative: Kafka has no such partitions.
pub(super) fn partition(number: i32) -> PartitionIndex {
    PartitionIndex::new(number).expect("Kafka numbers partitions from 0")
}

/// The timestamp of a record, where it has one.
pub(super) fn timestamp_of(message: &impl Message) -> Option<Timestamp> {
    message.timestamp().to_millis().map(Timestamp::from_millis)
}

/// What the worker is told of an error: text, and the error's code.
pub(super) fn cause(text: String, error: &KafkaError) -> Cause {
    Cause::new(text, error.rdkafka_error_code().map(code))
}

pub(super) fn code(code: Code) -> KafkaErrorCode {
    KafkaErrorCode::new(code as i32)
}
