//! Internal topics: it creates the missing ones, and refuses those that do not fit.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResourceResult, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::shard_count::{ShardCount, ShardOrigin};
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
pub(crate) fn internal_topics<'a>(topology: &'a Topology, shards: Option<&'a ShardCount>) -> [InternalTopic<'a>; 4] {
    [
        InternalTopic {
            name: &topology.repartition,
            role: Role::Repartition,
            shards,
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
            shards,
            config: &[
                ("cleanup.policy", "compact"),
                ("delete.retention.ms", TOMBSTONE_RETENTION_MS),
                ("max.message.bytes", MAX_RECORD_BYTES),
            ],
        },
        InternalTopic {
            name: &topology.dead_letters,
            role: Role::DeadLetters,
            shards: None,
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
        shards: None,
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

/// Internal topics that may be used as they are.
pub struct PreparedTopics {
    /// The client, for further use: ending a client takes 100 ms.
    pub admin: Admin,
    /// The number of shards; `None`: the repartition topic does not exist, and nothing decides yet how many partitions it gets.
    pub shards: Option<ShardCount>,
}

/// Waits for the brokers, creates the missing internal topics, and checks those that exist. The topics of the shards are created
/// only if `shards` is configured. Otherwise [`Admin::prepare_shards`] does that, once consumed topics are known.
///
/// # Errors
/// When a topic cannot be created or does not fit, or when a stop is requested.
pub fn prepare(
    options: &ClientOptions,
    topology: &Topology,
    settings: TopicSettings,
    stop: &Shutdown,
) -> Result<PreparedTopics, TopicError> {
    let admin = Admin::new(options)?;
    let external = topology.consumed.iter().chain(&topology.produced).map(|topic| topic.name.as_str()).collect();
    // What the topology consumes is not all that is consumed, and decides nothing yet: the routes are not known.
    let mut internal = topology.clone();
    internal.consumed.clear();
    let wanted = Wanted { topology: &internal, scope: Scope::All, external, settings };
    let shards = ensure(&admin, options, &wanted, stop, Duration::MAX)?;
    Ok(PreparedTopics { admin, shards })
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
    let admin = Admin::new(options)?;
    let settings = TopicSettings { shards: None, replication_factor };
    let wanted = Wanted { topology, scope: Scope::Control, external: Vec::new(), settings };
    ensure(&admin, options, &wanted, &Shutdown::default(), timeout)?;
    // Nobody waits for the client's end. If no thread can be started, it ends here.
    let _ = thread::Builder::new().spawn(move || drop(admin));
    Ok(())
}

impl Admin {
    fn new(options: &ClientOptions) -> Result<Self, TopicError> {
        new_client(&options.plain()).map(Self).map_err(|source| brokers(options, source))
    }

    /// Creates the repartition topic and the changelog, if they are missing, and checks them. By default they get as many
    /// partitions as the largest consumed topic of the topology. `None`: no consumed topic exists yet, so nothing is created.
    ///
    /// # Errors
    /// When a topic cannot be created or does not fit, or when a stop is requested.
    pub fn prepare_shards(
        &self,
        options: &ClientOptions,
        topology: &Topology,
        settings: TopicSettings,
        stop: &Shutdown,
    ) -> Result<Option<ShardCount>, TopicError> {
        let wanted = Wanted { topology, scope: Scope::Shards, external: Vec::new(), settings };
        ensure(self, options, &wanted, stop, Duration::MAX)
    }

    fn metadata(&self) -> KafkaResult<Metadata> {
        self.0.inner().fetch_metadata(None, TOPIC_REQUEST_TIMEOUT)
    }
}

/// The settings of internal topics.
#[derive(Debug, Clone, Copy)]
pub struct TopicSettings {
    /// The configured number of shards.
    pub shards: Option<u32>,
    /// The number of replicas of topics that are created; `None`: the brokers' default.
    pub replication_factor: Option<u16>,
}

/// Which internal topics are created and checked.
#[derive(Clone, Copy)]
enum Scope {
    All,
    Control,
    Shards,
}

struct Wanted<'a> {
    topology: &'a Topology,
    scope: Scope,
    /// Topics that need not exist: their absence is a warning.
    external: Vec<&'a str>,
    settings: TopicSettings,
}

impl Wanted<'_> {
    /// The topics that are wanted, given what is known of the number of shards.
    fn topics<'a>(&'a self, shards: Option<&'a ShardCount>) -> Vec<InternalTopic<'a>> {
        let mut topics = match self.scope {
            Scope::Control => vec![control_topic(self.topology)],
            Scope::All | Scope::Shards => Vec::from(internal_topics(self.topology, shards)),
        };
        topics.retain(|topic| {
            let is_of_shards = matches!(topic.role, Role::Repartition | Role::Changelog);
            topic.partitions().is_some() && (is_of_shards || !matches!(self.scope, Scope::Shards))
        });
        topics
    }
}

fn brokers(options: &ClientOptions, source: KafkaError) -> TopicError {
    TopicError::Brokers { servers: options.bootstrap_servers.clone(), source }
}

/// Attempts until all wanted topics are there and fit.
fn ensure(
    admin: &Admin,
    options: &ClientOptions,
    wanted: &Wanted<'_>,
    stop: &Shutdown,
    timeout: Duration,
) -> Result<Option<ShardCount>, TopicError> {
    let (mut trouble, mut answered, started) = (ThrottledWarn::default(), None, Instant::now());
    loop {
        let waited = answered.map_or(Duration::ZERO, |first: Instant| first.elapsed());
        match attempt(admin, wanted, waited >= CONFIG_PROPAGATION_TIMEOUT) {
            Ok(Attempt::Done(shards)) => return Ok(shards),
            Ok(Attempt::NotYet(missing)) if waited >= TOPIC_PROPAGATION_TIMEOUT => {
                return Err(TopicError::Hidden(missing));
            }
            Ok(Attempt::NotYet(_)) => drop(answered.get_or_insert_with(Instant::now)),
            Err(Failure::Retriable(error)) => {
                let error = brokers(options, error);
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

/// How an attempt ended.
enum Attempt {
    /// All wanted topics are there and fit. The number of shards, if something decides it.
    Done(Option<ShardCount>),
    /// This topic is not usable yet: brokers do not all learn of a created topic at once.
    NotYet(String),
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

/// Creates what is missing and checks the rest. Topics are checked whoever created them. With `accept_unread`, topics whose
/// configuration cannot be read pass.
fn attempt(admin: &Admin, wanted: &Wanted<'_>, accept_unread: bool) -> Result<Attempt, Failure> {
    let metadata = admin.metadata()?;
    let TopicSettings { shards, replication_factor } = wanted.settings;
    let shards = ShardCount::find(wanted.topology, shards, |topic| count_partitions(&metadata, topic));
    let internal = wanted.topics(shards.as_ref());
    let missing: Vec<_> = internal.iter().filter(|topic| !exists(&metadata, topic.name)).collect();
    if let Some(first) = missing.first() {
        create(&admin.0, &creatable(&missing), replication_factor)?;
        return Ok(Attempt::NotYet(first.name.to_owned()));
    }
    let configs = topic_configs(&admin.0, &internal.iter().map(|topic| topic.name).collect::<Vec<_>>())?;
    if let Some(unread) = internal.iter().find(|topic| !configs.contains_key(topic.name))
        && !accept_unread
    {
        return Ok(Attempt::NotYet(unread.name.to_owned()));
    }
    let mut problems = Vec::new();
    for topic in &internal {
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
    let absent: Vec<_> = wanted.external.iter().copied().filter(|name| !exists(&metadata, name)).collect();
    if !absent.is_empty() {
        tracing::warn!(topics = %absent.join(", "), "topics that do not exist yet");
    }
    Ok(Attempt::Done(shards))
}

/// The missing topics that may be created now. Hosts that start at once may count different source topics. The first one creates
/// the repartition topic, whose number of partitions then holds for all. So the changelog is created after it.
fn creatable<'a>(missing: &[&'a InternalTopic<'a>]) -> Vec<&'a InternalTopic<'a>> {
    let is_chosen =
        |topic: &InternalTopic<'_>| topic.shards.is_some_and(|shards| matches!(shards.origin, ShardOrigin::Source(_)));
    let is_early = |topic: &InternalTopic<'_>| topic.role == Role::Changelog && is_chosen(topic);
    missing.iter().copied().filter(|topic| !is_early(topic)).collect()
}

/// The number of partitions of a topic; `None`: it does not exist.
pub(crate) fn count_partitions(metadata: &Metadata, topic: &str) -> Option<u32> {
    let known = metadata.topics().iter().find(|known| known.name() == topic && known.error().is_none())?;
    u32::try_from(known.partitions().len()).ok().filter(|count| *count > 0)
}

pub(crate) fn exists(metadata: &Metadata, topic: &str) -> bool {
    metadata.topics().iter().any(|known| known.name() == topic && known.error().is_none())
}

/// Topic -> its configuration.
pub(crate) type TopicConfigs = HashMap<String, HashMap<String, String>>;

/// The configurations of these existing topics, as far as this client may read them.
pub(crate) fn topic_configs(admin: &AdminClient<PlainContext>, topics: &[&str]) -> KafkaResult<TopicConfigs> {
    // librdkafka refuses a request about nothing.
    if topics.is_empty() {
        return Ok(TopicConfigs::new());
    }
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
            partitions: topic.and_then(|topic| topic.partitions()).unwrap_or(1),
            config: topic.map(|topic| config_text(topic)).unwrap_or_default(),
        }
    };
    let options =
        AdminOptions::new().request_timeout(Some(TOPIC_REQUEST_TIMEOUT)).operation_timeout(Some(TOPIC_REQUEST_TIMEOUT));
    for result in block_on(admin.create_topics(&new, &options))? {
        match result {
            Ok(topic) => {
                match missing.iter().find(|created| created.name == topic).and_then(|created| created.shards) {
                    Some(shards) => {
                        tracing::info!(%topic, partitions = shards.count, from = %shards.origin, "topic created");
                    }
                    None => tracing::info!(%topic, "topic created"),
                }
            }
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
    let partitions = topic.partitions().map_or(1, |partitions| i32::try_from(partitions).unwrap_or(i32::MAX));
    // -1: the brokers' default.
    let replicas = replication_factor.map_or(-1, i32::from);
    let new = NewTopic::new(topic.name, partitions, TopicReplication::Fixed(replicas));
    topic.config.iter().fold(new, |new, (name, value)| new.set(name, value))
}

/// A topic's configuration as `name=value name=value`.
pub(crate) fn config_text(topic: &InternalTopic<'_>) -> String {
    topic.config.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(scope: Scope, shards: Option<&ShardCount>) -> Vec<String> {
        let topology = Topology::new("app", [].into(), |_| None);
        let settings = TopicSettings { shards: None, replication_factor: None };
        let wanted = Wanted { topology: &topology, scope, external: Vec::new(), settings };
        let name = |topic: &InternalTopic<'_>| topic.name.trim_start_matches("app-switchboard-").to_owned();
        wanted.topics(shards).iter().map(name).collect()
    }

    #[test]
    fn topics_of_shards_are_wanted_once_their_number_is_known() {
        let shards = ShardCount { count: 4, origin: ShardOrigin::Setting };
        assert_eq!(wanted(Scope::All, None), ["dead-letters", "control"]);
        assert_eq!(wanted(Scope::All, Some(&shards)), ["repartition", "changelog", "dead-letters", "control"]);
        assert_eq!(wanted(Scope::Shards, None), [""; 0]);
        assert_eq!(wanted(Scope::Shards, Some(&shards)), ["repartition", "changelog"]);
        assert_eq!(wanted(Scope::Control, Some(&shards)), ["control"]);
    }

    #[test]
    fn the_changelog_is_created_after_a_repartition_topic_whose_partitions_were_chosen() {
        let topology = Topology::new("app", [].into(), |_| None);
        let created = |origin| {
            let shards = ShardCount { count: 4, origin };
            let topics = internal_topics(&topology, Some(&shards));
            let missing: Vec<_> = topics.iter().collect();
            creatable(&missing).iter().map(|topic| topic.role).collect::<Vec<_>>()
        };
        let others = [Role::DeadLetters, Role::Control];
        assert_eq!(created(ShardOrigin::Source("in".into())), [&[Role::Repartition][..], &others].concat());
        let all = [&[Role::Repartition, Role::Changelog][..], &others].concat();
        assert_eq!(created(ShardOrigin::Setting), all);
        assert_eq!(created(ShardOrigin::Existing("app-switchboard-changelog".into())), all);
    }
}
