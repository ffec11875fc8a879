//! Admin requests that rdkafka does not have: descriptions of topics and groups, with the operations that the asking
//! client is allowed.

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka_sys as rdsys;

/// An operation of an ACL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Read,
    Write,
    Delete,
    Describe,
    DescribeConfigs,
    /// Nothing that Switchboard needs.
    Other,
}

impl Operation {
    /// As Kafka's tools write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::Delete => "DELETE",
            Self::Describe => "DESCRIBE",
            Self::DescribeConfigs => "DESCRIBE_CONFIGS",
            Self::Other => "OTHER",
        }
    }

    /// By Kafka's own number, which newer brokers have more of than `rd_kafka_AclOperation_t`.
    fn from_native(operation: u32) -> Self {
        use rdsys::rd_kafka_AclOperation_t as Native;
        let known = [
            (Native::RD_KAFKA_ACL_OPERATION_READ, Self::Read),
            (Native::RD_KAFKA_ACL_OPERATION_WRITE, Self::Write),
            (Native::RD_KAFKA_ACL_OPERATION_DELETE, Self::Delete),
            (Native::RD_KAFKA_ACL_OPERATION_DESCRIBE, Self::Describe),
            (Native::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS, Self::DescribeConfigs),
        ];
        known.iter().find(|(native, _)| *native as u32 == operation).map_or(Self::Other, |(_, known)| *known)
    }
}

/// What this client is allowed; `None` where the broker does not say.
pub(crate) type Allowed = Option<Vec<Operation>>;

/// A consumer group.
#[derive(Debug)]
pub(crate) struct GroupDescription {
    /// As librdkafka names it: Stable, Empty, Dead (none of this name), ...
    pub(crate) state: String,
    /// Classic or Consumer (KIP-848).
    pub(crate) protocol: String,
    pub(crate) members: usize,
    /// Of those, how many are static.
    pub(crate) static_members: usize,
    pub(crate) allowed: Allowed,
}

/// What this client is allowed on each of the topics, or why that is not told: a topic that it may not describe is
/// TopicAuthorizationFailed, whether it exists or not.
pub(crate) fn allowed_on_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    wait: Duration,
) -> Result<Vec<Result<Allowed, Code>>, KafkaError> {
    let names = c_strings(topics)?;
    let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let request = Request::new(client, rdsys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, wait)?;
    // SAFETY: the names are C strings that outlive the call, which copies them; the collection is ours until it is
    // destroyed, after its last use.
    let event = unsafe {
        let topics = rdsys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        rdsys::rd_kafka_DescribeTopics(request.client, topics, request.options, request.queue);
        rdsys::rd_kafka_TopicCollection_destroy(topics);
        request.answer(wait)?
    };
    // SAFETY: the event is the answer to DescribeTopics, and owns all that is read from it until it is dropped at the end;
    // counts are those of the arrays they come with.
    unsafe {
        let mut count = 0;
        let result = rdsys::rd_kafka_event_DescribeTopics_result(event.0);
        let descriptions = rdsys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let describe = |topic: &*const rdsys::rd_kafka_TopicDescription_t| {
            error_code(rdsys::rd_kafka_TopicDescription_error(*topic))?;
            let mut count = 0;
            let operations = rdsys::rd_kafka_TopicDescription_authorized_operations(*topic, &raw mut count);
            Ok(read_operations(operations, count))
        };
        Ok(array(descriptions.cast_const(), count).iter().map(describe).collect())
    }
}

/// # Errors
/// When there is no answer, or this client may not describe the group.
pub(crate) fn describe_group<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    wait: Duration,
) -> Result<GroupDescription, KafkaError> {
    let names = c_strings(&[group])?;
    let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let request = Request::new(client, rdsys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, wait)?;
    // SAFETY: the names are C strings that outlive the call, which copies them.
    let event = unsafe {
        let count = names.len();
        rdsys::rd_kafka_DescribeConsumerGroups(
            request.client,
            names.as_mut_ptr(),
            count,
            request.options,
            request.queue,
        );
        request.answer(wait)?
    };
    // SAFETY: the event is the answer to DescribeConsumerGroups, and owns all that is read from it until it is dropped at
    // the end; counts are those of the arrays they come with, and members are asked for below their number.
    unsafe {
        let mut count = 0;
        let result = rdsys::rd_kafka_event_DescribeConsumerGroups_result(event.0);
        let groups = rdsys::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
        let [group] = *array(groups.cast_const(), count) else { return Err(KafkaError::AdminOp(Code::BadMessage)) };
        error_code(rdsys::rd_kafka_ConsumerGroupDescription_error(group)).map_err(KafkaError::AdminOp)?;
        let members = rdsys::rd_kafka_ConsumerGroupDescription_member_count(group);
        let is_static = |member: &usize| {
            let member = rdsys::rd_kafka_ConsumerGroupDescription_member(group, *member);
            let instance = rdsys::rd_kafka_MemberDescription_group_instance_id(member);
            !instance.is_null() && *instance != 0
        };
        let mut count = 0;
        let operations = rdsys::rd_kafka_ConsumerGroupDescription_authorized_operations(group, &raw mut count);
        let state = rdsys::rd_kafka_ConsumerGroupDescription_state(group);
        let protocol = rdsys::rd_kafka_ConsumerGroupDescription_type(group);
        let text = |text| CStr::from_ptr(text).to_string_lossy().into_owned();
        Ok(GroupDescription {
            state: text(rdsys::rd_kafka_consumer_group_state_name(state)),
            protocol: text(rdsys::rd_kafka_consumer_group_type_name(protocol)),
            members,
            static_members: (0..members).filter(is_static).count(),
            allowed: read_operations(operations, count),
        })
    }
}

/// An admin request and where its answer comes.
struct Request {
    client: *mut rdsys::rd_kafka_t,
    options: *mut rdsys::rd_kafka_AdminOptions_t,
    queue: *mut rdsys::rd_kafka_queue_t,
}

impl Request {
    fn new<C: ClientContext>(
        client: &Client<C>,
        operation: rdsys::rd_kafka_admin_op_t,
        wait: Duration,
    ) -> Result<Self, KafkaError> {
        let client = client.native_ptr();
        let wait = milliseconds(wait);
        // SAFETY: the client outlives the request, which is dropped by the caller who borrows it. Options and queue are
        // ours until `drop`; an error is ours until it is destroyed.
        unsafe {
            let options = rdsys::rd_kafka_AdminOptions_new(client, operation);
            let request = Self { client, options, queue: rdsys::rd_kafka_queue_new(client) };
            let code = rdsys::rd_kafka_AdminOptions_set_request_timeout(options, wait, ptr::null_mut(), 0);
            error_code_of(code).map_err(KafkaError::AdminOp)?;
            let error = rdsys::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
            if !error.is_null() {
                let code = rdsys::rd_kafka_error_code(error).into();
                rdsys::rd_kafka_error_destroy(error);
                return Err(KafkaError::AdminOp(code));
            }
            Ok(request)
        }
    }

    fn answer(&self, wait: Duration) -> Result<Event, KafkaError> {
        // The request has a time-out of its own, which comes as an answer: it is what says most.
        let wait = milliseconds(wait + Duration::from_secs(1));
        // SAFETY: the queue is ours; the event is ours, or null.
        let event = Event(unsafe { rdsys::rd_kafka_queue_poll(self.queue, wait) });
        if event.0.is_null() {
            return Err(KafkaError::AdminOp(Code::OperationTimedOut));
        }
        // SAFETY: not null.
        error_code_of(unsafe { rdsys::rd_kafka_event_error(event.0) }).map_err(KafkaError::AdminOp)?;
        Ok(event)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: both are ours and destroyed only here.
        unsafe {
            rdsys::rd_kafka_AdminOptions_destroy(self.options);
            rdsys::rd_kafka_queue_destroy(self.queue);
        }
    }
}

struct Event(*mut rdsys::rd_kafka_event_t);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: ours and destroyed only here; librdkafka takes null.
        unsafe { rdsys::rd_kafka_event_destroy(self.0) };
    }
}

fn c_strings(names: &[&str]) -> Result<Vec<CString>, KafkaError> {
    names.iter().map(|name| CString::new(*name).map_err(KafkaError::from)).collect()
}

fn milliseconds(wait: Duration) -> i32 {
    i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
}

fn error_code_of(code: rdsys::rd_kafka_resp_err_t) -> Result<(), Code> {
    match Code::from(code) {
        Code::NoError => Ok(()),
        code => Err(code),
    }
}

/// # Safety
/// The error is null or alive.
unsafe fn error_code(error: *const rdsys::rd_kafka_error_t) -> Result<(), Code> {
    // SAFETY: see above; librdkafka's code of null is NO_ERROR.
    error_code_of(unsafe { rdsys::rd_kafka_error_code(error) })
}

/// # Safety
/// It is null, or an array of `count` that outlives the slice.
unsafe fn array<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: see above.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// # Safety
/// It is null, or an array of `count`.
unsafe fn read_operations(first: *const rdsys::rd_kafka_AclOperation_t, count: usize) -> Allowed {
    // SAFETY: see above; the enum is an unsigned number in C, and read as such.
    let operations = unsafe { array(first.cast::<u32>(), count) };
    (!first.is_null()).then(|| operations.iter().map(|operation| Operation::from_native(*operation)).collect())
}
