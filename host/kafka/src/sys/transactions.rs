//! Calls of a transactional producer, and the membership that fences offsets.

use std::ffi::CStr;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaError;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka_sys as rdsys;
use switchboard_core::worker::Cause;

use super::milliseconds;
use crate::clients::convert;

/// Waits for at most `timeout` until no message is in flight. Returns whether that is so. rdkafka's own `flush` checks only every
/// 100 ms. The caller polls for delivery reports meanwhile; otherwise the wait does not end.
pub(crate) fn flush<C: ProducerContext>(producer: &BaseProducer<C>, timeout: Duration) -> bool {
    // SAFETY: the client outlives the call.
    let result = unsafe { rdsys::rd_kafka_flush(producer.client().native_ptr(), milliseconds(timeout)) };
    result == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// A failed transactional call.
pub(crate) struct CallError {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) text: String,
    pub(crate) fatal: bool,
    pub(crate) requires_abort: bool,
    pub(crate) retriable: bool,
}

impl CallError {
    pub(crate) fn cause(&self) -> Cause {
        Cause::new(self.text.as_str(), Some(convert::code(self.code)))
    }
}

impl From<&RDKafkaError> for CallError {
    fn from(error: &RDKafkaError) -> Self {
        Self {
            code: error.code(),
            text: format!("{} ({})", error.string(), error.name()),
            fatal: error.is_fatal(),
            requires_abort: error.txn_requires_abort(),
            retriable: error.is_retriable(),
        }
    }
}

/// A consumer's membership of the group as it is now. Offsets are fenced by it.
pub(crate) struct Membership(*mut rdsys::rd_kafka_consumer_group_metadata_t);

impl Membership {
    /// `None` without a member id or a generation. The group takes offsets without them (generation -1) from anybody, like those of a
    /// consumer outside of the group.
    pub(crate) fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        // SAFETY: the client outlives the call; the object is ours, or null.
        let metadata = unsafe { rdsys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr()) };
        if metadata.is_null() {
            return None;
        }
        let membership = Self(metadata);
        // SAFETY: the object lives as long as `membership`.
        let generation = unsafe { rdsys::rd_kafka_consumer_group_metadata_generation_id(metadata) };
        // SAFETY: as above. The member id is null or a C string that belongs to the object.
        let member = unsafe { rdsys::rd_kafka_consumer_group_metadata_member_id(metadata) };
        // SAFETY: a C string has at least its terminator.
        let has_member_id = !member.is_null() && unsafe { *member } != 0;
        (generation >= 0 && has_member_id).then_some(membership)
    }
}

// SAFETY: the object is a copy of what the consumer knew, and not tied to a thread.
unsafe impl Send for Membership {}

impl Drop for Membership {
    fn drop(&mut self) {
        // SAFETY: not null, ours, and destroyed only here.
        unsafe { rdsys::rd_kafka_consumer_group_metadata_destroy(self.0) };
    }
}

/// Whether the group would take this consumer's offsets.
pub(crate) fn is_member<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    Membership::of(consumer).is_some()
}

/// Adds offsets to the transaction, fenced by a membership. The call may take much longer than `timeout`: see
/// [`crate::clients::producer::Producer::send_offsets`].
pub(crate) fn send_offsets<P: ProducerContext>(
    producer: &BaseProducer<P>,
    membership: &Membership,
    offsets: &TopicPartitionList,
    timeout: Duration,
) -> Result<(), CallError> {
    let (client, timeout) = (producer.client().native_ptr(), milliseconds(timeout));
    // SAFETY: client, list and membership outlive the call.
    let error = unsafe { rdsys::rd_kafka_send_offsets_to_transaction(client, offsets.ptr(), membership.0, timeout) };
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is not null and ours, and is not used after this call.
    Err(unsafe { take_error(error) })
}

/// Reads an error and destroys it.
///
/// # Safety
/// The error is not null, is owned by the caller, and is not used afterwards.
unsafe fn take_error(error: *mut rdsys::rd_kafka_error_t) -> CallError {
    // SAFETY: the error is alive. Its text is a C string that belongs to it, and is copied here.
    let text = unsafe { CStr::from_ptr(rdsys::rd_kafka_error_string(error)) }.to_string_lossy().into_owned();
    // SAFETY: as for the text.
    let name = unsafe { CStr::from_ptr(rdsys::rd_kafka_error_name(error)) }.to_string_lossy().into_owned();
    let failed = CallError {
        // SAFETY: the error is alive.
        code: unsafe { rdsys::rd_kafka_error_code(error) }.into(),
        text: format!("{text} ({name})"),
        // SAFETY: the error is alive.
        fatal: unsafe { rdsys::rd_kafka_error_is_fatal(error) } != 0,
        // SAFETY: the error is alive.
        requires_abort: unsafe { rdsys::rd_kafka_error_txn_requires_abort(error) } != 0,
        // SAFETY: the error is alive.
        retriable: unsafe { rdsys::rd_kafka_error_is_retriable(error) } != 0,
    };
    // SAFETY: the caller owns the error and does not use it afterwards.
    unsafe { rdsys::rd_kafka_error_destroy(error) };
    failed
}
