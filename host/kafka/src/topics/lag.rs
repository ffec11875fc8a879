//! The lag of an application: the records in its topics beyond the group's committed offsets.
//!
//! Separate clients ask the brokers, for all partitions, whoever owns them. So a halted or unowned partition shows too. The lag is
//! for people: no decision depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use switchboard_core::record::{Offset, PartitionIndex, Timestamp};
use switchboard_core::worker::StartFrom;

use super::TOPIC_REQUEST_TIMEOUT;
use super::committed_offsets::CommittedOffsets;
use super::topology::Topology;
use crate::clients::context::PlainContext;
use crate::clients::{ClientOptions, convert, new_client};
use crate::{Shutdown, ThrottledWarn};

/// How long reading the first waiting record of all partitions may take.
const FIRST_RECORDS_TIMEOUT: Duration = Duration::from_secs(2);
/// One poll for such a record.
const FIRST_RECORD_POLL: Duration = Duration::from_millis(100);
/// Between two log lines.
const LAG_REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// A record that waits for a shorter time is merely on its way.
const NOTABLE_WAIT: Duration = Duration::from_secs(1);
/// This many records are reported whatever their age: a producer's clock may be ahead.
const NOTABLE_RECORDS: u64 = 10_000;

/// The records that wait in one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TopicLag {
    pub(crate) topic: String,
    pub(crate) partitions: usize,
    /// The number of visible records that wait, including transaction markers among them.
    pub(crate) records: u64,
    /// How long the oldest of them has waited, by its timestamp.
    pub(crate) oldest: Option<Duration>,
}

/// The records that wait in all consumed topics that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    pub(crate) source_topics: Vec<TopicLag>,
    pub(crate) repartition: TopicLag,
}

impl Lag {
    fn topics(&self) -> impl Iterator<Item = &TopicLag> {
        self.source_topics.iter().chain([&self.repartition])
    }

    fn oldest(&self) -> Option<Duration> {
        self.topics().filter_map(|topic| topic.oldest).max()
    }

    /// Whether more waits than what is always on its way in a busy application.
    fn is_notable(&self) -> bool {
        self.oldest().is_some_and(|oldest| oldest >= NOTABLE_WAIT)
            || self.topics().map(|topic| topic.records).sum::<u64>() >= NOTABLE_RECORDS
    }

    fn log(&self) {
        tracing::info!(
            source_records = self.source_topics.iter().map(|topic| topic.records).sum::<u64>(),
            repartition_records = self.repartition.records,
            oldest_ms = self.oldest().map(|oldest| u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX)),
            "lag"
        );
    }
}

/// A number in groups of three digits: 12,345.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in its two largest units.
pub(crate) fn humanized(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// Logs a notable lag of an application every 10 s until a stop is requested. `topology` returns the topics that are consumed at
/// that time.
pub fn report_lag(
    committed: &CommittedOffsets,
    options: &ClientOptions,
    topology: impl Fn() -> Topology,
    start_from: StartFrom,
    stop: &Shutdown,
) {
    let (mut reader, mut trouble) = (None, ThrottledWarn::default());
    while !stop.wait(LAG_REPORT_INTERVAL) {
        // The client is created here, not before the host runs: the host has to start quickly.
        let read = match &reader {
            Some(reader) => LagReader::read(reader, &topology(), stop),
            None => LagReader::new(committed, options, start_from)
                .and_then(|new| reader.insert(new).read(&topology(), stop)),
        };
        match read {
            Ok(lag) if lag.is_notable() => lag.log(),
            Ok(_) | Err(KafkaError::Canceled) => {}
            Err(error) => {
                trouble.report(error.to_string(), || {
                    tracing::warn!(%error, "the lag cannot be determined; retrying");
                });
            }
        }
    }
}

/// Ends a determination of the lag when a stop is requested.
fn check_stop(stop: &Shutdown) -> KafkaResult<()> {
    if stop.is_asked() { Err(KafkaError::Canceled) } else { Ok(()) }
}

/// Determines the lag of an application.
pub(crate) struct LagReader<'a> {
    committed: &'a CommittedOffsets,
    /// Reads the first waiting record of each partition.
    records: BaseConsumer<PlainContext>,
    start_from: StartFrom,
}

/// A partition in which records may wait.
struct WaitingRecords {
    from: Offset,
    end: Offset,
    oldest: Option<Duration>,
}

type WaitingPartitions = BTreeMap<(String, PartitionIndex), WaitingRecords>;

impl<'a> LagReader<'a> {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub(crate) fn new(
        committed: &'a CommittedOffsets,
        options: &ClientOptions,
        start_from: StartFrom,
    ) -> KafkaResult<Self> {
        let mut config = options.plain();
        config
            .set("group.id", &options.app)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            // One batch per partition suffices, and the end of a log has to be reported at once.
            .set("fetch.message.max.bytes", "16384")
            .set("queued.max.messages.kbytes", "1024")
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.wait.max.ms", "10");
        Ok(Self { committed, records: new_client(&config)?, start_from })
    }

    /// # Errors
    /// When a broker does not answer, or a stop is requested.
    pub(crate) fn read(&self, topology: &Topology, stop: &Shutdown) -> KafkaResult<Lag> {
        let metadata = self.records.fetch_metadata(None, TOPIC_REQUEST_TIMEOUT)?;
        let mut all = TopicPartitionList::new();
        let mut counts = BTreeMap::new();
        for topic in metadata.topics().iter().filter(|topic| topic.error().is_none()) {
            let name = topic.name();
            if name == topology.repartition || topology.consumed.iter().any(|consumed| consumed.name == name) {
                for partition in topic.partitions() {
                    all.add_partition(name, partition.id());
                }
                counts.insert(name.to_owned(), topic.partitions().len());
            }
        }
        let mut waiting = match all.count() {
            0 => WaitingPartitions::new(),
            _ => self.waiting(&all, &topology.repartition, stop)?,
        };
        self.read_first_records(&mut waiting, stop)?;
        let topic = |name: &String| {
            let own = || waiting.iter().filter(|((topic, _), _)| topic == name).map(|(_, waiting)| waiting);
            Some(TopicLag {
                topic: name.clone(),
                partitions: *counts.get(name)?,
                records: own().map(|waiting| waiting.end.distance_from(waiting.from)).sum(),
                oldest: own().filter_map(|waiting| waiting.oldest).max(),
            })
        };
        let repartition = topic(&topology.repartition).unwrap_or_default();
        let source_topics = topology.consumed.iter().filter_map(|consumed| topic(&consumed.name)).collect();
        Ok(Lag { source_topics, repartition })
    }

    /// Partitions whose stable end is beyond the committed offset.
    fn waiting(&self, all: &TopicPartitionList, repartition: &str, stop: &Shutdown) -> KafkaResult<WaitingPartitions> {
        let bound = |offset: KafkaOffset| -> KafkaResult<_> {
            check_stop(stop)?;
            let mut requested = all.clone();
            requested.set_all_offsets(offset)?;
            self.records.offsets_for_times(requested, TOPIC_REQUEST_TIMEOUT)
        };
        let (starts, ends) = (bound(KafkaOffset::Beginning)?, bound(KafkaOffset::End)?);
        check_stop(stop)?;
        let committed = self.committed.of(all.clone())?;
        let mut waiting = WaitingPartitions::new();
        for element in committed.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let offset = |list: &TopicPartitionList| convert::absolute(list.find_partition(topic, partition)?.offset());
            // A partition without a leader has no bounds. Another check reports that.
            let (Some(start), Some(end)) = (offset(&starts), offset(&ends)) else { continue };
            let from = match convert::absolute(element.offset()) {
                Some(offset) => offset.max(start),
                None if topic == repartition || self.start_from == StartFrom::Earliest => start,
                None => end,
            };
            if from < end {
                let records = WaitingRecords { from, end, oldest: None };
                waiting.insert((topic.to_owned(), convert::partition(partition)), records);
            }
        }
        Ok(waiting)
    }

    /// Reads the first waiting record of each partition, for its timestamp, and to know that there is one: the marker after the last
    /// record of a transaction lies beyond the committed offset too.
    fn read_first_records(&self, waiting: &mut WaitingPartitions, stop: &Shutdown) -> KafkaResult<()> {
        let deadline = Instant::now() + FIRST_RECORDS_TIMEOUT;
        let now = Timestamp::of_system_time(SystemTime::now());
        // Topic by topic: rdkafka reports the end of a partition without its topic.
        let topics: BTreeSet<_> = waiting.keys().map(|(topic, _)| topic.clone()).collect();
        for topic in topics {
            let mut list = TopicPartitionList::new();
            let mut open = BTreeSet::new();
            for ((_, partition), waiting) in waiting.iter().filter(|((other, _), _)| *other == topic) {
                list.add_partition_offset(&topic, partition.get(), convert::to_absolute(waiting.from))?;
                open.insert(*partition);
            }
            self.records.assign(&list)?;
            while !open.is_empty() {
                check_stop(stop)?;
                match self.records.poll(FIRST_RECORD_POLL) {
                    None if Instant::now() >= deadline => break,
                    None => {}
                    Some(Err(KafkaError::PartitionEOF(partition))) => {
                        let partition = convert::partition(partition);
                        if open.remove(&partition) {
                            waiting.remove(&(topic.clone(), partition));
                        }
                    }
                    Some(Err(error)) => tracing::debug!(%error, "reading the first waiting records"),
                    Some(Ok(message)) => {
                        let partition = convert::partition(message.partition());
                        if open.remove(&partition)
                            && let Some(found) = waiting.get_mut(&(topic.clone(), partition))
                        {
                            found.from = convert::offset_of(&message);
                            found.oldest = convert::timestamp_of(&message).map(|at| now.saturating_since(at));
                        }
                    }
                }
            }
            self.records.unassign()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_on_their_way_are_not_notable() {
        let lag = |records, oldest| Lag {
            source_topics: vec![TopicLag { records, oldest, ..TopicLag::default() }],
            repartition: TopicLag::default(),
        };
        assert!(!lag(0, None).is_notable());
        assert!(!lag(5000, Some(Duration::from_millis(80))).is_notable());
        assert!(lag(1, Some(Duration::from_secs(2))).is_notable());
        assert!(lag(20_000, Some(Duration::ZERO)).is_notable(), "a producer's clock may be ahead");
    }

    #[test]
    fn numbers_and_durations_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let times = [75, 3700, 200_000].map(|seconds| humanized(Duration::from_secs(seconds)));
        assert_eq!(times, ["1 min 15 s", "1 h 1 min", "2 d 7 h"]);
    }
}
