//! Internal topics: created where they are missing, refused where they do not fit.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResourceResult, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::client::{PlainContext, ThrottledWarn};
use super::finding::{Finding, Level};
use super::properties::{ClientOptions, MAX_RECORD_BYTES};
use super::topic_requirements::{self, Facts, Internal, Role, TOMBSTONES_KEPT_MS};
use super::topology::Topology;
use crate::Shutdown;

/// One request; a stop waits for its end.
const REQUEST: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// A configuration is told by all brokers after this time, or not to us.
const UNREADABLE: Duration = Duration::from_secs(1);
/// A topic that cannot be created because it exists is shown by all brokers after this time, or not to us.
const HIDDEN: Duration = Duration::from_secs(20);

/// Creates topics, describes them, deletes records.
pub struct Admin(pub(super) AdminClient<PlainContext>);

/// Internal topics that cannot be used, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error("{}{}", .0[0], more(.0))]
    Unfit(Vec<Finding>),
    #[error("the topic {topic} cannot be created: {error}. Create it yourself: {partitions} partitions, {config}")]
    Create { topic: String, error: String, partitions: u32, config: String },
    #[error("the topic {0} exists, but is not shown to this client. Allow it DESCRIBE, READ and WRITE on the topic")]
    Hidden(String),
    #[error("the brokers at {servers} do not answer: {error}")]
    Brokers { servers: String, error: KafkaError },
    #[error("stopped before the brokers could be reached")]
    Stopped,
}

fn more(problems: &[Finding]) -> String {
    match problems.len() {
        1 => String::new(),
        count => format!(" ({} more: `switchboard doctor` tells them all)", count - 1),
    }
}

/// What internal topics are like.
pub(super) fn internal(topology: &Topology) -> [Internal<'_>; 4] {
    [
        Internal {
            name: &topology.shards,
            role: Role::Shards,
            partitions: topology.shard_count,
            config: &[
                ("cleanup.policy", "delete"),
                ("retention.ms", "-1"),
                ("retention.bytes", "-1"),
                ("message.timestamp.type", "CreateTime"),
                ("max.message.bytes", MAX_RECORD_BYTES),
            ],
        },
        Internal {
            name: &topology.changelog,
            role: Role::Changelog,
            partitions: topology.shard_count,
            config: &[
                ("cleanup.policy", "compact"),
                ("delete.retention.ms", TOMBSTONES_KEPT_MS),
                ("max.message.bytes", MAX_RECORD_BYTES),
            ],
        },
        Internal {
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
        control(topology),
    ]
}

fn control(topology: &Topology) -> Internal<'_> {
    Internal {
        name: &topology.control,
        role: Role::Control,
        partitions: 1,
        config: &[
            ("cleanup.policy", "compact"),
            ("message.timestamp.type", "LogAppendTime"),
            ("max.message.bytes", MAX_RECORD_BYTES),
            // Hosts' statuses are of interest for seconds, and only a segment that is not written to any more is compacted:
            // by default after a week.
            ("segment.ms", "3600000"),
        ],
    }
}

/// Waits for the brokers; then creates the internal topics that are missing and checks those that exist. Gives the client
/// that did it, for whoever has further use for one: to end it takes 100 ms.
///
/// # Errors
/// When a topic cannot be created or does not fit, or when a stop is asked for.
pub fn prepare(
    options: &ClientOptions,
    topology: &Topology,
    replication_factor: Option<u16>,
    stop: &Shutdown,
) -> Result<Admin, TopicError> {
    let external: Vec<_> = topology.sources.iter().chain(&topology.outputs).map(|topic| topic.name.as_str()).collect();
    ensure(options, &internal(topology), &external, replication_factor, stop, Duration::MAX)
}

/// The same for the control topic alone, which a command may be the first to need: it knows nothing of the application's
/// shards. No broker is waited for longer than `patience`.
///
/// # Errors
/// When it cannot be created or does not fit, or no broker answers in time.
pub fn prepare_control(
    options: &ClientOptions,
    topology: &Topology,
    replication_factor: Option<u16>,
    patience: Duration,
) -> Result<(), TopicError> {
    let stop = Shutdown::default();
    let admin = ensure(options, &[control(topology)], &[], replication_factor, &stop, patience)?;
    // Nobody waits for its end. Where there is no thread for it, it ends here.
    let _ = thread::Builder::new().spawn(move || drop(admin));
    Ok(())
}

fn ensure(
    options: &ClientOptions,
    internal: &[Internal<'_>],
    external: &[&str],
    replication_factor: Option<u16>,
    stop: &Shutdown,
    patience: Duration,
) -> Result<Admin, TopicError> {
    let brokers = |error| TopicError::Brokers { servers: options.bootstrap_servers.clone(), error };
    let config = options.plain();
    let client: BaseConsumer<PlainContext> =
        BaseConsumer::from_config_and_context(&config, PlainContext::new(&config)).map_err(brokers)?;
    let admin: AdminClient<PlainContext> =
        AdminClient::from_config_and_context(&config, PlainContext::new(&config)).map_err(brokers)?;
    let (mut nag, mut answered, started) = (ThrottledWarn::default(), None, Instant::now());
    loop {
        let told = answered.map_or(Duration::ZERO, |first: Instant| first.elapsed());
        match attempt(&client, &admin, internal, external, replication_factor, told >= UNREADABLE) {
            Ok(None) => return Ok(Admin(admin)),
            Ok(Some(missing)) if told >= HIDDEN => return Err(TopicError::Hidden(missing)),
            Ok(Some(_)) => drop(answered.get_or_insert_with(Instant::now)),
            Err(Failure::NotNow(error)) => {
                let error = brokers(error);
                if started.elapsed() >= patience {
                    return Err(error);
                }
                nag.warn(format!("{error}; trying on until one does"));
            }
            Err(Failure::Never(error)) => return Err(error),
        }
        if stop.wait(PAUSE) {
            return Err(TopicError::Stopped);
        }
    }
}

enum Failure {
    NotNow(KafkaError),
    Never(TopicError),
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        Self::NotNow(error)
    }
}

/// Gives a topic that is not there yet, else nothing: created ones are known to one broker before they are known to all.
/// Whoever created them, they are checked, and those whose configuration is not told `unread` too.
fn attempt(
    client: &BaseConsumer<PlainContext>,
    admin: &AdminClient<PlainContext>,
    internal: &[Internal<'_>],
    external: &[&str],
    replication_factor: Option<u16>,
    unread: bool,
) -> Result<Option<String>, Failure> {
    let metadata = client.fetch_metadata(None, REQUEST)?;
    let missing: Vec<_> = internal.iter().filter(|topic| !exists(&metadata, topic.name)).collect();
    if let Some(first) = missing.first() {
        create(admin, &missing, replication_factor)?;
        return Ok(Some(first.name.to_owned()));
    }
    let configs = configs(admin, &internal.iter().map(|topic| topic.name).collect::<Vec<_>>())?;
    if let Some(untold) = internal.iter().find(|topic| !configs.contains_key(topic.name))
        && !unread
    {
        return Ok(Some(untold.name.to_owned()));
    }
    let mut problems = Vec::new();
    for topic in internal {
        for finding in topic_requirements::check(topic, &facts(&metadata, topic.name, &configs), replication_factor) {
            match finding.level {
                Level::Problem => problems.push(finding),
                Level::Ok | Level::Warning => tracing::warn!("{finding}"),
            }
        }
    }
    if !problems.is_empty() {
        return Err(Failure::Never(TopicError::Unfit(problems)));
    }
    let absent: Vec<_> = external.iter().copied().filter(|name| !exists(&metadata, name)).collect();
    if !absent.is_empty() {
        tracing::warn!("topics that do not exist yet: {}", absent.join(", "));
    }
    Ok(None)
}

pub(super) fn exists(metadata: &Metadata, topic: &str) -> bool {
    metadata.topics().iter().any(|known| known.name() == topic && known.error().is_none())
}

/// Topic -> its configuration.
pub(super) type Configs = HashMap<String, HashMap<String, String>>;

/// The configurations of those topics that we may read them of; each exists.
pub(super) fn configs(admin: &AdminClient<PlainContext>, topics: &[&str]) -> KafkaResult<Configs> {
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST));
    let described = wait_for(admin.describe_configs(&resources, &options))?;
    let config = |described: ConfigResourceResult| {
        let entries = described.ok()?.entries.into_iter();
        let config: HashMap<_, _> = entries.filter_map(|entry| Some((entry.name, entry.value?))).collect();
        // rdkafka drops a resource's error, and gives no entries.
        (!config.is_empty()).then_some(config)
    };
    let described = topics.iter().zip(described);
    Ok(described.filter_map(|(topic, described)| Some(((*topic).to_owned(), config(described)?))).collect())
}

pub(super) fn facts(metadata: &Metadata, topic: &str, configs: &Configs) -> Facts {
    let found = metadata.topics().iter().find(|known| known.name() == topic);
    let mut partitions: Vec<_> = found.map(|topic| topic.partitions().iter().collect()).unwrap_or_default();
    partitions.sort_by_key(|partition| partition.id());
    Facts {
        replicas: partitions.iter().map(|partition| partition.replicas().len()).collect(),
        brokers: metadata.brokers().len(),
        config: configs.get(topic).cloned(),
    }
}

fn create(
    admin: &AdminClient<PlainContext>,
    missing: &[&Internal<'_>],
    replication_factor: Option<u16>,
) -> Result<(), Failure> {
    // -1: the brokers' default.
    let replicas = replication_factor.map_or(-1, i32::from);
    let new: Vec<_> = missing
        .iter()
        .map(|topic| {
            let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
            let new = NewTopic::new(topic.name, partitions, TopicReplication::Fixed(replicas));
            topic.config.iter().fold(new, |new, (name, value)| new.set(name, value))
        })
        .collect();
    let failure = |topic: &str, error: String| {
        let wanted = missing.iter().find(|t| t.name == topic);
        let config = wanted.map(|t| t.config.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>());
        TopicError::Create {
            topic: topic.to_owned(),
            error,
            partitions: wanted.map_or(1, |topic| topic.partitions),
            config: config.unwrap_or_default().join(" "),
        }
    };
    let patience = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
    for result in wait_for(admin.create_topics(&new, &patience))? {
        match result {
            Ok(topic) => tracing::info!("created the topic {topic}"),
            // Another process was quicker; it went by the same settings, or one of the two is refused by the check.
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((
                _,
                code @ (Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::NotController
                | Code::BrokerTransportFailure
                | Code::BrokerNotAvailable),
            )) => return Err(KafkaError::AdminOp(code).into()),
            Err((topic, code)) => return Err(Failure::Never(failure(&topic, code.to_string()))),
        }
    }
    Ok(())
}

/// The admin client answers by futures that its own thread completes.
pub(super) fn wait_for<T>(future: impl Future<Output = T>) -> T {
    futures_executor::block_on(future)
}
