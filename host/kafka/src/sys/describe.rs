//! Admin requests that rdkafka does not have: topic ids, and descriptions of topics and groups with the operations that this client
//! is allowed.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, NulError, c_char};
use std::ptr;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka_sys as rdsys;
use rdsys::rd_kafka_admin_op_t as AdminOperation;

use super::milliseconds;

/// An operation of an ACL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Operation {
    Read,
    Write,
    Delete,
    Describe,
    DescribeConfigs,
    /// An operation that Switchboard does not need.
    Other,
}

impl Operation {
    /// The name that Kafka's tools use.
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

    /// From Kafka's number. Newer brokers have more numbers than `rd_kafka_AclOperation_t`.
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

/// The operations that this client is allowed; `None` if the broker does not say.
pub(crate) type Allowed = Option<Vec<Operation>>;

/// A consumer group.
#[derive(Debug)]
pub(crate) struct GroupDescription {
    /// librdkafka's name: Stable, Empty, Dead (there is no such group), ...
    pub(crate) state: String,
    /// Classic or Consumer (KIP-848).
    pub(crate) protocol: String,
    pub(crate) members: Vec<MemberDescription>,
    pub(crate) allowed: Allowed,
}

impl GroupDescription {
    /// Whether the group rebalances by the classic protocol: the coordinator does not say then what its members are assigned.
    pub(crate) fn hides_assignments(&self) -> bool {
        matches!(self.state.as_str(), "PreparingRebalance" | "CompletingRebalance")
    }
}

/// A member of a consumer group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MemberDescription {
    pub(crate) client_id: String,
    /// The address that it connects from.
    pub(crate) host: String,
    pub(crate) is_static: bool,
    /// The topics of its partitions. Empty while the group rebalances by the classic protocol.
    pub(crate) topics: BTreeSet<String>,
}

/// An admin request failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct AdminRequestError {
    /// librdkafka's code.
    pub code: Code,
    /// librdkafka's text.
    pub text: String,
}

impl AdminRequestError {
    /// The answer does not contain what was requested.
    fn unexpected_answer() -> Self {
        let code = Code::BadMessage;
        Self { code, text: format!("the answer does not fit the request ({code})") }
    }
}

impl From<Code> for AdminRequestError {
    fn from(code: Code) -> Self {
        Self { code, text: code.to_string() }
    }
}

impl From<NulError> for AdminRequestError {
    fn from(error: NulError) -> Self {
        Self { code: Code::InvalidArgument, text: error.to_string() }
    }
}

/// Kafka's id of a topic (KIP-516). A topic that is deleted and created again has another id. `None`: the broker knows no topic ids.
pub(crate) fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<u128>, AdminRequestError> {
    let request = Request::new(client, AdminOperation::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout)?;
    let descriptions = request.describe_topics(&[topic])?;
    let [description] = *descriptions.topics() else { return Err(AdminRequestError::unexpected_answer()) };
    // SAFETY: the description lives as long as `descriptions`; its error is null or alive.
    let result = unsafe { error_code(rdsys::rd_kafka_TopicDescription_error(description)) };
    result?;
    // SAFETY: the description lives as long as `descriptions`.
    let id = unsafe { rdsys::rd_kafka_TopicDescription_topic_id(description) };
    // SAFETY: the id belongs to the description.
    let most = unsafe { rdsys::rd_kafka_Uuid_most_significant_bits(id) }.cast_unsigned();
    // SAFETY: as above.
    let least = unsafe { rdsys::rd_kafka_Uuid_least_significant_bits(id) }.cast_unsigned();
    let id = u128::from(most) << 64 | u128::from(least);
    Ok((id != 0).then_some(id))
}

/// What this client is allowed on each of the topics, or why the broker does not say. A topic that this client may not describe is
/// TopicAuthorizationFailed, whether it exists or not.
pub(crate) fn allowed_on_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> Result<Vec<Result<Allowed, Code>>, AdminRequestError> {
    let request = Request::new(client, AdminOperation::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout)?;
    request.include_allowed_operations()?;
    let descriptions = request.describe_topics(topics)?;
    let allowed = |topic: &*const rdsys::rd_kafka_TopicDescription_t| {
        // SAFETY: the description lives as long as `descriptions`; its error is null or alive.
        unsafe { error_code(rdsys::rd_kafka_TopicDescription_error(*topic)) }?;
        let mut count = 0;
        // SAFETY: the description lives as long as `descriptions`; the out pointer is valid for writes.
        let operations = unsafe { rdsys::rd_kafka_TopicDescription_authorized_operations(*topic, &raw mut count) };
        // SAFETY: null, or an array of `count` that belongs to the description.
        Ok(unsafe { read_operations(operations, count) })
    };
    Ok(descriptions.topics().iter().map(allowed).collect())
}

/// Describes a consumer group.
///
/// # Errors
/// When there is no answer, or this client may not describe the group.
pub(crate) fn describe_group<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> Result<GroupDescription, AdminRequestError> {
    let request = Request::new(client, AdminOperation::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, timeout)?;
    request.include_allowed_operations()?;
    let answer = request.describe_group(group)?;
    let group = answer.group()?;
    // SAFETY: the group lives as long as `answer`; its error is null or alive.
    let result = unsafe { error_code(rdsys::rd_kafka_ConsumerGroupDescription_error(group)) };
    result?;
    // SAFETY: the group lives as long as `answer`.
    let members = unsafe { rdsys::rd_kafka_ConsumerGroupDescription_member_count(group) };
    // SAFETY: the group lives as long as `answer`, and the index is below the number of members.
    let members = (0..members).map(|index| unsafe { read_member(group, index) }).collect();
    let mut count = 0;
    // SAFETY: the group lives as long as `answer`; the out pointer is valid for writes.
    let operations = unsafe { rdsys::rd_kafka_ConsumerGroupDescription_authorized_operations(group, &raw mut count) };
    // SAFETY: null, or an array of `count` that belongs to the group.
    let allowed = unsafe { read_operations(operations, count) };
    // SAFETY: the group lives as long as `answer`.
    let state = unsafe { rdsys::rd_kafka_ConsumerGroupDescription_state(group) };
    // SAFETY: the group lives as long as `answer`.
    let protocol = unsafe { rdsys::rd_kafka_ConsumerGroupDescription_type(group) };
    // SAFETY: librdkafka's names of states are static C strings.
    let state = unsafe { CStr::from_ptr(rdsys::rd_kafka_consumer_group_state_name(state)) };
    // SAFETY: librdkafka's names of types are static C strings.
    let protocol = unsafe { CStr::from_ptr(rdsys::rd_kafka_consumer_group_type_name(protocol)) };
    Ok(GroupDescription {
        state: state.to_string_lossy().into_owned(),
        protocol: protocol.to_string_lossy().into_owned(),
        members,
        allowed,
    })
}

/// # Safety
/// The group is alive, and the index is below the number of its members.
unsafe fn read_member(group: *const rdsys::rd_kafka_ConsumerGroupDescription_t, index: usize) -> MemberDescription {
    // SAFETY: as required of the caller.
    let member = unsafe { rdsys::rd_kafka_ConsumerGroupDescription_member(group, index) };
    // SAFETY: the member belongs to the group; the text is null or a C string that belongs to the member, and is copied.
    let client_id = unsafe { text_of(rdsys::rd_kafka_MemberDescription_client_id(member)) };
    // SAFETY: as above.
    let host = unsafe { text_of(rdsys::rd_kafka_MemberDescription_host(member)) };
    // SAFETY: as above.
    let instance = unsafe { text_of(rdsys::rd_kafka_MemberDescription_group_instance_id(member)) };
    // SAFETY: the member belongs to the group, and its assignment to the member.
    let assignment = unsafe { rdsys::rd_kafka_MemberDescription_assignment(member) };
    MemberDescription {
        client_id: client_id.unwrap_or_default(),
        host: host.unwrap_or_default(),
        is_static: instance.is_some_and(|instance| !instance.is_empty()),
        // SAFETY: the assignment is null or belongs to the member.
        topics: unsafe { read_topics(assignment) },
    }
}

/// The topics of an assignment.
///
/// # Safety
/// The assignment is null or alive.
unsafe fn read_topics(assignment: *const rdsys::rd_kafka_MemberAssignment_t) -> BTreeSet<String> {
    if assignment.is_null() {
        return BTreeSet::new();
    }
    // SAFETY: the assignment is alive; the list belongs to it, or is null.
    let list = unsafe { rdsys::rd_kafka_MemberAssignment_partitions(assignment).as_ref() };
    let Some(list) = list else { return BTreeSet::new() };
    // SAFETY: an array of `cnt` elements that belongs to the list.
    let partitions = unsafe { array(list.elems.cast_const(), usize::try_from(list.cnt).unwrap_or(0)) };
    // SAFETY: the topic of an element is a C string that belongs to the list, and is copied.
    partitions.iter().filter_map(|partition| unsafe { text_of(partition.topic) }).collect()
}

/// A pointer of librdkafka, and the function that destroys it.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: not null, ours, and destroyed only here, by the function that belongs to it.
            unsafe { (self.1)(self.0) };
        }
    }
}

/// An admin request and the queue for its answer.
struct Request {
    client: *mut rdsys::rd_kafka_t,
    options: Owned<rdsys::rd_kafka_AdminOptions_t>,
    queue: Owned<rdsys::rd_kafka_queue_t>,
    timeout: Duration,
}

impl Request {
    /// A request of this kind. The caller borrows the client for longer than the request lives.
    fn new<C: ClientContext>(
        client: &Client<C>,
        operation: AdminOperation,
        timeout: Duration,
    ) -> Result<Self, AdminRequestError> {
        let client = client.native_ptr();
        // SAFETY: the client outlives the call; the options are ours.
        let options = unsafe { rdsys::rd_kafka_AdminOptions_new(client, operation) };
        let options = Owned(options, rdsys::rd_kafka_AdminOptions_destroy);
        // SAFETY: the client outlives the call; the queue is ours.
        let queue = unsafe { rdsys::rd_kafka_queue_new(client) };
        let queue = Owned(queue, rdsys::rd_kafka_queue_destroy);
        // SAFETY: the options are alive. Null with size 0 means that no error text is wanted.
        let code = unsafe {
            rdsys::rd_kafka_AdminOptions_set_request_timeout(options.0, milliseconds(timeout), ptr::null_mut(), 0)
        };
        check_code(code)?;
        Ok(Self { client, options, queue, timeout })
    }

    /// Asks also for the operations that this client is allowed.
    fn include_allowed_operations(&self) -> Result<(), AdminRequestError> {
        // SAFETY: the options are alive; an error is ours, or null.
        let error = unsafe { rdsys::rd_kafka_AdminOptions_set_include_authorized_operations(self.options.0, 1) };
        let error = Owned(error, rdsys::rd_kafka_error_destroy);
        // SAFETY: the error is null or alive.
        Ok(unsafe { error_code(error.0) }?)
    }

    fn describe_topics(&self, topics: &[&str]) -> Result<Answer, AdminRequestError> {
        let names = c_strings(topics)?;
        let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: the names are C strings that outlive the call, which copies them; the collection is ours.
        let topics = unsafe { rdsys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()) };
        let topics = Owned(topics, rdsys::rd_kafka_TopicCollection_destroy);
        // SAFETY: all four outlive the call, which copies collection and options.
        unsafe { rdsys::rd_kafka_DescribeTopics(self.client, topics.0, self.options.0, self.queue.0) };
        self.answer()
    }

    fn describe_group(&self, group: &str) -> Result<Answer, AdminRequestError> {
        let names = c_strings(&[group])?;
        let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let count = names.len();
        // SAFETY: the names are C strings that outlive the call, which copies them and the options; client and queue are alive.
        unsafe {
            rdsys::rd_kafka_DescribeConsumerGroups(
                self.client,
                names.as_mut_ptr(),
                count,
                self.options.0,
                self.queue.0,
            );
        }
        self.answer()
    }

    fn answer(&self) -> Result<Answer, AdminRequestError> {
        // The request has a time-out of its own, which arrives as an answer and says most. So the poll waits longer.
        let timeout = milliseconds(self.timeout + Duration::from_secs(1));
        // SAFETY: the queue is alive; the event is ours, or null.
        let event = unsafe { rdsys::rd_kafka_queue_poll(self.queue.0, timeout) };
        let event = Owned(event, rdsys::rd_kafka_event_destroy);
        if event.0.is_null() {
            return Err(Code::OperationTimedOut.into());
        }
        // SAFETY: the event is alive.
        if let Err(code) = check_code(unsafe { rdsys::rd_kafka_event_error(event.0) }) {
            // SAFETY: the event is alive. The text is null or a C string that belongs to the event, and is copied.
            let text = unsafe { text_of(rdsys::rd_kafka_event_error_string(event.0)) };
            return Err(text.map_or_else(|| code.into(), |text| AdminRequestError { code, text }));
        }
        Ok(Answer { event })
    }
}

/// The answer to a request. It owns everything that is read from it.
struct Answer {
    event: Owned<rdsys::rd_kafka_event_t>,
}

impl Answer {
    /// The descriptions of topics. Empty if this answers another request.
    fn topics(&self) -> &[*const rdsys::rd_kafka_TopicDescription_t] {
        // SAFETY: the event is alive. The result is null if the event has another type.
        let result = unsafe { rdsys::rd_kafka_event_DescribeTopics_result(self.event.0) };
        if result.is_null() {
            return &[];
        }
        let mut count = 0;
        // SAFETY: the result belongs to the event; the out pointer is valid for writes.
        let topics = unsafe { rdsys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count) };
        // SAFETY: an array of `count` that belongs to the event, which lives as long as `self`.
        unsafe { array(topics.cast_const(), count) }
    }

    /// The description of the only group of the request.
    fn group(&self) -> Result<*const rdsys::rd_kafka_ConsumerGroupDescription_t, AdminRequestError> {
        // SAFETY: the event is alive. The result is null if the event has another type.
        let result = unsafe { rdsys::rd_kafka_event_DescribeConsumerGroups_result(self.event.0) };
        if result.is_null() {
            return Err(AdminRequestError::unexpected_answer());
        }
        let mut count = 0;
        // SAFETY: the result belongs to the event; the out pointer is valid for writes.
        let groups = unsafe { rdsys::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count) };
        // SAFETY: an array of `count` that belongs to the event, which lives as long as `self`.
        match *unsafe { array(groups.cast_const(), count) } {
            [group] => Ok(group),
            _ => Err(AdminRequestError::unexpected_answer()),
        }
    }
}

fn c_strings(names: &[&str]) -> Result<Vec<CString>, NulError> {
    names.iter().map(|name| CString::new(*name)).collect()
}

fn check_code(code: rdsys::rd_kafka_resp_err_t) -> Result<(), Code> {
    match Code::from(code) {
        Code::NoError => Ok(()),
        code => Err(code),
    }
}

/// # Safety
/// The error is null or alive.
unsafe fn error_code(error: *const rdsys::rd_kafka_error_t) -> Result<(), Code> {
    // SAFETY: as required of the caller. librdkafka's code of null is NO_ERROR.
    check_code(unsafe { rdsys::rd_kafka_error_code(error) })
}

/// # Safety
/// The pointer is null, or the start of an array of `count` elements that outlives the slice.
unsafe fn array<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: as required of the caller.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// # Safety
/// The pointer is null, or the start of an array of `count` elements.
unsafe fn read_operations(first: *const rdsys::rd_kafka_AclOperation_t, count: usize) -> Allowed {
    // SAFETY: as required of the caller. The enum is an unsigned number in C, and is read as one.
    let operations = unsafe { array(first.cast::<u32>(), count) };
    (!first.is_null()).then(|| operations.iter().map(|operation| Operation::from_native(*operation)).collect())
}

/// # Safety
/// The pointer is null or a C string.
unsafe fn text_of(text: *const c_char) -> Option<String> {
    // SAFETY: as required of the caller.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::mocking::MockCluster;

    use super::*;

    /// The mock cluster has no controller, so it answers none of these requests.
    #[test]
    fn a_request_without_an_answer_ends_with_its_time_out() {
        let cluster = MockCluster::new(1).unwrap();
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        let (client, timeout) = (consumer.client(), Duration::from_millis(100));
        let error = topic_id(client, "one", timeout).unwrap_err();
        assert_eq!(error.code, Code::OperationTimedOut, "{error}");
        let error = allowed_on_topics(client, &["one", "other"], timeout).unwrap_err();
        assert_eq!(error.code, Code::OperationTimedOut, "{error}");
        describe_group(client, "group", timeout).unwrap_err();
    }
}
