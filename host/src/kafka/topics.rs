//! Internal topics: created where they are missing, refused where they do not fit.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::client::{Nag, PlainContext};
use super::properties::{ClientOptions, MAX_RECORD_BYTES};
use super::topology::Topology;
use crate::shutdown::Shutdown;

/// One request; a stop waits for its end.
const REQUEST: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Internal topics that cannot be used, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error(
        "the topic {topic} has {found} partitions, but --shards is {wanted}. The number of shards is fixed when an \
             application starts for the first time: set --shards {found}, or use another --app"
    )]
    Partitions { topic: String, found: usize, wanted: u32 },
    #[error(
        "the topic {topic} has cleanup.policy={found}, but must have {wanted}, or {loss}. Mend it: kafka-configs.sh \
             --bootstrap-server ... --entity-type topics --entity-name {topic} --alter --add-config cleanup.policy={wanted}"
    )]
    CleanupPolicy { topic: String, found: String, wanted: &'static str, loss: &'static str },
    #[error(
        "the topic {topic} has retention.ms={found}, but must have -1, or records that are not yet processed expire. \
             Mend it: kafka-configs.sh --bootstrap-server ... --entity-type topics --entity-name {topic} --alter \
             --add-config retention.ms=-1"
    )]
    Retention { topic: String, found: String },
    #[error(
        "the topic {topic} has replication factor {found}, but --replication-factor is {wanted}. Raise it with \
             kafka-reassign-partitions.sh, or set --replication-factor {found}"
    )]
    Replication { topic: String, found: usize, wanted: u16 },
    #[error("the topic {topic} cannot be created: {error}. Create it yourself: {partitions} partitions, {config}")]
    Create { topic: String, error: String, partitions: u32, config: String },
    #[error("the brokers at {servers} do not answer: {error}")]
    Brokers { servers: String, error: KafkaError },
    #[error("stopped before the brokers could be reached")]
    Stopped,
}

struct Internal<'a> {
    name: &'a str,
    partitions: u32,
    /// The number of partitions may not be another one.
    fixed: bool,
    config: &'static [(&'static str, &'static str)],
}

/// What internal topics are like. Shards never expire by time: nothing unprocessed may. Tombstones of the changelog are
/// kept for 7 days, so that what was copied from it may be that old.
fn internal(topology: &Topology) -> [Internal<'_>; 3] {
    let topic = |name, partitions, fixed, config| Internal { name, partitions, fixed, config };
    [
        topic(
            &topology.shards,
            topology.shard_count,
            true,
            &[
                ("cleanup.policy", "delete"),
                ("retention.ms", "-1"),
                ("retention.bytes", "-1"),
                ("max.message.bytes", MAX_RECORD_BYTES),
            ],
        ),
        topic(
            &topology.changelog,
            topology.shard_count,
            true,
            &[
                ("cleanup.policy", "compact"),
                ("delete.retention.ms", "604800000"),
                ("max.message.bytes", MAX_RECORD_BYTES),
            ],
        ),
        topic(
            &topology.dead_letters,
            1,
            false,
            &[
                ("cleanup.policy", "delete"),
                ("retention.ms", "2592000000"),
                ("message.timestamp.type", "LogAppendTime"),
                ("max.message.bytes", MAX_RECORD_BYTES),
            ],
        ),
    ]
}

/// Waits for the brokers; then creates the internal topics that are missing and checks those that exist.
///
/// # Errors
/// When a topic cannot be created or does not fit, or when a stop is asked for.
pub fn prepare(
    options: &ClientOptions,
    topology: &Topology,
    replication_factor: Option<u16>,
    stop: &Shutdown,
) -> Result<(), TopicError> {
    let config = options.plain();
    let client: BaseConsumer<PlainContext> = BaseConsumer::from_config_and_context(&config, PlainContext::new(&config))
        .map_err(|error| brokers(options, error))?;
    let admin: AdminClient<PlainContext> = AdminClient::from_config_and_context(&config, PlainContext::new(&config))
        .map_err(|error| brokers(options, error))?;
    let mut nag = Nag::default();
    let existing = loop {
        match attempt(&client, &admin, options, &internal(topology), replication_factor) {
            Err(TopicError::Brokers { servers, error }) => {
                nag.warn(format!("no broker of {servers} answers ({error}); trying on until one does"));
            }
            Ok(None) => {}
            Ok(Some(existing)) => break existing,
            Err(error) => return Err(error),
        }
        if stop.wait(PAUSE) {
            return Err(TopicError::Stopped);
        }
    };
    let all = topology.sources.iter().chain(&topology.outputs);
    let absent: Vec<_> = all.map(|topic| topic.name.as_str()).filter(|name| !existing.contains_key(*name)).collect();
    if !absent.is_empty() {
        tracing::warn!("topics that do not exist yet: {}", absent.join(", "));
    }
    Ok(())
}

/// Gives the topics that exist once the internal ones are among them: created ones are known to one broker before they
/// are known to all. Whoever created them, they are checked.
fn attempt(
    client: &BaseConsumer<PlainContext>,
    admin: &AdminClient<PlainContext>,
    options: &ClientOptions,
    internal: &[Internal<'_>],
    replication_factor: Option<u16>,
) -> Result<Option<Found>, TopicError> {
    let existing = topics(client, options)?;
    let missing: Vec<_> = internal.iter().filter(|topic| !existing.contains_key(topic.name)).collect();
    if !missing.is_empty() {
        create(admin, &missing, replication_factor, options)?;
        return Ok(None);
    }
    for topic in internal {
        check(admin, topic, &existing[topic.name], replication_factor, options)?;
    }
    Ok(Some(existing))
}

fn brokers(options: &ClientOptions, error: KafkaError) -> TopicError {
    TopicError::Brokers { servers: options.bootstrap_servers.clone(), error }
}

/// Topic -> partitions and replicas.
type Found = HashMap<String, (usize, usize)>;

fn topics(client: &BaseConsumer<PlainContext>, options: &ClientOptions) -> Result<Found, TopicError> {
    let metadata = client.fetch_metadata(None, REQUEST).map_err(|error| brokers(options, error))?;
    let found = metadata.topics().iter().filter(|topic| topic.error().is_none()).map(|topic| {
        let replicas = topic.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
        (topic.name().to_owned(), (topic.partitions().len(), replicas))
    });
    Ok(found.collect())
}

fn create(
    admin: &AdminClient<PlainContext>,
    missing: &[&Internal<'_>],
    replication_factor: Option<u16>,
    options: &ClientOptions,
) -> Result<(), TopicError> {
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
    let results = wait_for(admin.create_topics(&new, &patience)).map_err(|error| brokers(options, error))?;
    for result in results {
        match result {
            Ok(topic) => tracing::info!("created the topic {topic}"),
            // Another process was quicker; it went by the same settings, or it is told so when it is started again.
            Err((_, Code::TopicAlreadyExists)) => {}
            Err((
                _,
                code @ (Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::NotController
                | Code::BrokerTransportFailure
                | Code::BrokerNotAvailable),
            )) => return Err(brokers(options, KafkaError::AdminOp(code))),
            Err((topic, code)) => return Err(failure(&topic, code.to_string())),
        }
    }
    Ok(())
}

fn check(
    admin: &AdminClient<PlainContext>,
    topic: &Internal<'_>,
    (partitions, replicas): &(usize, usize),
    replication_factor: Option<u16>,
    options: &ClientOptions,
) -> Result<(), TopicError> {
    let name = || topic.name.to_owned();
    let wanted = topic.partitions;
    if topic.fixed && usize::try_from(wanted).ok() != Some(*partitions) {
        return Err(TopicError::Partitions { topic: name(), found: *partitions, wanted });
    }
    if let Some(wanted) = replication_factor
        && *replicas < usize::from(wanted)
    {
        return Err(TopicError::Replication { topic: name(), found: *replicas, wanted });
    }
    let resource = [ResourceSpecifier::Topic(topic.name)];
    let described = wait_for(admin.describe_configs(&resource, &AdminOptions::new().request_timeout(Some(REQUEST))));
    let described = described.map_err(|error| brokers(options, error))?;
    let Some(Ok(found)) = described.into_iter().next() else {
        tracing::warn!("the configuration of {} cannot be read (DESCRIBE_CONFIGS); it is not checked", topic.name);
        return Ok(());
    };
    let value = |key: &str| found.get(key).and_then(|entry| entry.value.clone()).unwrap_or_default();
    for (key, wanted) in topic.config {
        let found = value(key);
        match *key {
            "cleanup.policy" if found != *wanted => {
                let loss = if *wanted == "compact" { "state expires" } else { "records that wait are compacted away" };
                return Err(TopicError::CleanupPolicy { topic: name(), found, wanted, loss });
            }
            "retention.ms" if *wanted == "-1" && found != "-1" => {
                return Err(TopicError::Retention { topic: name(), found });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The admin client answers by futures that its own thread completes.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    futures_executor::block_on(future)
}
