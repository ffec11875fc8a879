use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use switchboard_core::record::{Offset, PartitionIndex, Record, ShardId};
use switchboard_core::worker::{
    Broker, Cause, Consumed, Destination, Event, Fault, NotNow, Partition, Restored, Start,
};

use super::client::{GroupContext, Rebalance, ThrottledWarn};
use super::convert;
use super::group::Member;
use super::producer::Producer;
use super::properties::ClientOptions;
use super::restore::Restore;
use super::sys;
use super::topology::Topology;
use super::watermarks::Watermarks;
use switchboard_checkpoint::Checkpoints;

/// How long a question to a broker may hold up the worker: its other shards wait meanwhile.
const QUESTION: Duration = Duration::from_millis(500);

/// One worker's Kafka, by librdkafka.
pub struct KafkaBroker {
    options: ClientOptions,
    topology: Arc<Topology>,
    worker: usize,
    /// Topics of the aliases that were ever consumed, by their places in `Partition::Source`.
    sources: Vec<String>,
    /// What the group is joined for.
    subscription: Vec<String>,
    /// Topics of the aliases that were produced to.
    outputs: HashMap<Arc<str>, String>,
    /// `None` before the first `subscribe`, and while a restart has not gone through, which the worker does before anything
    /// else.
    group: Option<Member>,
    restore: Restore,
    readers: Arc<Watermarks>,
    producer: Option<Producer>,
    /// A new producer whose epoch the coordinator has not given yet.
    coming: Option<Producer>,
    /// What went wrong in a call that has no answer; the next event tells it.
    broken: Option<Cause>,
    started: Instant,
    nag: ThrottledWarn,
}

impl KafkaBroker {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(
        options: ClientOptions,
        topology: Arc<Topology>,
        readers: Arc<Watermarks>,
        checkpoints: Option<Checkpoints>,
        worker: usize,
    ) -> KafkaResult<Self> {
        Ok(Self {
            sources: Vec::new(),
            subscription: Vec::new(),
            outputs: HashMap::new(),
            group: None,
            restore: Restore::new(&options.restore_consumer(), topology.changelog.clone(), checkpoints, worker)?,
            options,
            topology,
            worker,
            readers,
            producer: None,
            coming: None,
            broken: None,
            started: Instant::now(),
            nag: ThrottledWarn::default(),
        })
    }

    /// A partition by the broker's names; `None` for a topic that was never consumed.
    fn partition(&self, topic: &str, index: i32) -> Option<Partition> {
        let index = convert::partition(index);
        if topic == self.topology.shards {
            return Some(Partition::Shard(index.into()));
        }
        let topic = self.sources.iter().position(|source| source == topic)?;
        Some(Partition::Source { topic, index })
    }

    /// The inverse of `partition`.
    fn name(&self, partition: Partition) -> (&str, PartitionIndex) {
        match partition {
            Partition::Source { topic, index } => (&self.sources[topic], index),
            Partition::Shard(shard) => (&self.topology.shards, shard.into()),
        }
    }

    fn partitions(&self, names: &[(String, i32)]) -> Vec<Partition> {
        names.iter().filter_map(|(topic, index)| self.partition(topic, *index)).collect()
    }

    fn list(&self, partitions: impl IntoIterator<Item = (Partition, KafkaOffset)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in partitions {
            let (topic, index) = self.name(partition);
            list.add_partition_offset(topic, index.get(), offset).expect("offsets of records are never negative");
        }
        list
    }

    fn names(&self, partitions: impl IntoIterator<Item = Partition>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            let (topic, index) = self.name(partition);
            list.add_partition(topic, index.get());
        }
        list
    }

    fn consumer(&self) -> &BaseConsumer<GroupContext> {
        self.group.as_ref().expect("joined anew before anything else").consumer()
    }

    fn group(&mut self) -> &mut Member {
        self.group.as_mut().expect("joined anew before anything else")
    }

    /// Without this the partition would be ours and never read, or the group would wait for ever.
    fn must(&mut self, what: &str, result: KafkaResult<()>) {
        if let Err(error) = result {
            self.broken = Some(convert::cause(format!("{what}: {error}"), &error));
        }
    }

    fn rebalance(&mut self) -> Option<Event> {
        Some(match self.group().next_rebalance()? {
            Rebalance::Assign(names) => Event::Assigned(self.partitions(&names)),
            Rebalance::Revoke { partitions, lost: false } => Event::Revoked(self.partitions(&partitions)),
            Rebalance::Revoke { partitions, lost: true } => Event::Lost(self.partitions(&partitions)),
        })
    }

    fn consumed(&self, message: &BorrowedMessage<'_>) -> Option<Consumed> {
        Some(Consumed {
            partition: self.partition(message.topic(), message.partition())?,
            offset: convert::offset_of(message),
            record: Record {
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: message.headers().map(sys::read_headers).unwrap_or_default(),
                timestamp: convert::timestamp_of(message),
            },
        })
    }

    fn failed(&mut self, error: &KafkaError) -> Event {
        match error {
            KafkaError::MessageConsumptionFatal(Code::FencedInstanceId)
                if self.consumer().context().has_timed_out() =>
            {
                let text = "the session was over, and a heartbeat of the former member fenced this one";
                Event::Failed(convert::cause(text.into(), error))
            }
            KafkaError::MessageConsumptionFatal(Code::FencedInstanceId) => {
                Event::Fenced(convert::cause("another member has this instance id".into(), error))
            }
            KafkaError::MessageConsumptionFatal(code) => {
                Event::Failed(convert::cause(format!("the consumer is of no more use: {code}"), error))
            }
            KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                Event::Failed(convert::cause("records were deleted before they were read".into(), error))
            }
            KafkaError::MessageConsumption(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                let sources = self.subscription.iter().filter(|topic| **topic != self.topology.shards);
                let topics = sources.map(String::as_str).collect::<Vec<_>>().join(", ");
                self.nag.warn(format!("a source topic does not exist yet (of {topics}); its records are awaited"));
                Event::Nothing
            }
            KafkaError::MessageConsumption(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
                let (group, topics) = (&self.options.app, self.subscription.join(", "));
                self.nag.warn(format!(
                    "not allowed: this client needs READ on the group {group} and on the topics {topics}; trying on"
                ));
                Event::Nothing
            }
            // Told by the client as a whole when it lasts.
            KafkaError::MessageConsumption(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve) => {
                Event::Nothing
            }
            other => {
                self.nag.warn(format!("consuming: {other}; trying on"));
                Event::Nothing
            }
        }
    }

    fn producer(&self) -> Result<&Producer, Fault> {
        self.producer.as_ref().ok_or_else(|| Fault::Fatal("there is no producer".into()))
    }
}

fn not_now(what: &str) -> impl Fn(KafkaError) -> NotNow + '_ {
    move |error| NotNow(convert::cause(format!("{what}: {error}"), &error))
}

impl Broker for KafkaBroker {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn subscribe(&mut self, aliases: &[Arc<str>], consumed: &[Arc<str>]) {
        self.sources = aliases.iter().map(|alias| self.topology.name(alias)).collect();
        let topics = consumed.iter().map(|alias| self.topology.name(alias));
        self.subscription = topics.chain([self.topology.shards.clone()]).collect();
        let result = match &self.group {
            Some(member) => member.subscribe(&self.subscription),
            None => {
                Member::join(&self.options, &self.subscription, self.worker).map(|member| self.group = Some(member))
            }
        };
        self.must("subscribing", result);
    }

    fn poll(&mut self, wait: Duration) -> Event {
        if let Some(why) = self.broken.take() {
            return Event::Failed(why);
        }
        if let Some(event) = self.rebalance() {
            return event;
        }
        let began = (!wait.is_zero()).then(Instant::now);
        let polled = match self.consumer().poll(wait) {
            None => None,
            Some(Ok(message)) => Some(self.consumed(&message).ok_or_else(|| message.topic().to_owned())),
            Some(Err(error)) => return self.failed(&error),
        };
        match polled {
            Some(Ok(consumed)) => Event::Record(consumed),
            Some(Err(topic)) => Event::Failed(format!("a record of {topic}, to which nobody subscribed").into()),
            None => self.rebalance().unwrap_or_else(|| {
                self.group().keep_pace();
                // A log line ends a poll too, before all else.
                if began.is_some_and(|began| began.elapsed() >= wait) {
                    self.group().drained();
                }
                Event::Nothing
            }),
        }
    }

    fn stable_offsets(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Offset>>, NotNow> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        // A read_committed consumer asks for stable offsets: while a transaction that has sent offsets is open, the
        // coordinator answers UNSTABLE_OFFSET_COMMIT, and librdkafka asks again until the time-out.
        let error = not_now("the committed offsets are not stable");
        let list = self.names(partitions.iter().copied());
        let committed = self.consumer().committed_offsets(list, QUESTION).map_err(&error)?;
        let offset = |partition: &Partition| {
            let (topic, index) = self.name(*partition);
            let Some(element) = committed.find_partition(topic, index.get()) else {
                return Err(NotNow(
                    format!("the committed offset of {topic}[{index}] is missing in the answer").into(),
                ));
            };
            element.error().map_err(&error)?;
            match element.offset() {
                KafkaOffset::Invalid => Ok(None),
                other => convert::absolute(other).map(Some).ok_or_else(|| {
                    NotNow(format!("a committed offset of {topic}[{index}] that is none: {other:?}").into())
                }),
            }
        };
        partitions.iter().map(offset).collect()
    }

    fn log_bounds(&mut self, partition: Partition) -> Result<Range<Offset>, NotNow> {
        let (topic, index) = self.name(partition);
        self.readers.stable_bounds(topic, index, QUESTION).map_err(not_now("the log's bounds cannot be had"))
    }

    fn assign(&mut self, starts: &[Start]) {
        let list = self.list(starts.iter().map(|start| (start.partition, convert::to_absolute(start.offset))));
        let paused = self.names(starts.iter().filter(|start| start.paused).map(|start| start.partition));
        let result = self.group().assign(&list, &paused);
        self.must("assigning", result);
    }

    fn unassign(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Partition::Shard(shard) = partition {
                self.restore.release(*shard);
            }
        }
        let list = self.names(partitions.iter().copied());
        let result = self.group().unassign(&list);
        self.must("unassigning", result);
    }

    fn pause(&mut self, partitions: &[Partition]) {
        // librdkafka drops what it has read ahead of these, and fetches it again after `resume`.
        let result = self.consumer().pause(&self.names(partitions.iter().copied()));
        self.must("pausing", result);
    }

    fn resume(&mut self, partitions: &[Partition]) {
        let result = self.consumer().resume(&self.names(partitions.iter().copied()));
        self.must("resuming", result);
    }

    fn seek(&mut self, partition: Partition, offset: Offset) {
        let (topic, index) = self.name(partition);
        let topic = topic.to_owned();
        let result = self.group().seek(&topic, index, offset, QUESTION);
        self.must("seeking", result);
    }

    fn changelog_end(&mut self, shard: ShardId) -> Result<Offset, NotNow> {
        let end = self.readers.high_watermark(&self.topology.changelog, shard.into(), QUESTION);
        end.map_err(not_now("the changelog's end cannot be had"))
    }

    fn changelog_stable_bounds(&mut self, shard: ShardId) -> Result<Range<Offset>, NotNow> {
        let bounds = self.readers.stable_bounds(&self.topology.changelog, shard.into(), QUESTION);
        bounds.map_err(not_now("the changelog's stable end cannot be had"))
    }

    fn start_restore(&mut self, shard: ShardId, bounds: Range<Offset>) {
        let result = self.restore.start(shard, bounds);
        self.must("reading the changelog", result);
    }

    fn poll_restore(&mut self, wait: Duration) -> Restored {
        self.restore.poll(wait).unwrap_or_else(|error| {
            self.broken = Some(error.cause());
            Restored::Nothing
        })
    }

    fn stop_restore(&mut self, shard: ShardId) {
        self.restore.stop(shard);
    }

    fn is_live_member(&self) -> bool {
        !self.consumer().assignment_lost() && sys::is_member(self.consumer())
    }

    fn producer_is_suspect(&self) -> bool {
        self.producer.as_ref().is_none_or(Producer::is_suspect)
    }

    fn renew_producer(&mut self) -> Result<(), Fault> {
        // Dropped first: what it still holds is not to be sent any more.
        self.producer = None;
        let coming = match self.coming.take() {
            Some(coming) => coming,
            None => Producer::new(&self.options.producer(self.worker), &self.topology)?,
        };
        match coming.init() {
            Ok(()) => {
                self.producer = Some(coming);
                Ok(())
            }
            Err(fault) => {
                // librdkafka goes on asking; the same call takes it up.
                if matches!(fault, Fault::Retriable(_)) {
                    self.coming = Some(coming);
                }
                Err(fault)
            }
        }
    }

    fn begin(&mut self) -> Result<(), Fault> {
        self.producer()?.begin()
    }

    fn send(&mut self, destination: Destination<'_>, record: &Record) -> Result<(), Fault> {
        let topology = &self.topology;
        let (topic, partition) = match destination {
            Destination::Output(alias) => {
                if !self.outputs.contains_key(alias) {
                    let alias = Arc::from(alias);
                    let name = topology.name(&alias);
                    self.outputs.insert(alias, name);
                }
                (self.outputs[alias].as_str(), None)
            }
            Destination::Shard(shard) => (topology.shards.as_str(), Some(shard.into())),
            Destination::Changelog(shard) => (topology.changelog.as_str(), Some(shard.into())),
            Destination::DeadLetters => (topology.dead_letters.as_str(), None),
        };
        self.producer()?.send(topic, partition, record)
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.producer()?.flush()
    }

    fn send_offsets(&mut self, offsets: &[(Partition, Offset)]) -> Result<(), Fault> {
        let list = self.list(offsets.iter().map(|(partition, offset)| (*partition, convert::to_absolute(*offset))));
        self.producer()?.send_offsets(&list, self.consumer())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.producer()?.commit()
    }

    fn abort(&mut self) -> Result<(), Fault> {
        self.producer()?.abort()
    }

    fn restart(&mut self) -> Result<(), Fault> {
        self.producer = None;
        self.restore.release_all();
        // First left, then joined anew: a static member would fence itself.
        self.group = None;
        self.broken = None;
        let member = Member::join(&self.options, &self.subscription, self.worker);
        self.group = Some(member.map_err(|error| Fault::Fatal(convert::cause(error.to_string(), &error)))?);
        Ok(())
    }
}
