//! Admin requests that rdkafka lacks: creating access control entries, deleting a group's offsets.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ptr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka_sys as rdsys;

use crate::progress::NO_PROGRESS_LIMIT;

/// How long a broker may take to answer a request.
const BROKER_CALL_LIMIT: Duration = NO_PROGRESS_LIMIT;

/// The operation that an access control entry allows.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    Read,
    Write,
    Delete,
    DescribeConfigs,
}

/// The resource of an access control entry.
#[derive(Debug, Clone, Copy)]
pub enum Resource<'a> {
    Topic(&'a str),
    Group(&'a str),
    /// All transactional ids with this prefix.
    TransactionalIds(&'a str),
}

/// Allows a principal (`User:name`) an operation, from every host. The brokers apply it a moment later.
pub fn allow(bootstrap: &str, principal: &str, resource: Resource<'_>, operation: Operation) -> Result<()> {
    use rdsys::rd_kafka_AclOperation_t as Native;
    use rdsys::rd_kafka_ResourcePatternType_t::{
        RD_KAFKA_RESOURCE_PATTERN_LITERAL, RD_KAFKA_RESOURCE_PATTERN_PREFIXED,
    };
    use rdsys::rd_kafka_ResourceType_t::{
        RD_KAFKA_RESOURCE_GROUP, RD_KAFKA_RESOURCE_TOPIC, RD_KAFKA_RESOURCE_TRANSACTIONAL_ID,
    };
    let (kind, name, pattern) = match resource {
        Resource::Topic(name) => (RD_KAFKA_RESOURCE_TOPIC, name, RD_KAFKA_RESOURCE_PATTERN_LITERAL),
        Resource::Group(name) => (RD_KAFKA_RESOURCE_GROUP, name, RD_KAFKA_RESOURCE_PATTERN_LITERAL),
        Resource::TransactionalIds(name) => {
            (RD_KAFKA_RESOURCE_TRANSACTIONAL_ID, name, RD_KAFKA_RESOURCE_PATTERN_PREFIXED)
        }
    };
    let operation = match operation {
        Operation::Read => Native::RD_KAFKA_ACL_OPERATION_READ,
        Operation::Write => Native::RD_KAFKA_ACL_OPERATION_WRITE,
        Operation::Delete => Native::RD_KAFKA_ACL_OPERATION_DELETE,
        Operation::DescribeConfigs => Native::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS,
    };
    let consumer: BaseConsumer = crate::client::config(bootstrap).create()?;
    let client = consumer.client().native_ptr();
    let name = CString::new(name)?;
    let principal = CString::new(principal)?;
    let host = CString::new("*")?;
    // SAFETY: the client and all strings outlive the calls. This block owns the binding and destroys it once, after its
    // last use. The result has one entry, as the request has. The event owns the result, and outlives the access to it.
    unsafe {
        let mut binding = rdsys::rd_kafka_AclBinding_new(
            kind,
            name.as_ptr(),
            pattern,
            principal.as_ptr(),
            host.as_ptr(),
            operation,
            rdsys::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
            ptr::null_mut(),
            0,
        );
        ensure!(!binding.is_null(), "no such binding: {resource:?}");
        let event = Event::answer(client, |queue| {
            rdsys::rd_kafka_CreateAcls(client, &raw mut binding, 1, ptr::null(), queue);
            rdsys::rd_kafka_AclBinding_destroy(binding);
        })?;
        let mut count = 0;
        let results =
            rdsys::rd_kafka_CreateAcls_result_acls(rdsys::rd_kafka_event_CreateAcls_result(event.0), &raw mut count);
        check(rdsys::rd_kafka_acl_result_error(*results)).with_context(|| format!("allowing {resource:?}"))
    }
}

/// Deletes a group's offsets of a topic, as if they had expired. The group must have no members.
pub fn delete_offsets(bootstrap: &str, group: &str, topic: &str, partitions: i32) -> Result<()> {
    let consumer: BaseConsumer = crate::client::config(bootstrap).create()?;
    let client = consumer.client().native_ptr();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let group = CString::new(group)?;
    // SAFETY: client, name and list outlive the calls. This block owns the request and destroys it once, after its last
    // use. The result has one entry, as the request has. The event owns the result, and outlives the access to it.
    unsafe {
        let event = Event::answer(client, |queue| {
            let mut request = rdsys::rd_kafka_DeleteConsumerGroupOffsets_new(group.as_ptr(), list.ptr());
            rdsys::rd_kafka_DeleteConsumerGroupOffsets(client, &raw mut request, 1, ptr::null(), queue);
            rdsys::rd_kafka_DeleteConsumerGroupOffsets_destroy(request);
        })?;
        let mut count = 0;
        let result = rdsys::rd_kafka_event_DeleteConsumerGroupOffsets_result(event.0);
        let results = rdsys::rd_kafka_DeleteConsumerGroupOffsets_result_groups(result, &raw mut count);
        check(rdsys::rd_kafka_group_result_error(*results)).context("deleting offsets")
    }
}

struct Event(*mut rdsys::rd_kafka_event_t);

impl Event {
    /// Sends a request and waits for its answer.
    ///
    /// # Safety
    /// The client is alive.
    unsafe fn answer(client: *mut rdsys::rd_kafka_t, send: impl FnOnce(*mut rdsys::rd_kafka_queue_t)) -> Result<Self> {
        let call_ms = i32::try_from(BROKER_CALL_LIMIT.as_millis())?;
        // SAFETY: this block owns the queue and destroys it once, after its last use. It owns the event, which may be
        // null.
        unsafe {
            let queue = rdsys::rd_kafka_queue_new(client);
            send(queue);
            let event = Self(rdsys::rd_kafka_queue_poll(queue, call_ms));
            rdsys::rd_kafka_queue_destroy(queue);
            ensure!(!event.0.is_null(), "no answer after {BROKER_CALL_LIMIT:?}");
            match Code::from(rdsys::rd_kafka_event_error(event.0)) {
                Code::NoError => Ok(event),
                code => Err(code.into()),
            }
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: this value owns the event, which is destroyed only here. librdkafka accepts null.
        unsafe { rdsys::rd_kafka_event_destroy(self.0) };
    }
}

/// # Safety
/// The error is null or alive.
unsafe fn check(error: *const rdsys::rd_kafka_error_t) -> Result<()> {
    // SAFETY: see above; the code of null is NO_ERROR.
    match Code::from(unsafe { rdsys::rd_kafka_error_code(error) }) {
        Code::NoError => Ok(()),
        code => Err(code.into()),
    }
}
