//! Whether the group lost its committed offsets.
//!
//! Kafka forgets a group's offsets some time after its last member has left: by default after 7 days. Then all source records would
//! silently be processed again, or skipped.
//!
//! A group that lost its offsets differs from a new application by its traces: records in its internal topics, which are written in
//! the same transactions as the offsets. The offsets of all source topics are judged together. A single topic without offsets may
//! be one that a new plugin has started to consume.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use switchboard_core::record::Offset;

use super::TOPIC_REQUEST_TIMEOUT;
use super::topology::Topology;
use crate::clients::context::PlainContext;
use crate::clients::{ClientOptions, convert, new_client};
use crate::finding::Finding;
use crate::{Shutdown, ThrottledWarn};

/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Why the application does not start.
#[derive(Debug, thiserror::Error)]
pub enum CommittedOffsetsError {
    /// The group lost its offsets. The finding says what to do.
    #[error("{0}")]
    Lost(Finding),
    /// A stop was requested before the coordinator answered.
    #[error("stopped before the group's offsets were known")]
    Stopped,
}

/// A client that asks for the group's last committed offsets, without those that are pending in a transaction. It subscribes to
/// nothing, so it is no member.
pub struct CommittedOffsets(BaseConsumer<PlainContext>);

impl CommittedOffsets {
    /// Creates the client.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions) -> KafkaResult<Self> {
        group_client(options, "read_uncommitted").map(Self)
    }

    pub(super) fn of(&self, partitions: TopicPartitionList) -> KafkaResult<TopicPartitionList> {
        self.0.committed_offsets(partitions, TOPIC_REQUEST_TIMEOUT)
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
    new_client(&config)
}

/// Refuses a group that lost its committed offsets. Waits for a coordinator that does not answer.
///
/// # Errors
/// When the offsets are lost, or a stop is requested.
pub fn check_committed_offsets(
    options: &ClientOptions,
    topology: &Topology,
    committed: &CommittedOffsets,
    stop: &Shutdown,
) -> Result<(), CommittedOffsetsError> {
    let mut trouble = ThrottledWarn::default();
    loop {
        match find_lost_offsets(options, topology, committed) {
            Ok(None) => return Ok(()),
            Ok(Some(finding)) => return Err(CommittedOffsetsError::Lost(finding)),
            Err(error) => {
                trouble.report(error.to_string(), || {
                    tracing::warn!(group = %options.app, %error, "the offsets of the group cannot be fetched; retrying");
                });
            }
        }
        if stop.wait(RETRY_PAUSE) {
            return Err(CommittedOffsetsError::Stopped);
        }
    }
}

/// What proves that an application without offsets of source topics has run before.
struct Traces {
    text: String,
    /// Whether the group has committed offsets of the repartition topic.
    repartition_has_offsets: bool,
}

/// The problem, if the group lost its offsets.
pub(crate) fn find_lost_offsets(
    options: &ClientOptions,
    topology: &Topology,
    committed: &CommittedOffsets,
) -> KafkaResult<Option<Finding>> {
    let metadata = committed.0.fetch_metadata(None, TOPIC_REQUEST_TIMEOUT)?;
    let names: Vec<_> = topology.consumed.iter().map(|topic| topic.name.as_str()).collect();
    let source_partitions = partitions(&metadata, &names);
    if source_partitions.count() == 0 || has_any(&committed.of(source_partitions.clone())?) {
        return Ok(None);
    }
    let reader = group_client(options, "read_committed")?;
    if not_empty(&reader, &source_partitions)?.count() == 0 {
        return Ok(None);
    }
    let Some(traces) = find_traces(topology, committed, &metadata, &reader)? else { return Ok(None) };
    // Another host may have started meanwhile. Its offsets were at least pending when its records became visible, and this request
    // waits for pending offsets.
    if has_any(&reader.committed_offsets(source_partitions, TOPIC_REQUEST_TIMEOUT)?) {
        return Ok(None);
    }
    Ok(Some(lost_offsets(options, topology, &traces)))
}

fn find_traces(
    topology: &Topology,
    committed: &CommittedOffsets,
    metadata: &Metadata,
    reader: &BaseConsumer<PlainContext>,
) -> KafkaResult<Option<Traces>> {
    let Topology { repartition, changelog, .. } = topology;
    let shards = partitions(metadata, &[repartition]);
    if shards.count() > 0 {
        if has_any(&committed.of(shards.clone())?) {
            let text = format!("{repartition} has committed offsets");
            return Ok(Some(Traces { text, repartition_has_offsets: true }));
        }
        let starts = bounds(reader, &shards, KafkaOffset::Beginning)?;
        if starts.iter().any(|start| *start > Some(Offset::ZERO)) {
            let text = format!("processed records were deleted from {repartition}");
            return Ok(Some(Traces { text, repartition_has_offsets: false }));
        }
    }
    for topic in [repartition, changelog] {
        if has_record(reader, &partitions(metadata, &[topic]))? {
            return Ok(Some(Traces { text: format!("{topic} has records"), repartition_has_offsets: false }));
        }
    }
    Ok(None)
}

fn lost_offsets(options: &ClientOptions, topology: &Topology, traces: &Traces) -> Finding {
    let mut topics: Vec<_> = topology.consumed.iter().map(|topic| topic.name.as_str()).collect();
    if !traces.repartition_has_offsets {
        topics.push(&topology.repartition);
    }
    let topics: Vec<_> = topics.iter().map(|topic| format!("--topic {topic}")).collect();
    Finding::problem(
        format!("the group {}", options.app),
        format!(
            "it has no offset of any consumed topic, but the application has run before ({}): the offsets expired or were \
             deleted, or these topics were created again. The offset to continue from is unknown",
            traces.text
        ),
        format!(
            "Set the offsets: kafka-consumer-groups.sh --bootstrap-server ... --group {} {} --reset-offsets --to-datetime ... \
             --execute, or with --to-earliest (processes all records that are there, some of them again), or with --to-latest \
             (skips all records that are there)",
            options.app,
            topics.join(" ")
        ),
    )
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

/// Where the logs start or end, in the order of the list; `None` where that is unknown.
fn bounds(
    reader: &BaseConsumer<PlainContext>,
    list: &TopicPartitionList,
    which: KafkaOffset,
) -> KafkaResult<Vec<Option<Offset>>> {
    let mut requested = list.clone();
    requested.set_all_offsets(which)?;
    let found = reader.offsets_for_times(requested, TOPIC_REQUEST_TIMEOUT)?;
    let offset = |topic: &str, partition| convert::absolute(found.find_partition(topic, partition)?.offset());
    Ok(list.elements().iter().map(|element| offset(element.topic(), element.partition())).collect())
}

/// The partitions whose log is not empty, each at its start.
fn not_empty(reader: &BaseConsumer<PlainContext>, list: &TopicPartitionList) -> KafkaResult<TopicPartitionList> {
    let (starts, ends) = (bounds(reader, list, KafkaOffset::Beginning)?, bounds(reader, list, KafkaOffset::End)?);
    let mut found = TopicPartitionList::new();
    for ((element, start), end) in list.elements().iter().zip(starts).zip(ends) {
        if let (Some(start), Some(end)) = (start, end)
            && start < end
        {
            found.add_partition_offset(element.topic(), element.partition(), convert::to_absolute(start))?;
        }
    }
    Ok(found)
}

/// Whether one of the partitions of a topic has a committed record. Aborted records and transaction markers are no traces: the
/// offsets that belong to them are not committed either.
fn has_record(reader: &BaseConsumer<PlainContext>, list: &TopicPartitionList) -> KafkaResult<bool> {
    if list.count() == 0 {
        return Ok(false);
    }
    let list = not_empty(reader, list)?;
    let mut open = list.count();
    reader.assign(&list)?;
    let mut found = Ok(false);
    while open > 0 {
        match reader.poll(TOPIC_REQUEST_TIMEOUT) {
            Some(Ok(_)) => {
                found = Ok(true);
                break;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => tracing::debug!(%error, "looking for records"),
            None => {
                found = Err(KafkaError::MessageConsumption(Code::OperationTimedOut));
                break;
            }
        }
    }
    reader.unassign()?;
    found
}
