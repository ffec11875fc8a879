//! The worker's ports on librdkafka: one worker's clients behind the names that the core uses.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use switchboard_checkpoint::Checkpoints;
use switchboard_core::record::{Offset, Record, ShardId};
use switchboard_core::worker::{
    self, Cause, Destination, Event, Fault, GroupOffset, NotNow, Partition, Restored, Start,
};

use super::consumer_errors::ConsumerErrors;
use super::context::Rebalance;
use super::convert;
use super::group_member::{GroupMember, WAKE_INTERVAL};
use super::options::ClientOptions;
use super::producer::Producer;
use super::source_reader::SourceReader;
use super::topic_names::TopicNames;
use super::wake_up::WakeUp;
use crate::restore::Restore;
use crate::sys;
use crate::topics::{SourceTopics, Topology, Watermarks};

/// How long a request to a broker may block the worker. Its other shards wait meanwhile.
const BROKER_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// One worker's connection to Kafka.
pub struct KafkaBroker {
    options: ClientOptions,
    topology: Arc<Topology>,
    worker: usize,
    names: TopicNames,
    /// Topics of the aliases that were produced to.
    output_topics: HashMap<Arc<str>, String>,
    source_topics: Arc<SourceTopics>,
    /// `None` while the worker is no member of the group.
    consumers: Option<Consumers>,
    /// Woken by both consumers, and by whoever has a clone.
    wake_up: WakeUp,
    restore: Restore,
    watermarks: Arc<Watermarks>,
    producer: Option<Producer>,
    /// A new producer that has no epoch from the coordinator yet.
    next_producer: Option<Producer>,
    /// The failure of a call that returns nothing. The next event reports it.
    pending_failure: Option<Cause>,
    started: Instant,
    member_errors: ConsumerErrors,
    source_errors: ConsumerErrors,
}

/// The consumers of shards and of source partitions.
struct Consumers {
    /// Dropped first: the sources of a shard are no longer read when the group gets the shard back.
    sources: SourceReader,
    member: GroupMember,
    /// Which of the two is polled first. It alternates, so that a backlog of one does not keep back the other.
    member_first: bool,
}

/// What the workers of a process share.
#[derive(Clone)]
pub struct SharedClients {
    /// Where logs start and end.
    pub watermarks: Arc<Watermarks>,
    /// The partitions of the source topics.
    pub source_topics: Arc<SourceTopics>,
    /// `None`: no checkpoints.
    pub checkpoints: Option<Checkpoints>,
}

impl KafkaBroker {
    /// A worker's broker. It joins the group with `join`.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(
        options: ClientOptions,
        topology: Arc<Topology>,
        shared: SharedClients,
        worker: usize,
    ) -> KafkaResult<Self> {
        let SharedClients { watermarks, source_topics, checkpoints } = shared;
        Ok(Self {
            names: TopicNames::new(&topology),
            output_topics: HashMap::new(),
            source_topics,
            consumers: None,
            wake_up: WakeUp::default(),
            restore: Restore::new(&options.restore_consumer(), topology.changelog.clone(), checkpoints, worker)?,
            member_errors: ConsumerErrors::new(&options.app),
            source_errors: ConsumerErrors::new(&options.app),
            options,
            topology,
            worker,
            watermarks,
            producer: None,
            next_producer: None,
            pending_failure: None,
            started: Instant::now(),
        })
    }

    /// Wakes the worker while it waits in a poll. It stays the same for the broker's whole life.
    pub fn wake_up(&self) -> WakeUp {
        self.wake_up.clone()
    }

    /// Reports the failure of a call that returns nothing with the next event. Otherwise a partition would be owned but never read,
    /// or the group would wait for ever.
    fn note_failure(&mut self, what: &str, result: KafkaResult<()>) {
        if let Err(error) = result {
            self.pending_failure = Some(convert::cause(format!("{what}: {error}"), &error));
        }
    }

    fn rebalance(&mut self) -> Option<Event> {
        Some(match joined(&mut self.consumers).member.next_rebalance()? {
            Rebalance::Assign(names) => Event::Assigned(self.names.shards(&names)),
            Rebalance::Revoke { partitions, lost: false } => Event::Revoked(self.names.shards(&partitions)),
            Rebalance::Revoke { partitions, lost: true } => Event::Lost(self.names.shards(&partitions)),
        })
    }

    /// The next event of either consumer. Does not wait.
    fn next_event(&mut self, now: Instant) -> Option<Event> {
        if let Some(event) = self.rebalance() {
            return Some(event);
        }
        let consumers = joined(&mut self.consumers);
        consumers.member_first = !consumers.member_first;
        if consumers.member_first {
            self.poll_member(now).or_else(|| self.poll_sources(now))
        } else {
            self.poll_sources(now).or_else(|| self.poll_member(now))
        }
    }

    fn poll_member(&mut self, now: Instant) -> Option<Event> {
        let member = &mut joined(&mut self.consumers).member;
        let error = match member.poll(now) {
            None => return self.rebalance(),
            Some(Ok(message)) => {
                let unknown = || Event::Failed(format!("received a record of the topic {}", message.topic()).into());
                return Some(self.names.consumed(&message).map_or_else(unknown, Event::Record));
            }
            Some(Err(error)) => error,
        };
        let has_timed_out = member.consumer().context().has_timed_out();
        self.member_errors.of_member(&error, &self.topology.repartition, has_timed_out)
    }

    fn poll_sources(&mut self, now: Instant) -> Option<Event> {
        let sources = &mut joined(&mut self.consumers).sources;
        match sources.poll(now, &self.names)? {
            Ok(consumed) => Some(Event::Record(consumed)),
            Err(error) => self.source_errors.of_source_reader(&error, &sources.topics(&self.names)),
        }
    }

    fn producer(&self) -> Result<&Producer, Fault> {
        self.producer.as_ref().ok_or_else(|| Fault::Fatal("there is no producer".into()))
    }
}

fn not_now(what: &str) -> impl Fn(KafkaError) -> NotNow + '_ {
    move |error| NotNow(convert::cause(format!("{what}: {error}"), &error))
}

/// The consumers of a worker that is a member of the group.
fn joined(consumers: &mut Option<Consumers>) -> &mut Consumers {
    consumers.as_mut().expect("the worker joins first")
}

/// Shards and source partitions, apart.
fn split(partitions: &[Partition]) -> (Vec<Partition>, Vec<Partition>) {
    partitions.iter().copied().partition(|partition| matches!(partition, Partition::Shard(_)))
}

impl worker::Clock for KafkaBroker {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

impl worker::Consumer for KafkaBroker {
    fn join(&mut self) -> Result<(), Fault> {
        if self.consumers.is_some() {
            return Ok(());
        }
        let fatal = |error: KafkaError| Fault::Fatal(convert::cause(error.to_string(), &error));
        let sources = SourceReader::new(&self.options.source_consumer(), self.wake_up()).map_err(fatal)?;
        let member = GroupMember::join(&self.options, &self.topology.repartition, self.worker, self.wake_up());
        let member = member.map_err(fatal)?;
        self.consumers = Some(Consumers { sources, member, member_first: false });
        Ok(())
    }

    fn leave(&mut self) {
        self.restore.release_all();
        self.consumers = None;
        self.pending_failure = None;
    }

    fn consume(&mut self, aliases: &[Arc<str>], consumed: &[usize]) {
        self.names.set_aliases(aliases, &self.topology);
        let topics = consumed.iter().map(|topic| self.names.source(*topic).to_owned());
        self.source_topics.consume(self.worker, topics);
    }

    fn partition_count(&mut self, topic: usize) -> u32 {
        let name = self.names.source(topic);
        let count = self.source_topics.partition_count(name);
        if let (Some(consumers), 1..) = (&mut self.consumers, count) {
            consumers.sources.find_leaders(topic, name, count);
        }
        count
    }

    fn poll(&mut self, wait: Duration) -> Event {
        if let Some(cause) = self.pending_failure.take() {
            return Event::Failed(cause);
        }
        let mut now = Instant::now();
        let deadline = now + wait;
        loop {
            self.wake_up.clear_consumer();
            if let Some(event) = self.next_event(now) {
                return event;
            }
            let Consumers { sources, member, .. } = joined(&mut self.consumers);
            // A poll finds nothing also when it takes a log line from the queue.
            if member.is_empty() && sources.is_empty() {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() || self.wake_up.take_outside() {
                    return Event::Nothing;
                }
                self.wake_up.wait(left.min(WAKE_INTERVAL));
            }
            now = Instant::now();
        }
    }

    fn stable_offsets(&mut self, partitions: &[Partition]) -> Result<Vec<Option<GroupOffset>>, NotNow> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        // A read_committed consumer requests stable offsets. While a transaction that has sent offsets is open, the coordinator
        // answers UNSTABLE_OFFSET_COMMIT, and librdkafka repeats the request until the time-out.
        let error = not_now("the committed offsets are not stable");
        let list = self.names.partition_list(partitions.iter().copied());
        let consumer = joined(&mut self.consumers).member.consumer();
        let committed = consumer.committed_offsets(list, BROKER_REQUEST_TIMEOUT).map_err(&error)?;
        let offset = |partition: &Partition| {
            let (topic, index) = self.names.topic_partition(*partition);
            let Some(element) = committed.find_partition(topic, index.get()) else {
                return Err(NotNow(format!("the answer has no committed offset of {topic}[{index}]").into()));
            };
            element.error().map_err(&error)?;
            let offset = match element.offset() {
                KafkaOffset::Invalid => return Ok(None),
                other => convert::absolute(other).ok_or_else(|| {
                    NotNow(format!("the committed offset of {topic}[{index}] is not a number: {other:?}").into())
                })?,
            };
            // Empty where there is none. Brokers keep it as text, so it is UTF-8, which rdkafka demands.
            Ok(Some(GroupOffset { offset, metadata: element.metadata().to_owned() }))
        };
        partitions.iter().map(offset).collect()
    }

    fn log_bounds(&mut self, partition: Partition) -> Result<Range<Offset>, NotNow> {
        let (topic, index) = self.names.topic_partition(partition);
        self.watermarks
            .stable_bounds(topic, index, BROKER_REQUEST_TIMEOUT)
            .map_err(not_now("the bounds of the log cannot be fetched"))
    }

    fn accept_assignment(&mut self) {
        let result = joined(&mut self.consumers).member.assign(&TopicPartitionList::new());
        self.note_failure("cannot accept an assignment", result);
    }

    fn give_back(&mut self, shards: &[ShardId]) {
        for shard in shards {
            self.restore.release(*shard);
        }
        let list = self.names.partition_list(shards.iter().copied().map(Partition::Shard));
        let result = joined(&mut self.consumers).member.unassign(&list);
        self.note_failure("cannot give up shards", result);
    }

    fn start(&mut self, starts: &[Start]) {
        let is_shard = |start: &Start| matches!(start.partition, Partition::Shard(_));
        let (shards, source_partitions): (Vec<_>, Vec<_>) = starts.iter().copied().partition(is_shard);
        let (held, read): (Vec<_>, Vec<_>) = shards.into_iter().partition(|start| start.paused);
        let list = |starts: &[Start]| {
            let offsets = starts.iter().map(|start| (start.partition, convert::to_absolute(start.offset)));
            self.names.offset_list(offsets)
        };
        let Consumers { sources, member, .. } = joined(&mut self.consumers);
        member.hold(&list(&held));
        let mut result = if read.is_empty() { Ok(()) } else { member.assign(&list(&read)) };
        result = result.and(sources.start(&source_partitions, &self.names));
        self.note_failure("cannot read partitions", result);
    }

    fn stop(&mut self, sources: &[Partition]) {
        let result = joined(&mut self.consumers).sources.stop(sources, &self.names);
        self.note_failure("cannot stop reading source partitions", result);
    }

    fn pause(&mut self, partitions: &[Partition]) {
        let (shards, source_partitions) = split(partitions);
        let Consumers { sources, member, .. } = joined(&mut self.consumers);
        let result = member.pause(&self.names.partition_list(shards));
        let result = result.and(sources.pause(&source_partitions, &self.names));
        self.note_failure("cannot pause partitions", result);
    }

    fn seek(&mut self, partition: Partition, offset: Offset) {
        let Consumers { sources, member, .. } = joined(&mut self.consumers);
        match partition {
            Partition::Source { .. } => sources.seek(partition, offset),
            Partition::Shard(_) => {
                let (topic, index) = self.names.topic_partition(partition);
                let result = member.seek(topic, index, offset, BROKER_REQUEST_TIMEOUT);
                self.note_failure("cannot seek", result);
            }
        }
    }

    fn resume(&mut self, partitions: &[Partition]) {
        let (shards, source_partitions) = split(partitions);
        let Consumers { sources, member, .. } = joined(&mut self.consumers);
        let result = member.resume(&self.names.partition_list(shards));
        let result = result.and(sources.resume(&source_partitions, &self.names));
        self.note_failure("cannot resume partitions", result);
    }
}

impl worker::Changelog for KafkaBroker {
    fn changelog_end(&mut self, shard: ShardId) -> Result<Offset, NotNow> {
        let end = self.watermarks.high_watermark(&self.topology.changelog, shard.into(), BROKER_REQUEST_TIMEOUT);
        end.map_err(not_now("the end of the changelog cannot be fetched"))
    }

    fn changelog_stable_bounds(&mut self, shard: ShardId) -> Result<Range<Offset>, NotNow> {
        let bounds = self.watermarks.stable_bounds(&self.topology.changelog, shard.into(), BROKER_REQUEST_TIMEOUT);
        bounds.map_err(not_now("the stable end of the changelog cannot be fetched"))
    }

    fn start_restore(&mut self, shard: ShardId, bounds: Range<Offset>) {
        let result = self.restore.start(shard, bounds);
        self.note_failure("cannot read the changelog", result);
    }

    fn poll_restore(&mut self, wait: Duration) -> Restored {
        self.restore.poll(wait).unwrap_or_else(|error| {
            self.pending_failure = Some(error.cause());
            Restored::Nothing
        })
    }

    fn stop_restore(&mut self, shard: ShardId) {
        self.restore.stop(shard);
    }
}

impl worker::Producer for KafkaBroker {
    fn is_live_member(&self) -> bool {
        self.consumers.as_ref().is_some_and(|consumers| {
            let consumer = consumers.member.consumer();
            !consumer.assignment_lost() && sys::is_member(consumer)
        })
    }

    fn producer_is_suspect(&self) -> bool {
        self.producer.as_ref().is_none_or(Producer::is_suspect)
    }

    fn renew_producer(&mut self) -> Result<(), Fault> {
        // Dropped first: the records that it still holds must not be sent.
        self.producer = None;
        let next = match self.next_producer.take() {
            Some(next) => next,
            None => Producer::new(&self.options.producer(self.worker), &self.topology)?,
        };
        match next.init() {
            Ok(()) => {
                self.producer = Some(next);
                Ok(())
            }
            Err(fault) => {
                // librdkafka continues with the request. The same call on the same producer resumes it.
                if matches!(fault, Fault::Retriable(_)) {
                    self.next_producer = Some(next);
                }
                Err(fault)
            }
        }
    }

    fn drop_producer(&mut self) {
        self.producer = None;
    }

    fn begin(&mut self) -> Result<(), Fault> {
        self.producer()?.begin()
    }

    fn send(&mut self, destination: Destination<'_>, record: &Record) -> Result<(), Fault> {
        let topology = &self.topology;
        let (topic, partition) = match destination {
            Destination::Output(alias) => {
                if !self.output_topics.contains_key(alias) {
                    let alias = Arc::from(alias);
                    let name = topology.name(&alias);
                    self.output_topics.insert(alias, name);
                }
                (self.output_topics[alias].as_str(), None)
            }
            Destination::Shard(shard) => (topology.repartition.as_str(), Some(shard.into())),
            Destination::Changelog(shard) => (topology.changelog.as_str(), Some(shard.into())),
            Destination::DeadLetters => (topology.dead_letters.as_str(), None),
        };
        self.producer()?.send(topic, partition, record)
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.producer()?.flush()
    }

    fn send_offsets(&mut self, offsets: &[(Partition, GroupOffset)]) -> Result<(), Fault> {
        let Some(consumers) = &self.consumers else { return Err(Fault::NotAMember("the group was left".into())) };
        self.producer()?.send_offsets(&self.names.group_offset_list(offsets), consumers.member.consumer())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.producer()?.commit()
    }

    fn abort(&mut self) -> Result<(), Fault> {
        self.producer()?.abort()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rdkafka::consumer::CommitMode;
    use rdkafka::types::RDKafkaRespErr;
    use switchboard_core::worker::{Consumed, Consumer as _, KafkaErrorCode, Producer as _};

    use super::super::mock::Mock;
    use super::*;

    /// The only partition of the topic IN.
    fn source() -> Partition {
        Partition::Source { topic: 0, index: 0.into() }
    }

    /// The only shard.
    fn shard() -> Partition {
        Partition::Shard(0.into())
    }

    fn start(partition: Partition) -> Start {
        Start { partition, offset: Offset::ZERO, paused: false }
    }

    fn until_assigned(broker: &mut KafkaBroker) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while broker.poll(Duration::from_secs(1)) != Event::Assigned(vec![0.into()]) {
            assert!(Instant::now() < deadline, "no assignment");
        }
    }

    /// A broker to which the group assigned the shard.
    fn assigned(mock: &Mock) -> KafkaBroker {
        for topic in ["IN", "app-switchboard-repartition", "app-switchboard-changelog"] {
            mock.create_topic(topic, 1);
        }
        // The mock broker lets a fetch wait for its whole time, whatever arrives meanwhile.
        let options = mock.options(&[("fetch.wait.max.ms", "10")]);
        let shared = SharedClients {
            watermarks: Arc::new(Watermarks::new(&options).unwrap()),
            source_topics: Arc::new(SourceTopics::start(&options).unwrap()),
            checkpoints: None,
        };
        let topology = Topology::new("app", BTreeMap::new(), |_| None);
        let mut broker = KafkaBroker::new(options, Arc::new(topology), shared, 0).unwrap();
        broker.consume(&["IN".into()], &[0]);
        broker.join().unwrap();
        until_assigned(&mut broker);
        broker.accept_assignment();
        broker
    }

    /// A broker that reads the source and the shard, each from its start.
    fn reading(mock: &Mock) -> KafkaBroker {
        let mut broker = assigned(mock);
        broker.start(&[start(source()), start(shard())]);
        broker
    }

    fn next_record(broker: &mut KafkaBroker) -> (Partition, Offset) {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            match broker.poll(Duration::from_secs(1)) {
                Event::Record(Consumed { partition, offset, .. }) => return (partition, offset),
                event => assert_eq!(event, Event::Nothing),
            }
            assert!(Instant::now() < deadline, "no record");
        }
    }

    /// Without a wake-up a record would still be found, but late.
    #[test]
    fn a_record_of_either_consumer_wakes_a_worker_that_found_nothing() {
        let mock = Mock::with_topics(&[]);
        let mut broker = reading(&mock);
        let wake_up = broker.wake_up();
        while broker.poll(Duration::ZERO) != Event::Nothing {}
        for _ in 0..20 {
            for (topic, partition) in [("IN", source()), ("app-switchboard-repartition", shard())] {
                mock.produce(topic, 1);
                loop {
                    assert!(wake_up.wait(Duration::from_mins(1)), "no wake-up for {topic}");
                    match broker.poll(Duration::ZERO) {
                        Event::Record(record) => break assert_eq!(record.partition, partition),
                        event => assert_eq!(event, Event::Nothing),
                    }
                }
                assert_eq!(broker.poll(Duration::ZERO), Event::Nothing);
            }
        }
    }

    #[test]
    fn a_poll_that_waits_is_ended_from_outside_once() {
        let mock = Mock::with_topics(&[]);
        let mut broker = reading(&mock);
        while broker.poll(Duration::ZERO) != Event::Nothing {}
        let wake_up = broker.wake_up();
        let day = Duration::from_hours(24);
        std::thread::scope(|scope| {
            scope.spawn(|| wake_up.wake());
            assert_eq!(broker.poll(day), Event::Nothing);
        });
        // Before the poll. One that does not wait leaves the signal to the next one.
        wake_up.wake();
        assert_eq!(broker.poll(Duration::ZERO), Event::Nothing);
        assert_eq!(broker.poll(day), Event::Nothing);
        // The signal is taken.
        let (wait, started) = (Duration::from_millis(300), Instant::now());
        assert_eq!(broker.poll(wait), Event::Nothing);
        assert!(started.elapsed() >= wait);
    }

    #[test]
    fn a_signal_from_outside_does_not_keep_back_records() {
        let mock = Mock::with_topics(&[]);
        let mut broker = reading(&mock);
        mock.produce("IN", 1);
        while joined(&mut broker.consumers).sources.is_empty() {
            std::thread::yield_now();
        }
        broker.wake_up().wake();
        let day = Duration::from_hours(24);
        while !matches!(broker.poll(day), Event::Record(_)) {}
        assert_eq!(broker.poll(day), Event::Nothing, "the signal is still there");
    }

    fn group_offset(offset: i64, metadata: &str) -> GroupOffset {
        GroupOffset { offset: Offset::new(offset).unwrap(), metadata: metadata.to_owned() }
    }

    fn stable_offsets(broker: &mut KafkaBroker) -> Vec<Option<GroupOffset>> {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            match broker.stable_offsets(&[source(), shard()]) {
                Ok(offsets) => return offsets,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    #[test]
    fn metadata_of_committed_offsets_comes_back_as_it_was_sent() {
        let mock = Mock::with_topics(&[]);
        let mut broker = assigned(&mock);
        assert_eq!(stable_offsets(&mut broker), [None, None]);
        // Brokers take 4,096 bytes by default.
        let longest = "a\u{e9}".repeat(4096 / 3);
        for (of_source, of_shard) in [("", "+/0="), (longest.as_str(), ""), ("", "")] {
            let offsets = [(source(), group_offset(3, of_source)), (shard(), group_offset(0, of_shard))];
            // Not in a transaction: the mock broker forgets offsets of those. `send_offsets` makes the same list.
            let list = broker.names.group_offset_list(&offsets);
            joined(&mut broker.consumers).member.consumer().commit(&list, CommitMode::Sync).unwrap();
            assert_eq!(stable_offsets(&mut broker), offsets.map(|(_, offset)| Some(offset)));
        }
    }

    /// Without the error the group takes them.
    #[test]
    fn offsets_whose_metadata_is_too_long_are_refused_with_the_setting_to_change() {
        let mock = Mock::with_topics(&[]);
        let mut broker = assigned(&mock);
        let deadline = Instant::now() + Duration::from_mins(1);
        while let Err(fault) = broker.renew_producer() {
            assert!(matches!(fault, Fault::Retriable(_)) && Instant::now() < deadline, "{fault}");
        }
        let offsets = [(source(), group_offset(1, "a")), (shard(), group_offset(1, "b"))];
        broker.begin().unwrap();
        broker.send_offsets(&offsets).unwrap();
        mock.refuse_offsets(RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE);
        match broker.send_offsets(&offsets) {
            Err(Fault::Abortable(cause)) => {
                assert_eq!(cause.code.map(KafkaErrorCode::get), Some(12));
                assert!(cause.text.contains("offset.metadata.max.bytes"), "{cause}");
            }
            result => panic!("{result:?}"),
        }
        broker.abort().unwrap();
    }

    #[test]
    fn a_backlog_of_one_consumer_does_not_keep_back_the_other() {
        let mock = Mock::with_topics(&[]);
        let mut broker = reading(&mock);
        for topic in ["IN", "app-switchboard-repartition"] {
            mock.produce(topic, 1000);
        }
        let mut counts = BTreeMap::new();
        for _ in 0..100 {
            // Fetches bring a backlog bit by bit.
            let Consumers { sources, member, .. } = joined(&mut broker.consumers);
            while sources.is_empty() || member.is_empty() {
                std::thread::yield_now();
            }
            let Event::Record(Consumed { partition, .. }) = broker.poll(Duration::ZERO) else { continue };
            *counts.entry(partition).or_insert(0) += 1;
        }
        assert!(counts.len() == 2 && counts.values().all(|count| *count >= 25), "{counts:?}");
    }

    #[test]
    fn a_shard_that_is_started_paused_is_read_from_where_it_was_moved_to() {
        let mock = Mock::with_topics(&[]);
        let mut broker = assigned(&mock);
        mock.produce("app-switchboard-repartition", 10);
        broker.start(&[Start { paused: true, ..start(shard()) }]);
        let offset = Offset::new(3).unwrap();
        broker.seek(shard(), offset);
        broker.resume(&[shard()]);
        assert_eq!(next_record(&mut broker), (shard(), offset));
        // Now by librdkafka's own pause.
        broker.pause(&[shard()]);
        broker.seek(shard(), offset);
        broker.resume(&[shard()]);
        assert_eq!(next_record(&mut broker), (shard(), offset));
    }

    #[test]
    fn a_shard_that_was_never_resumed_can_be_given_back() {
        let mock = Mock::with_topics(&[]);
        let mut broker = assigned(&mock);
        mock.produce("app-switchboard-repartition", 1);
        broker.start(&[Start { paused: true, ..start(shard()) }]);
        broker.give_back(&[0.into()]);
        broker.start(&[start(shard())]);
        assert_eq!(next_record(&mut broker), (shard(), Offset::ZERO));
    }

    #[test]
    fn a_worker_that_left_the_group_joins_it_again() {
        let mock = Mock::with_topics(&[]);
        let mut broker = reading(&mock);
        broker.leave();
        assert!(!broker.is_live_member());
        broker.join().unwrap();
        until_assigned(&mut broker);
    }
}
