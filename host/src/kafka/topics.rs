//! Internal topics: created where they are missing, refused where they do not fit.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::Client;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::client::{Nag, PlainContext};
use super::properties::{ClientOptions, MAX_RECORD_BYTES};
use super::topology::Topology;
use crate::shutdown::Shutdown;

const REQUEST: Duration = Duration::from_secs(10);
/// One attempt to reach the brokers.
const ATTEMPT: Duration = Duration::from_secs(1);

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
    config: &'static [(&'static str, &'static str)],
}

/// What internal topics are like. Shards never expire by time: nothing unprocessed may. Tombstones of the changelog are
/// kept for 7 days, so that what was copied from it may be that old.
fn internal(topology: &Topology) -> [Internal<'_>; 3] {
    let topic = |name, partitions, config| Internal { name, partitions, config };
    [
        topic(
            &topology.shards,
            topology.shard_count,
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
            &[
                ("cleanup.policy", "compact"),
                ("delete.retention.ms", "604800000"),
                ("max.message.bytes", MAX_RECORD_BYTES),
            ],
        ),
        topic(
            &topology.dead_letters,
            1,
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
    await_brokers(client.client(), options, stop)?;

    let existing = topics(&client, options)?;
    let internal = internal(topology);
    let missing: Vec<_> = internal.iter().filter(|topic| !existing.contains_key(topic.name)).collect();
    create(&admin, &missing, replication_factor)?;
    for topic in internal.iter().filter(|topic| existing.contains_key(topic.name)) {
        check(&admin, topic, &existing[topic.name], replication_factor, options)?;
    }
    let all = topology.sources.iter().chain(&topology.outputs);
    let absent: Vec<_> = all.map(|topic| topic.name.as_str()).filter(|name| !existing.contains_key(*name)).collect();
    if !absent.is_empty() {
        tracing::warn!("topics that do not exist yet: {}", absent.join(", "));
    }
    await_topics(&client, &internal, options, stop)
}

fn brokers(options: &ClientOptions, error: KafkaError) -> TopicError {
    TopicError::Brokers { servers: options.bootstrap_servers.clone(), error }
}

fn await_brokers(client: &Client<PlainContext>, options: &ClientOptions, stop: &Shutdown) -> Result<(), TopicError> {
    let mut nag = Nag::default();
    loop {
        if stop.is_asked() {
            return Err(TopicError::Stopped);
        }
        match client.fetch_metadata(Some("__consumer_offsets"), ATTEMPT) {
            Ok(_) => return Ok(()),
            Err(error) => {
                let servers = &options.bootstrap_servers;
                nag.warn(format!("no broker of {servers} answers ({error}); trying on until one does"));
            }
        }
    }
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

/// Created topics are known to one broker before they are known to all.
fn await_topics(
    client: &BaseConsumer<PlainContext>,
    internal: &[Internal<'_>],
    options: &ClientOptions,
    stop: &Shutdown,
) -> Result<(), TopicError> {
    loop {
        let known = topics(client, options)?;
        if internal.iter().all(|topic| known.get(topic.name).is_some_and(|(partitions, _)| *partitions > 0)) {
            return Ok(());
        }
        if stop.wait(Duration::from_millis(20)) {
            return Err(TopicError::Stopped);
        }
    }
}

fn create(
    admin: &AdminClient<PlainContext>,
    missing: &[&Internal<'_>],
    replication_factor: Option<u16>,
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
    if new.is_empty() {
        return Ok(());
    }
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
    let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
    let results = wait_for(admin.create_topics(&new, &options));
    let results = results.map_err(|error| failure(missing[0].name, error.to_string()))?;
    for result in results {
        match result {
            Ok(topic) => tracing::info!("created the topic {topic}"),
            // Another process was quicker; it went by the same settings, or it is told so when it is started again.
            Err((_, Code::TopicAlreadyExists)) => {}
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
    // Dead letters may have any number of partitions.
    if wanted > 1 && usize::try_from(wanted).ok() != Some(*partitions) {
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
