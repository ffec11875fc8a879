//! The calls for which rdkafka has no safe form. The only room that uses `rdkafka-sys`.
#![allow(unsafe_code)]

pub(super) mod describe;

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::RDKafkaError;
use rdkafka::message::{BorrowedHeaders, OwnedHeaders};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka_sys as rdsys;
use switchboard_core::record::Headers;
use switchboard_core::worker::Cause;

use super::convert;

/// The headers of a consumed record. rdkafka's own getter panics at a name that is not UTF-8, which one faulty producer
/// is enough to bring about.
pub(super) fn read_headers(headers: &BorrowedHeaders) -> Headers {
    let native = ptr::from_ref(headers).cast::<rdsys::rd_kafka_headers_t>();
    let mut read = Headers::with_capacity(8, 256);
    loop {
        let mut name = ptr::null();
        let mut value = ptr::null();
        let mut size = 0;
        // SAFETY: a `&BorrowedHeaders` is the address of a live `rd_kafka_headers_t` (that is how rdkafka makes it),
        // and the out pointers are valid for writes.
        let result =
            unsafe { rdsys::rd_kafka_header_get_all(native, read.len(), &raw mut name, &raw mut value, &raw mut size) };
        if result != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return read;
        }
        // SAFETY: on success the name is a C string and the value null or `size` bytes, both owned by the headers,
        // which outlive this call.
        let (name, value) = unsafe {
            let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
            (CStr::from_ptr(name).to_bytes(), value)
        };
        read.push(name, value);
    }
}

/// Headers to send, names as bytes.
pub(super) fn write_headers(headers: &Headers) -> OwnedHeaders {
    let owned = OwnedHeaders::new_with_capacity(headers.len());
    let native = ptr::from_ref(owned.as_borrowed()).cast_mut().cast::<rdsys::rd_kafka_headers_t>();
    for header in headers.iter() {
        let (value, size) = match header.value {
            // A dangling pointer with size 0 is an empty value; only a null pointer is a null.
            Some(value) => (value.as_ptr().cast(), value.len()),
            None => (ptr::null(), 0),
        };
        // SAFETY: `native` is the headers object that `owned` owns and nobody else has seen; librdkafka copies name and
        // value, whose lengths are given. Slices are at most isize::MAX long.
        let result = unsafe {
            rdsys::rd_kafka_header_add(
                native,
                header.name.as_ptr().cast(),
                header.name.len().cast_signed(),
                value,
                size.cast_signed(),
            )
        };
        assert_eq!(result, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, "adding to headers of our own cannot fail");
    }
    owned
}

/// Waits until no message is under way, for at most `wait`; true when it is so. rdkafka's own `flush` looks every
/// 100 ms only. Delivery reports are to be polled for meanwhile, or the wait does not end.
pub(super) fn flush<C: ProducerContext>(producer: &BaseProducer<C>, wait: Duration) -> bool {
    let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client outlives the call.
    let result = unsafe { rdsys::rd_kafka_flush(producer.client().native_ptr(), wait) };
    result == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// A failed transactional call.
pub(super) struct CallError {
    pub(super) code: RDKafkaErrorCode,
    pub(super) text: String,
    pub(super) fatal: bool,
    pub(super) requires_abort: bool,
    pub(super) retriable: bool,
}

impl CallError {
    pub(super) fn cause(&self) -> Cause {
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

/// A consumer's membership as it is now: offsets are fenced by it.
pub(super) struct Membership(*mut rdsys::rd_kafka_consumer_group_metadata_t);

impl Membership {
    /// `None` without a member id or a generation: offsets sent so (generation -1) are taken from anybody, as those of a
    /// consumer outside the group.
    pub(super) fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        // SAFETY: the client outlives the call; the object is ours, or null.
        let metadata = unsafe { rdsys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr()) };
        if metadata.is_null() {
            return None;
        }
        let membership = Self(metadata);
        // SAFETY: the object lives as long as `membership`, and the member id in it is null or a C string.
        let live = unsafe {
            let member = rdsys::rd_kafka_consumer_group_metadata_member_id(metadata);
            rdsys::rd_kafka_consumer_group_metadata_generation_id(metadata) >= 0 && !member.is_null() && *member != 0
        };
        live.then_some(membership)
    }
}

// SAFETY: a copy of what the consumer knew, tied to no thread.
unsafe impl Send for Membership {}

impl Drop for Membership {
    fn drop(&mut self) {
        // SAFETY: not null, ours, and destroyed only here.
        unsafe { rdsys::rd_kafka_consumer_group_metadata_destroy(self.0) };
    }
}

/// Whether the group would take our offsets.
pub(super) fn is_member<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    Membership::of(consumer).is_some()
}

/// Makes offsets part of the transaction, fenced by a membership. May take much longer than `wait`, see
/// [`super::producer::Producer::send_offsets`].
pub(super) fn send_offsets<P: ProducerContext>(
    producer: &BaseProducer<P>,
    membership: &Membership,
    offsets: &TopicPartitionList,
    wait: Duration,
) -> Result<(), CallError> {
    let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    let client = producer.client().native_ptr();
    // SAFETY: client, list and membership outlive the call.
    let error = unsafe { rdsys::rd_kafka_send_offsets_to_transaction(client, offsets.ptr(), membership.0, wait) };
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is ours until it is destroyed, here and once; its texts are C strings that live as long.
    let failed = unsafe {
        let text = CStr::from_ptr(rdsys::rd_kafka_error_string(error)).to_string_lossy();
        let name = CStr::from_ptr(rdsys::rd_kafka_error_name(error)).to_string_lossy();
        let failed = CallError {
            code: rdsys::rd_kafka_error_code(error).into(),
            text: format!("{text} ({name})"),
            fatal: rdsys::rd_kafka_error_is_fatal(error) != 0,
            requires_abort: rdsys::rd_kafka_error_txn_requires_abort(error) != 0,
            retriable: rdsys::rd_kafka_error_is_retriable(error) != 0,
        };
        rdsys::rd_kafka_error_destroy(error);
        failed
    };
    Err(failed)
}

/// A pointer of librdkafka that is to be destroyed.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: not null, ours, and destroyed only here, by the function that goes with it.
            unsafe { (self.1)(self.0) };
        }
    }
}

/// Why a topic's id cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TopicIdError {
    #[error("{0}")]
    NoAnswer(&'static str),
    #[error("{text}")]
    Refused { code: RDKafkaErrorCode, text: String },
    #[error(transparent)]
    Name(#[from] std::ffi::NulError),
}

/// Kafka's id of a topic (KIP-516): another one each time that it is made. `None`: the broker knows no topic ids.
pub(super) fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    wait: Duration,
) -> Result<Option<u128>, TopicIdError> {
    let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    let name = CString::new(topic)?;
    let client = client.native_ptr();
    let text = |text: *const std::ffi::c_char| {
        // SAFETY: librdkafka's texts are C strings; those asked for here live as long as the event, and are copied.
        if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
    };
    // SAFETY: the client outlives the calls. What is made is owned by the guards, which are dropped in reverse order: the
    // event before its queue. librdkafka copies names and options. All pointers read below belong to the event, and are null or
    // valid as long as it lives; the array has as many elements as it says.
    unsafe {
        let queue = Owned(rdsys::rd_kafka_queue_new(client), rdsys::rd_kafka_queue_destroy);
        let kind = rdsys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = Owned(rdsys::rd_kafka_AdminOptions_new(client, kind), rdsys::rd_kafka_AdminOptions_destroy);
        rdsys::rd_kafka_AdminOptions_set_request_timeout(options.0, wait, ptr::null_mut(), 0);
        let mut names = [name.as_ptr()];
        let topics = rdsys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let topics = Owned(topics, rdsys::rd_kafka_TopicCollection_destroy);
        rdsys::rd_kafka_DescribeTopics(client, topics.0, options.0, queue.0);
        // The request ends by itself after `wait`.
        let event =
            Owned(rdsys::rd_kafka_queue_poll(queue.0, wait.saturating_add(1000)), rdsys::rd_kafka_event_destroy);
        if event.0.is_null() {
            return Err(TopicIdError::NoAnswer("no answer"));
        }
        if rdsys::rd_kafka_event_error(event.0) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            let code = rdsys::rd_kafka_event_error(event.0).into();
            return Err(TopicIdError::Refused { code, text: text(rdsys::rd_kafka_event_error_string(event.0)) });
        }
        let result = rdsys::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(TopicIdError::NoAnswer("an answer to another question"));
        }
        let mut count = 0;
        let described = rdsys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if count == 0 {
            return Err(TopicIdError::NoAnswer("an empty answer"));
        }
        let description = *described;
        let error = rdsys::rd_kafka_TopicDescription_error(description);
        if rdsys::rd_kafka_error_code(error) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            let code = rdsys::rd_kafka_error_code(error).into();
            return Err(TopicIdError::Refused { code, text: text(rdsys::rd_kafka_error_string(error)) });
        }
        let id = rdsys::rd_kafka_TopicDescription_topic_id(description);
        let most = rdsys::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned();
        let least = rdsys::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned();
        let id = u128::from(most) << 64 | u128::from(least);
        Ok((id != 0).then_some(id))
    }
}
