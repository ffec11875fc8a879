//! Whether the group has lost its place. Kafka forgets a group's offsets, by default 7 days after its last member has left:
//! all records of the sources would then be routed again, or passed over, without a word.
//!
//! What tells a lost place from a new application is what it leaves behind: records in its own topics, which are written
//! in the same transactions as the offsets. Only the offsets of all sources together are judged: a single topic without
//! any may be one that a new plugin has begun to consume.

use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use switchboard_core::record::Offset;

use super::client::{PlainContext, ThrottledWarn};
use super::convert;
use super::finding::Finding;
use super::properties::ClientOptions;
use super::topology::Topology;
use crate::Shutdown;

/// One request; a stop waits for its end.
const REQUEST: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// A group that has lost its place, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("{0}")]
    Lost(Finding),
    #[error("stopped before the group's offsets were known")]
    Stopped,
}

/// Tells the group's last committed offsets, without waiting for those pending in a transaction. A consumer that
/// subscribes to nothing is no member.
pub struct Committed(BaseConsumer<PlainContext>);

impl Committed {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions) -> KafkaResult<Self> {
        group_client(options, "read_uncommitted").map(Self)
    }

    pub(super) fn of(&self, partitions: TopicPartitionList) -> KafkaResult<TopicPartitionList> {
        self.0.committed_offsets(partitions, REQUEST)
    }
}

fn group_client(options: &ClientOptions, isolation: &str) -> KafkaResult<BaseConsumer<PlainContext>> {
    let mut config = options.plain();
    config
        .set("group.id", &options.app)
        .set("enable.auto.commit", "false")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.wait.max.ms", "10");
    BaseConsumer::from_config_and_context(&config, PlainContext::new(&config))
}

/// Refuses a group that has lost its place; waits for a coordinator that does not answer.
///
/// # Errors
/// When it is so, or a stop is asked for.
pub fn check_history(
    options: &ClientOptions,
    topology: &Topology,
    committed: &Committed,
    stop: &Shutdown,
) -> Result<(), HistoryError> {
    let mut nag = ThrottledWarn::default();
    loop {
        match lost_place(options, topology, committed) {
            Ok(None) => return Ok(()),
            Ok(Some(finding)) => return Err(HistoryError::Lost(finding)),
            Err(error) => {
                nag.warn(format!("the offsets of the group {} cannot be had: {error}; trying on", options.app));
            }
        }
        if stop.wait(PAUSE) {
            return Err(HistoryError::Stopped);
        }
    }
}

/// The problem, if it is there.
pub(super) fn lost_place(
    options: &ClientOptions,
    topology: &Topology,
    committed: &Committed,
) -> KafkaResult<Option<Finding>> {
    let metadata = committed.0.fetch_metadata(None, REQUEST)?;
    let names: Vec<_> = topology.sources.iter().map(|topic| topic.name.as_str()).collect();
    let sources = partitions(&metadata, &names);
    if sources.count() == 0 || has_any(&committed.of(sources.clone())?) {
        return Ok(None);
    }
    let reader = group_client(options, "read_committed")?;
    if filled(&reader, &sources)?.count() == 0 {
        return Ok(None);
    }
    let shards = partitions(&metadata, &[&topology.shards]);
    let shards_have_place = shards.count() > 0 && has_any(&committed.of(shards.clone())?);
    let traces = if shards_have_place {
        format!("{} has committed offsets", topology.shards)
    } else if shards.count() > 0
        && bounds(&reader, &shards, KafkaOffset::Beginning)?.iter().any(|start| *start > Some(Offset::ZERO))
    {
        format!("processed records were deleted from {}", topology.shards)
    } else if let Some(topic) = [&topology.shards, &topology.changelog].into_iter().find_map(|topic| {
        has_record(&reader, &partitions(&metadata, &[topic])).map(|has| has.then_some(topic)).transpose()
    }) {
        format!("{} has records", topic?)
    } else {
        return Ok(None);
    };
    // Another host may have begun meanwhile: its offsets were pending at the latest when its records were to be seen, and
    // this waits for pending ones.
    if has_any(&reader.committed_offsets(sources, REQUEST)?) {
        return Ok(None);
    }
    let mut topics = names;
    if !shards_have_place {
        topics.push(&topology.shards);
    }
    let topics: Vec<_> = topics.iter().map(|topic| format!("--topic {topic}")).collect();
    Ok(Some(Finding::problem(
        format!("the group {}", options.app),
        format!(
            "it has no offset of any consumed topic, but the application has run before ({traces}): its offsets expired or \
             were deleted, or these topics were made anew. Where to go on is not known"
        ),
        format!(
            "Set it: kafka-consumer-groups.sh --bootstrap-server ... --group {} {} --reset-offsets --to-datetime ... \
             --execute, or --to-earliest (all that is there is processed, again where it was), or --to-latest (it is passed \
             over)",
            options.app,
            topics.join(" ")
        ),
    )))
}

fn partitions(metadata: &Metadata, topics: &[&str]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for topic in metadata.topics().iter().filter(|topic| topic.error().is_none() && topics.contains(&topic.name())) {
        for partition in topic.partitions() {
            list.add_partition(topic.name(), partition.id());
        }
    }
    list
}

fn has_any(committed: &TopicPartitionList) -> bool {
    committed.elements().iter().any(|element| convert::absolute(element.offset()).is_some())
}

/// Where the logs begin or end, in the order of the list; `None` where it is not known.
fn bounds(
    reader: &BaseConsumer<PlainContext>,
    list: &TopicPartitionList,
    which: KafkaOffset,
) -> KafkaResult<Vec<Option<Offset>>> {
    let mut asked = list.clone();
    asked.set_all_offsets(which)?;
    let found = reader.offsets_for_times(asked, REQUEST)?;
    let offset = |topic: &str, partition| convert::absolute(found.find_partition(topic, partition)?.offset());
    Ok(list.elements().iter().map(|element| offset(element.topic(), element.partition())).collect())
}

/// Those partitions whose log is not empty, each from its start.
fn filled(reader: &BaseConsumer<PlainContext>, list: &TopicPartitionList) -> KafkaResult<TopicPartitionList> {
    let (starts, ends) = (bounds(reader, list, KafkaOffset::Beginning)?, bounds(reader, list, KafkaOffset::End)?);
    let mut filled = TopicPartitionList::new();
    for ((element, start), end) in list.elements().iter().zip(starts).zip(ends) {
        if let (Some(start), Some(end)) = (start, end)
            && start < end
        {
            filled.add_partition_offset(element.topic(), element.partition(), convert::to_absolute(start))?;
        }
    }
    Ok(filled)
}

/// Whether a committed record is in one of the partitions of a topic. Aborted ones, and the markers of transactions, are
/// no trace: the offsets that went with them are not committed either.
fn has_record(reader: &BaseConsumer<PlainContext>, list: &TopicPartitionList) -> KafkaResult<bool> {
    if list.count() == 0 {
        return Ok(false);
    }
    let list = filled(reader, list)?;
    let mut open = list.count();
    reader.assign(&list)?;
    let mut found = Ok(false);
    while open > 0 {
        match reader.poll(REQUEST) {
            Some(Ok(_)) => {
                found = Ok(true);
                break;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => tracing::debug!("looking for records: {error}"),
            None => {
                found = Err(KafkaError::MessageConsumption(rdkafka::types::RDKafkaErrorCode::OperationTimedOut));
                break;
            }
        }
    }
    reader.unassign()?;
    found
}
