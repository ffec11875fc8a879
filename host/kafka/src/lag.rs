//! How far an application is behind: what waits in its topics beyond the group's committed offsets.
//!
//! Asked of the brokers by clients of their own, for all partitions, whoever has them: a halted or forsaken partition shows
//! too. It is for people: nothing is decided by it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use switchboard_core::record::{Offset, PartitionIndex, Timestamp};
use switchboard_core::worker::StartFrom;

use super::client::{PlainContext, ThrottledWarn};
use super::committed_offsets::Committed;
use super::convert;
use super::properties::ClientOptions;
use super::topology::Topology;
use crate::Shutdown;

/// One request; a stop waits for its end.
const REQUEST: Duration = Duration::from_secs(2);
/// How long the first waiting records of all partitions may take to come.
const LOOK: Duration = Duration::from_secs(2);
/// One look at whether a record came.
const GLANCE: Duration = Duration::from_millis(100);
/// Between two log lines.
const EVERY: Duration = Duration::from_secs(10);
/// A record that waits for less is on its way.
const LONG: Duration = Duration::from_secs(1);
/// So many are told whatever their age, which producers' clocks may hide.
const MANY: u64 = 10_000;

/// What waits in one topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TopicLag {
    pub(super) topic: String,
    pub(super) partitions: usize,
    /// Visible records that wait. Markers of transactions among them count too.
    pub(super) records: u64,
    /// How long the oldest of them waits, by its timestamp.
    pub(super) oldest: Option<Duration>,
}

/// What waits in all consumed topics that exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lag {
    pub(super) sources: Vec<TopicLag>,
    pub(super) shards: TopicLag,
}

impl Lag {
    fn topics(&self) -> impl Iterator<Item = &TopicLag> {
        self.sources.iter().chain([&self.shards])
    }

    fn oldest(&self) -> Option<Duration> {
        self.topics().filter_map(|topic| topic.oldest).max()
    }

    /// More than what is on its way at any time in a busy application.
    fn is_worth_telling(&self) -> bool {
        self.oldest().is_some_and(|oldest| oldest >= LONG)
            || self.topics().map(|topic| topic.records).sum::<u64>() >= MANY
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = self.sources.iter().map(|topic| topic.records).sum();
        write!(f, "{} records in sources, {} in shards", grouped(sources), grouped(self.shards.records))?;
        match self.oldest() {
            Some(oldest) => write!(f, ", the oldest waits {}", for_people(oldest)),
            None => Ok(()),
        }
    }
}

/// A number in groups of three digits: 12,345.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in its two largest units.
pub(super) fn for_people(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// Logs the lag of an application every few seconds, when there is one worth it, until a stop is asked for. `topology` has the
/// topics that are consumed at the time.
pub fn tell_lag(
    committed: &Committed,
    options: &ClientOptions,
    topology: impl Fn() -> Topology,
    start_from: StartFrom,
    stop: &Shutdown,
) {
    let (mut reader, mut nag) = (None, ThrottledWarn::default());
    while !stop.wait(EVERY) {
        // Not before the host runs, which is to start quickly.
        let read = match &reader {
            Some(reader) => LagReader::read(reader, &topology(), stop),
            None => LagReader::new(committed, options, start_from)
                .and_then(|new| reader.insert(new).read(&topology(), stop)),
        };
        match read {
            Ok(lag) if lag.is_worth_telling() => tracing::info!("lag: {lag}"),
            Ok(_) | Err(KafkaError::Canceled) => {}
            Err(error) => nag.warn(format!("the lag cannot be told: {error}; trying on")),
        }
    }
}

fn go_on(stop: &Shutdown) -> KafkaResult<()> {
    if stop.is_asked() { Err(KafkaError::Canceled) } else { Ok(()) }
}

/// Asks for the lag of an application.
pub(super) struct LagReader<'a> {
    committed: &'a Committed,
    /// Reads the first waiting record of each partition.
    records: BaseConsumer<PlainContext>,
    start_from: StartFrom,
}

/// A partition in which something may wait.
struct Waiting {
    from: Offset,
    end: Offset,
    oldest: Option<Duration>,
}

type Partitions = BTreeMap<(String, PartitionIndex), Waiting>;

impl<'a> LagReader<'a> {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub(super) fn new(committed: &'a Committed, options: &ClientOptions, start_from: StartFrom) -> KafkaResult<Self> {
        let mut config = options.plain();
        config
            .set("group.id", &options.app)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            // One batch a partition is all that is wanted, and the end of a log is to be told at once.
            .set("fetch.message.max.bytes", "16384")
            .set("queued.max.messages.kbytes", "1024")
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.wait.max.ms", "10");
        let records = BaseConsumer::from_config_and_context(&config, PlainContext::new(&config))?;
        Ok(Self { committed, records, start_from })
    }

    /// # Errors
    /// When a broker does not answer, or a stop is asked for.
    pub(super) fn read(&self, topology: &Topology, stop: &Shutdown) -> KafkaResult<Lag> {
        let metadata = self.records.fetch_metadata(None, REQUEST)?;
        let mut all = TopicPartitionList::new();
        let mut counts = BTreeMap::new();
        for topic in metadata.topics().iter().filter(|topic| topic.error().is_none()) {
            let name = topic.name();
            if name == topology.shards || topology.sources.iter().any(|source| source.name == name) {
                for partition in topic.partitions() {
                    all.add_partition(name, partition.id());
                }
                counts.insert(name.to_owned(), topic.partitions().len());
            }
        }
        let mut waiting =
            if all.count() == 0 { Partitions::new() } else { self.waiting(&all, &topology.shards, stop)? };
        self.look_at_the_first(&mut waiting, stop)?;
        let topic = |name: &String| {
            let own = || waiting.iter().filter(|((topic, _), _)| topic == name).map(|(_, waiting)| waiting);
            Some(TopicLag {
                topic: name.clone(),
                partitions: *counts.get(name)?,
                records: own().map(|waiting| waiting.end.distance_from(waiting.from)).sum(),
                oldest: own().filter_map(|waiting| waiting.oldest).max(),
            })
        };
        let shards = topic(&topology.shards).unwrap_or_default();
        Ok(Lag { sources: topology.sources.iter().filter_map(|source| topic(&source.name)).collect(), shards })
    }

    /// Partitions whose stable end is beyond the committed offset.
    fn waiting(&self, all: &TopicPartitionList, shards: &str, stop: &Shutdown) -> KafkaResult<Partitions> {
        let bound = |offset: KafkaOffset| -> KafkaResult<_> {
            go_on(stop)?;
            let mut asked = all.clone();
            asked.set_all_offsets(offset)?;
            self.records.offsets_for_times(asked, REQUEST)
        };
        let (starts, ends) = (bound(KafkaOffset::Beginning)?, bound(KafkaOffset::End)?);
        go_on(stop)?;
        let committed = self.committed.of(all.clone())?;
        let mut waiting = Partitions::new();
        for element in committed.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let offset = |list: &TopicPartitionList| convert::absolute(list.find_partition(topic, partition)?.offset());
            // A partition without a leader has no bounds; that is told elsewhere.
            let (Some(start), Some(end)) = (offset(&starts), offset(&ends)) else { continue };
            let from = match convert::absolute(element.offset()) {
                Some(offset) => offset.max(start),
                None if topic == shards || self.start_from == StartFrom::Earliest => start,
                None => end,
            };
            if from < end {
                waiting.insert((topic.to_owned(), convert::partition(partition)), Waiting { from, end, oldest: None });
            }
        }
        Ok(waiting)
    }

    /// Reads the first record of each partition: it tells how long it waits, and that it is one. Behind the last record
    /// of a transaction comes its marker, which no committed offset passes.
    fn look_at_the_first(&self, waiting: &mut Partitions, stop: &Shutdown) -> KafkaResult<()> {
        let deadline = Instant::now() + LOOK;
        let now = Timestamp::of_system_time(SystemTime::now());
        // One after the other: rdkafka tells the end of a partition without its topic.
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
                go_on(stop)?;
                match self.records.poll(GLANCE) {
                    None if Instant::now() >= deadline => break,
                    None => {}
                    Some(Err(KafkaError::PartitionEOF(partition))) => {
                        let partition = convert::partition(partition);
                        if open.remove(&partition) {
                            waiting.remove(&(topic.clone(), partition));
                        }
                    }
                    Some(Err(error)) => tracing::debug!("looking at waiting records: {error}"),
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
    fn what_is_on_its_way_is_not_worth_telling() {
        let lag = |records, oldest| Lag {
            sources: vec![TopicLag { records, oldest, ..TopicLag::default() }],
            shards: TopicLag::default(),
        };
        assert!(!lag(0, None).is_worth_telling());
        assert!(!lag(5000, Some(Duration::from_millis(80))).is_worth_telling());
        assert!(lag(1, Some(Duration::from_secs(2))).is_worth_telling());
        assert!(lag(20_000, Some(Duration::ZERO)).is_worth_telling(), "a producer's clock may be ahead");
    }

    #[test]
    fn it_reads_well() {
        let sources =
            vec![TopicLag { records: 12_345, oldest: Some(Duration::from_millis(3210)), ..TopicLag::default() }];
        let shards = TopicLag { records: 678, oldest: Some(Duration::from_millis(100)), ..TopicLag::default() };
        let lag = Lag { sources, shards };
        assert_eq!(lag.to_string(), "12,345 records in sources, 678 in shards, the oldest waits 3.2 s");
        assert_eq!(Lag::default().to_string(), "0 records in sources, 0 in shards");
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let times = [75, 3700, 200_000].map(|seconds| for_people(Duration::from_secs(seconds)));
        assert_eq!(times, ["1 min 15 s", "1 h 1 min", "2 d 7 h"]);
    }
}
