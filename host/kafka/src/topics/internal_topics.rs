//! Internal topics: it creates the missing ones, and refuses those that do not fit.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResourceResult, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::topic_requirements::{self, InternalTopic, Role, TOMBSTONE_RETENTION_MS, TopicFacts};
use super::topology::Topology;
use super::{TOPIC_REQUEST_TIMEOUT, block_on};
use crate::clients::context::PlainContext;
use crate::clients::options::MAX_RECORD_BYTES;
use crate::clients::{ClientOptions, new_client};
use crate::finding::{Finding, Level};
use crate::{Shutdown, ThrottledWarn};

/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// After this time every broker knows the configuration of a topic. If none returns it, this client may not read it.
const CONFIG_PROPAGATION_TIMEOUT: Duration = Duration::from_secs(1);
/// After this time every broker knows a topic that could not be created because it exists. If none shows it, this client may not
/// describe it.
const TOPIC_PROPAGATION_TIMEOUT: Duration = Duration::from_secs(20);

/// A client that creates and describes topics, and deletes records.
pub struct Admin(pub(super) AdminClient<PlainContext>);

/// Internal topics cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// Topics do not fit; at least one finding.
    #[error("{}{}", .0[0], more(.0))]
    Unfit(Vec<Finding>),
    /// A topic is missing and cannot be created.
    #[error("the topic {topic} cannot be created: {source}. Create it yourself: {partitions} partitions, {config}")]
    Create {
        /// The topic.
        topic: String,
        /// Why it cannot be created.
        source: Code,
        /// Its partitions.
        partitions: u32,
        /// Its configuration.
        config: String,
    },
    /// A topic exists, but DESCRIBE on it is missing.
    #[error("the topic {0} exists, but is not shown to this client. Allow it DESCRIBE, READ and WRITE on the topic")]
    Hidden(String),
    /// No broker answers.
    #[error("the brokers at {servers} do not answer: {source}")]
    Brokers {
        /// The brokers.
        servers: String,
        /// The last error.
        source: KafkaError,
    },
    /// A stop was requested before a broker answered.
    #[error("stopped before the brokers could be reached")]
    Stopped,
}

fn more(problems: &[Finding]) -> String {
    match problems.len() {
        1 => String::new(),
        count => format!(" ({} more: `switchboard doctor` lists them all)", count - 1),
    }
}

/// The internal topics of an application.
pub(crate) fn internal_topics(topology: &Topology) -> [InternalTopic<'_>; 4] {
    [
        InternalTopic {
            name: &topology.repartition,
            role: Role::Repartition,
            partitions: topology.shard_count,
            config: &[
                ("cleanup.policy", "delete"),
                ("retention.ms", "-1"),
                ("retention.bytes", "-1"),
                ("message.timestamp.type", "CreateTime"),
                ("max.message.bytes", MAX_RECORD_BYTES),
            ],
        },
        InternalTopic {
            name: &topology.changelog,
            role: Role::Changelog,
            partitions: topology.shard_count,
            config: &[
                ("cleanup.policy", "compact"),
                ("delete.retention.ms", TOMBSTONE_RETENTION_MS),
                ("max.message.bytes", MAX_RECORD_BYTES),
            ],
        },
        InternalTopic {
            name: &topology.dead_letters,
            role: Role::DeadLetters,
            partitions: 1,
            config: &[
                ("cleanup.policy", "delete"),
                ("retention.ms", "2592000000"),
                ("message.timestamp.type", "LogAppendTime"),
                ("max.message.bytes", MAX_RECORD_BYTES),
            ],
        },
        control_topic(topology),
    ]
}

fn control_topic(topology: &Topology) -> InternalTopic<'_> {
    InternalTopic {
        name: &topology.control,
        role: Role::Control,
        partitions: 1,
        config: &[
            ("cleanup.policy", "compact"),
            ("message.timestamp.type", "LogAppendTime"),
            ("max.message.bytes", MAX_RECORD_BYTES),
            // Hosts' statuses matter for seconds. Kafka compacts a segment only when it is no longer written to: by default after
            // a week.
            ("segment.ms", "3600000"),
        ],
    }
}

/// Waits for the brokers, creates the missing internal topics, and checks those that exist. It returns its client for further use:
/// ending a client takes 100 ms.
///
/// # Errors
/// When a topic cannot be created or does not fit, or when a stop is requested.
pub fn prepare(
    options: &ClientOptions,
    topology: &Topology,
    replication_factor: Option<u16>,
    stop: &Shutdown,
) -> Result<Admin, TopicError> {
    let external: Vec<_> =
        topology.consumed.iter().chain(&topology.produced).map(|topic| topic.name.as_str()).collect();
    ensure(options, &internal_topics(topology), &external, replication_factor, stop, Duration::MAX)
}

/// Creates and checks the control topic alone. A command may be the first that needs it, and knows nothing of the application's
/// shards. It waits for brokers for at most `timeout`.
///
/// # Errors
/// When the topic cannot be created or does not fit, or no broker answers in time.
pub fn prepare_control(
    options: &ClientOptions,
    topology: &Topology,
    replication_factor: Option<u16>,
    timeout: Duration,
) -> Result<(), TopicError> {
    let stop = Shutdown::default();
    let admin = ensure(options, &[control_topic(topology)], &[], replication_factor, &stop, timeout)?;
    // Nobody waits for the client's end. If no thread can be started, it ends here.
    let _ = thread::Builder::new().spawn(move || drop(admin));
    Ok(())
}

fn ensure(
    options: &ClientOptions,
    internal: &[InternalTopic<'_>],
    external: &[&str],
    replication_factor: Option<u16>,
    stop: &Shutdown,
    timeout: Duration,
) -> Result<Admin, TopicError> {
    let brokers = |source| TopicError::Brokers { servers: options.bootstrap_servers.clone(), source };
    let config = options.plain();
    let client: BaseConsumer<PlainContext> = new_client(&config).map_err(brokers)?;
    let admin: AdminClient<PlainContext> = new_client(&config).map_err(brokers)?;
    let (mut trouble, mut answered, started) = (ThrottledWarn::default(), None, Instant::now());
    loop {
        let waited = answered.map_or(Duration::ZERO, |first: Instant| first.elapsed());
        match attempt(&client, &admin, internal, external, replication_factor, waited >= CONFIG_PROPAGATION_TIMEOUT) {
            Ok(None) => return Ok(Admin(admin)),
            Ok(Some(missing)) if waited >= TOPIC_PROPAGATION_TIMEOUT => return Err(TopicError::Hidden(missing)),
            Ok(Some(_)) => drop(answered.get_or_insert_with(Instant::now)),
            Err(Failure::Retriable(error)) => {
                let error = brokers(error);
                if started.elapsed() >= timeout {
                    return Err(error);
                }
                trouble.report(error.to_string(), || tracing::warn!(%error, "no broker answers; retrying"));
            }
            Err(Failure::Final(error)) => return Err(error),
        }
        if stop.wait(RETRY_PAUSE) {
            return Err(TopicError::Stopped);
        }
    }
}

/// How an attempt failed.
enum Failure {
    Retriable(KafkaError),
    Final(TopicError),
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        Self::Retriable(error)
    }
}

/// Creates what is missing and checks the rest. Returns a topic that is not usable yet: brokers do not all learn of a created topic
/// at once. Topics are checked whoever created them. With `accept_unread`, topics whose configuration cannot be read pass.
fn attempt(
    client: &BaseConsumer<PlainContext>,
    admin: &AdminClient<PlainContext>,
    internal: &[InternalTopic<'_>],
    external: &[&str],
    replication_factor: Option<u16>,
    accept_unread: bool,
) -> Result<Option<String>, Failure> {
    let metadata = client.fetch_metadata(None, TOPIC_REQUEST_TIMEOUT)?;
    let missing: Vec<_> = internal.iter().filter(|topic| !exists(&metadata, topic.name)).collect();
    if let Some(first) = missing.first() {
        create(admin, &missing, replication_factor)?;
        return Ok(Some(first.name.to_owned()));
    }
    let configs = topic_configs(admin, &internal.iter().map(|topic| topic.name).collect::<Vec<_>>())?;
    if let Some(unread) = internal.iter().find(|topic| !configs.contains_key(topic.name))
        && !accept_unread
    {
        return Ok(Some(unread.name.to_owned()));
    }
    let mut problems = Vec::new();
    for topic in internal {
        for finding in
            topic_requirements::check(topic, &topic_facts(&metadata, topic.name, &configs), replication_factor)
        {
            match finding.level {
                Level::Problem => problems.push(finding),
                Level::Ok | Level::Warning => tracing::warn!("{finding}"),
            }
        }
    }
    if !problems.is_empty() {
        return Err(Failure::Final(TopicError::Unfit(problems)));
    }
    let absent: Vec<_> = external.iter().copied().filter(|name| !exists(&metadata, name)).collect();
    if !absent.is_empty() {
        tracing::warn!(topics = %absent.join(", "), "topics that do not exist yet");
    }
    Ok(None)
}

pub(crate) fn exists(metadata: &Metadata, topic: &str) -> bool {
    metadata.topics().iter().any(|known| known.name() == topic && known.error().is_none())
}

/// Topic -> its configuration.
pub(crate) type TopicConfigs = HashMap<String, HashMap<String, String>>;

/// The configurations of these existing topics, as far as this client may read them.
pub(crate) fn topic_configs(admin: &AdminClient<PlainContext>, topics: &[&str]) -> KafkaResult<TopicConfigs> {
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let options = AdminOptions::new().request_timeout(Some(TOPIC_REQUEST_TIMEOUT));
    let described = block_on(admin.describe_configs(&resources, &options))?;
    let config = |described: ConfigResourceResult| {
        let entries = described.ok()?.entries.into_iter();
        let config: HashMap<_, _> = entries.filter_map(|entry| Some((entry.name, entry.value?))).collect();
        // rdkafka drops the error of a resource and returns no entries.
        (!config.is_empty()).then_some(config)
    };
    let described = topics.iter().zip(described);
    Ok(described.filter_map(|(topic, described)| Some(((*topic).to_owned(), config(described)?))).collect())
}

pub(crate) fn topic_facts(metadata: &Metadata, topic: &str, configs: &TopicConfigs) -> TopicFacts {
    let found = metadata.topics().iter().find(|known| known.name() == topic);
    let mut partitions: Vec<_> = found.map(|topic| topic.partitions().iter().collect()).unwrap_or_default();
    partitions.sort_by_key(|partition| partition.id());
    TopicFacts {
        replicas: partitions.iter().map(|partition| partition.replicas().len()).collect(),
        brokers: metadata.brokers().len(),
        config: configs.get(topic).cloned(),
    }
}

fn create(
    admin: &AdminClient<PlainContext>,
    missing: &[&InternalTopic<'_>],
    replication_factor: Option<u16>,
) -> Result<(), Failure> {
    let new: Vec<_> = missing.iter().map(|topic| new_topic(topic, replication_factor)).collect();
    let failure = |name: &str, code| {
        let topic = missing.iter().find(|topic| topic.name == name);
        TopicError::Create {
            topic: name.to_owned(),
            source: code,
            partitions: topic.map_or(1, |topic| topic.partitions),
            config: topic.map(|topic| config_text(topic)).unwrap_or_default(),
        }
    };
    let options =
        AdminOptions::new().request_timeout(Some(TOPIC_REQUEST_TIMEOUT)).operation_timeout(Some(TOPIC_REQUEST_TIMEOUT));
    for result in block_on(admin.create_topics(&new, &options))? {
        match result {
            Ok(topic) => tracing::info!(%topic, "topic created"),
            // Another process was faster. It has the same settings, or the check refuses one of the two.
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((
                _,
                code @ (Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::NotController
                | Code::BrokerTransportFailure
                | Code::BrokerNotAvailable),
            )) => return Err(KafkaError::AdminOp(code).into()),
            Err((topic, code)) => return Err(Failure::Final(failure(&topic, code))),
        }
    }
    Ok(())
}

/// A request to create a topic.
pub(crate) fn new_topic<'a>(topic: &'a InternalTopic<'_>, replication_factor: Option<u16>) -> NewTopic<'a> {
    let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
    // -1: the brokers' default.
    let replicas = replication_factor.map_or(-1, i32::from);
    let new = NewTopic::new(topic.name, partitions, TopicReplication::Fixed(replicas));
    topic.config.iter().fold(new, |new, (name, value)| new.set(name, value))
}

/// A topic's configuration as `name=value name=value`.
pub(crate) fn config_text(topic: &InternalTopic<'_>) -> String {
    topic.config.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
