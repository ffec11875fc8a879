//! The worker's `Broker` on librdkafka: one worker's clients behind the names that the core uses.

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

use switchboard_checkpoint::{Checkpoints, ThrottledWarn};

use super::context::{GroupContext, Rebalance};
use super::convert;
use super::group_member::GroupMember;
use super::options::ClientOptions;
use super::producer::Producer;
use crate::restore::Restore;
use crate::sys;
use crate::topics::{Topology, Watermarks};

/// How long a request to a broker may block the worker. Its other shards wait meanwhile.
const BROKER_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// One worker's connection to Kafka.
pub struct KafkaBroker {
    options: ClientOptions,
    topology: Arc<Topology>,
    worker: usize,
    /// Topics of all aliases that were ever consumed. `Partition::Source` has indices into this list.
    source_topics: Vec<String>,
    /// The topics for which the worker is a member of the group.
    subscription: Vec<String>,
    /// Topics of the aliases that were produced to.
    output_topics: HashMap<Arc<str>, String>,
    /// `None` before the first `subscribe`, and after a failed restart. The worker repeats a restart before anything else.
    member: Option<GroupMember>,
    restore: Restore,
    watermarks: Arc<Watermarks>,
    producer: Option<Producer>,
    /// A new producer that has no epoch from the coordinator yet.
    next_producer: Option<Producer>,
    /// The failure of a call that returns nothing. The next event reports it.
    pending_failure: Option<Cause>,
    started: Instant,
    trouble: ThrottledWarn,
}

impl KafkaBroker {
    /// A worker's broker. It joins the group at the first `subscribe`.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(
        options: ClientOptions,
        topology: Arc<Topology>,
        watermarks: Arc<Watermarks>,
        checkpoints: Option<Checkpoints>,
        worker: usize,
    ) -> KafkaResult<Self> {
        Ok(Self {
            source_topics: Vec::new(),
            subscription: Vec::new(),
            output_topics: HashMap::new(),
            member: None,
            restore: Restore::new(&options.restore_consumer(), topology.changelog.clone(), checkpoints, worker)?,
            options,
            topology,
            worker,
            watermarks,
            producer: None,
            next_producer: None,
            pending_failure: None,
            started: Instant::now(),
            trouble: ThrottledWarn::default(),
        })
    }

    /// The worker's name of a partition; `None` for a topic that was never consumed.
    fn partition(&self, topic: &str, index: i32) -> Option<Partition> {
        let index = convert::partition(index);
        if topic == self.topology.repartition {
            return Some(Partition::Shard(index.into()));
        }
        let topic = self.source_topics.iter().position(|source| source == topic)?;
        Some(Partition::Source { topic, index })
    }

    /// The inverse of `partition`.
    fn topic_partition(&self, partition: Partition) -> (&str, PartitionIndex) {
        match partition {
            Partition::Source { topic, index } => (&self.source_topics[topic], index),
            Partition::Shard(shard) => (&self.topology.repartition, shard.into()),
        }
    }

    fn partitions(&self, names: &[(String, i32)]) -> Vec<Partition> {
        names.iter().filter_map(|(topic, index)| self.partition(topic, *index)).collect()
    }

    fn offset_list(&self, partitions: impl IntoIterator<Item = (Partition, KafkaOffset)>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in partitions {
            let (topic, index) = self.topic_partition(partition);
            list.add_partition_offset(topic, index.get(), offset).expect("offsets of records are never negative");
        }
        list
    }

    fn partition_list(&self, partitions: impl IntoIterator<Item = Partition>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            let (topic, index) = self.topic_partition(partition);
            list.add_partition(topic, index.get());
        }
        list
    }

    fn consumer(&self) -> &BaseConsumer<GroupContext> {
        self.member.as_ref().expect("the worker subscribes or restarts first").consumer()
    }

    fn member(&mut self) -> &mut GroupMember {
        self.member.as_mut().expect("the worker subscribes or restarts first")
    }

    /// Reports the failure of a call that returns nothing with the next event. Otherwise a partition would be owned but never read,
    /// or the group would wait for ever.
    fn note_failure(&mut self, what: &str, result: KafkaResult<()>) {
        if let Err(error) = result {
            self.pending_failure = Some(convert::cause(format!("{what}: {error}"), &error));
        }
    }

    fn rebalance(&mut self) -> Option<Event> {
        Some(match self.member().next_rebalance()? {
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
                let text = "the session timed out, and a late heartbeat of the previous member fenced this one";
                Event::Failed(convert::cause(text.into(), error))
            }
            KafkaError::MessageConsumptionFatal(Code::FencedInstanceId) => {
                Event::Fenced(convert::cause("another member has this group instance id".into(), error))
            }
            KafkaError::MessageConsumptionFatal(code) => {
                Event::Failed(convert::cause(format!("the consumer failed and has to be created again: {code}"), error))
            }
            KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                Event::Failed(convert::cause("records were deleted before they were read".into(), error))
            }
            KafkaError::MessageConsumption(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                let source_topics = self.subscription.iter().filter(|topic| **topic != self.topology.repartition);
                let topics = source_topics.map(String::as_str).collect::<Vec<_>>().join(", ");
                self.trouble.report(format!("{error}"), || {
                    tracing::warn!(%topics, "a source topic does not exist yet; waiting for it");
                });
                Event::Nothing
            }
            KafkaError::MessageConsumption(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
                let (group, topics) = (&self.options.app, self.subscription.join(", "));
                self.trouble.report(format!("{error}"), || {
                    tracing::warn!(
                        %group,
                        %topics,
                        "not allowed: this client needs READ on the group and on the topics; retrying"
                    );
                });
                Event::Nothing
            }
            // The client's context reports it when it lasts.
            KafkaError::MessageConsumption(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve) => {
                Event::Nothing
            }
            other => {
                self.trouble
                    .report(format!("{other}"), || tracing::warn!(error = %other, "consuming failed; retrying"));
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
        self.source_topics = aliases.iter().map(|alias| self.topology.name(alias)).collect();
        let topics = consumed.iter().map(|alias| self.topology.name(alias));
        self.subscription = topics.chain([self.topology.repartition.clone()]).collect();
        let result = match &self.member {
            Some(member) => member.subscribe(&self.subscription),
            None => GroupMember::join(&self.options, &self.subscription, self.worker)
                .map(|member| self.member = Some(member)),
        };
        self.note_failure("cannot subscribe", result);
    }

    fn poll(&mut self, wait: Duration) -> Event {
        if let Some(cause) = self.pending_failure.take() {
            return Event::Failed(cause);
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
            Some(Err(topic)) => {
                Event::Failed(format!("received a record of the topic {topic}, which is not subscribed").into())
            }
            None => self.rebalance().unwrap_or_else(|| {
                self.member().keep_pace();
                // A log line ends a poll early. So only a poll that lasted for `wait` proves that nothing was left.
                if began.is_some_and(|began| began.elapsed() >= wait) {
                    self.member().drained();
                }
                Event::Nothing
            }),
        }
    }

    fn stable_offsets(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Offset>>, NotNow> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        // A read_committed consumer requests stable offsets. While a transaction that has sent offsets is open, the coordinator
        // answers UNSTABLE_OFFSET_COMMIT, and librdkafka repeats the request until the time-out.
        let error = not_now("the committed offsets are not stable");
        let list = self.partition_list(partitions.iter().copied());
        let committed = self.consumer().committed_offsets(list, BROKER_REQUEST_TIMEOUT).map_err(&error)?;
        let offset = |partition: &Partition| {
            let (topic, index) = self.topic_partition(*partition);
            let Some(element) = committed.find_partition(topic, index.get()) else {
                return Err(NotNow(format!("the answer has no committed offset of {topic}[{index}]").into()));
            };
            element.error().map_err(&error)?;
            match element.offset() {
                KafkaOffset::Invalid => Ok(None),
                other => convert::absolute(other).map(Some).ok_or_else(|| {
                    NotNow(format!("the committed offset of {topic}[{index}] is not a number: {other:?}").into())
                }),
            }
        };
        partitions.iter().map(offset).collect()
    }

    fn log_bounds(&mut self, partition: Partition) -> Result<Range<Offset>, NotNow> {
        let (topic, index) = self.topic_partition(partition);
        self.watermarks
            .stable_bounds(topic, index, BROKER_REQUEST_TIMEOUT)
            .map_err(not_now("the bounds of the log cannot be fetched"))
    }

    fn assign(&mut self, starts: &[Start]) {
        let list = self.offset_list(starts.iter().map(|start| (start.partition, convert::to_absolute(start.offset))));
        let paused = self.partition_list(starts.iter().filter(|start| start.paused).map(|start| start.partition));
        let result = self.member().assign(&list, &paused);
        self.note_failure("cannot assign partitions", result);
    }

    fn unassign(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Partition::Shard(shard) = partition {
                self.restore.release(*shard);
            }
        }
        let list = self.partition_list(partitions.iter().copied());
        let result = self.member().unassign(&list);
        self.note_failure("cannot give up partitions", result);
    }

    fn pause(&mut self, partitions: &[Partition]) {
        // librdkafka drops what it has read ahead of these partitions, and fetches it again after `resume`.
        let result = self.consumer().pause(&self.partition_list(partitions.iter().copied()));
        self.note_failure("cannot pause partitions", result);
    }

    fn resume(&mut self, partitions: &[Partition]) {
        let result = self.consumer().resume(&self.partition_list(partitions.iter().copied()));
        self.note_failure("cannot resume partitions", result);
    }

    fn seek(&mut self, partition: Partition, offset: Offset) {
        let (topic, index) = self.topic_partition(partition);
        let topic = topic.to_owned();
        let result = self.member().seek(&topic, index, offset, BROKER_REQUEST_TIMEOUT);
        self.note_failure("cannot seek", result);
    }

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

    fn is_live_member(&self) -> bool {
        !self.consumer().assignment_lost() && sys::is_member(self.consumer())
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

    fn send_offsets(&mut self, offsets: &[(Partition, Offset)]) -> Result<(), Fault> {
        let list =
            self.offset_list(offsets.iter().map(|(partition, offset)| (*partition, convert::to_absolute(*offset))));
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
        // Leave the group before joining again: a static member would fence itself.
        self.member = None;
        self.pending_failure = None;
        let member = GroupMember::join(&self.options, &self.subscription, self.worker);
        self.member = Some(member.map_err(|error| Fault::Fatal(convert::cause(error.to_string(), &error)))?);
        Ok(())
    }
}
