//! Kafka as a test sees it from outside: topics, records with every byte of their headers, committed offsets.

use std::collections::BTreeSet;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::{Builder, Runtime};

use crate::progress::{self, NO_PROGRESS_LIMIT, Stall};

/// How long a single call may take. A running broker answers at once.
const BROKER_CALL_LIMIT: Duration = NO_PROGRESS_LIMIT;

/// A name for a topic, an application or a group that is unique on this broker: `prefix-<process>-<number>`.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A record, to be sent or received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub topic: String,
    /// To send, `None` lets the key decide, as in Java clients. A received record has it.
    pub partition: Option<i32>,
    /// `None` to send. A received record has it.
    pub offset: Option<i64>,
    /// Milliseconds since the epoch. To send, `None` means now. A received record has it.
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// In order. A name may repeat, and a value may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    fn received(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        Self {
            topic: message.topic().to_owned(),
            partition: Some(message.partition()),
            offset: Some(message.offset()),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
        }
    }
}

/// Administers, produces and reads. Every call blocks until the broker has answered, or fails after
/// [`NO_PROGRESS_LIMIT`].
pub struct Client {
    bootstrap: String,
    runtime: Runtime,
    admin: AdminClient<DefaultClientContext>,
    producer: BaseProducer<Deliveries>,
}

impl Client {
    /// A client of the brokers at `bootstrap` (`host:port,...`); connects on first use.
    pub fn new(bootstrap: &str) -> Result<Self> {
        let config = config(bootstrap);
        let mut producer = config.clone();
        producer
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("message.max.bytes", "8388608");
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            runtime: Builder::new_current_thread().build()?,
            admin: config.create()?,
            producer: producer.create_with_context(Deliveries)?,
        })
    }

    /// Creates a topic with the broker's default replication, and waits until it can be used.
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<()> {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let results = self.runtime.block_on(self.admin.create_topics([&topic], &admin_options()))?;
        for result in results {
            result.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
        }
        self.wait_for_topic(name, true)
    }

    /// Deletes topics, and waits until they are gone.
    pub fn delete_topics(&self, names: &[&str]) -> Result<()> {
        for result in self.runtime.block_on(self.admin.delete_topics(names, &admin_options()))? {
            result.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
        }
        names.iter().try_for_each(|name| self.wait_for_topic(name, false))
    }

    /// The names of all topics.
    pub fn topics(&self) -> Result<Vec<String>> {
        let metadata = self.admin.inner().fetch_metadata(None, BROKER_CALL_LIMIT)?;
        Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
    }

    /// Sets a group's offset of a partition, as an operator does: without metadata. The group must have no members.
    pub fn set_offset(&self, group: &str, topic: &str, partition: i32, offset: i64) -> Result<()> {
        self.set_offset_with(group, topic, partition, offset, "")
    }

    /// The same with this metadata, as another program may do it.
    pub fn set_offset_with(&self, group: &str, topic: &str, partition: i32, offset: i64, metadata: &str) -> Result<()> {
        let consumer: BaseConsumer = config(&self.bootstrap).set("group.id", group).create()?;
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(topic, partition);
        element.set_offset(Offset::Offset(offset))?;
        if !metadata.is_empty() {
            element.set_metadata(metadata);
        }
        Ok(consumer.commit(&list, CommitMode::Sync)?)
    }

    /// The offset of the first record that a partition still has.
    pub fn log_start(&self, topic: &str, partition: i32) -> Result<i64> {
        Ok(self.admin.inner().fetch_watermarks(topic, partition, BROKER_CALL_LIMIT)?.0)
    }

    /// Gives a topic these settings, and removes all others.
    pub fn alter_topic(&self, name: &str, settings: &[(&str, &str)]) -> Result<()> {
        let resource = AlterConfig::new(ResourceSpecifier::Topic(name));
        let altered = settings.iter().fold(resource, |altered, (key, value)| altered.set(key, value));
        for result in self.runtime.block_on(self.admin.alter_configs([&altered], &admin_options()))? {
            result.map_err(|(_, code)| anyhow!("topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// Deletes the records of a partition before this offset.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before))?;
        let deleted = self.runtime.block_on(self.admin.delete_records(&list, &admin_options()))?;
        deleted.elements().iter().try_for_each(|partition| Ok(partition.error()?))
    }

    /// Waits until the brokers show that a topic exists, or that it is gone. The controller acknowledges the change
    /// earlier than the brokers show it.
    pub fn wait_for_topic(&self, name: &str, there: bool) -> Result<()> {
        let what = format!("the brokers to show that topic {name} is {}", if there { "there" } else { "gone" });
        progress::wait_until(&what, || Ok(partitions(self.admin.inner(), name).is_ok() == there))
    }

    /// Sends records in their order, and returns partition and offset of each once all are acknowledged.
    pub fn produce(&self, records: &[Record]) -> Result<Vec<(i32, i64)>> {
        let deliveries: Vec<DeliveredAt> = records.iter().map(|_| DeliveredAt::default()).collect();
        for (record, delivered_at) in records.iter().zip(&deliveries) {
            let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_ref() })
            });
            let mut outgoing = BaseRecord::with_opaque_to(&record.topic, Arc::clone(delivered_at)).headers(headers);
            outgoing.partition = record.partition;
            outgoing.timestamp = record.timestamp;
            outgoing.key = record.key.as_ref();
            outgoing.payload = record.value.as_ref();
            self.producer.send(outgoing).map_err(|(error, _)| error)?;
        }
        let unacknowledged = || deliveries.iter().filter(|delivered_at| delivered_at.get().is_none()).count();
        let mut stall = Stall::new(unacknowledged());
        while let left @ 1.. = unacknowledged() {
            stall.check(left).with_context(|| format!("{left} records are not acknowledged"))?;
            // librdkafka blocks for the whole time-out, even if an acknowledgement arrives earlier.
            self.producer.poll(Duration::from_millis(1));
        }
        let outcomes = deliveries.iter().map(|delivered_at| delivered_at.get().expect("waited for above").clone());
        let topics = records.iter().map(|record| &record.topic);
        outcomes.zip(topics).map(|(outcome, topic)| outcome.with_context(|| format!("producing to {topic}"))).collect()
    }

    /// Reads these topics, all partitions from the beginning, committed records only.
    pub fn reader(&self, topics: &[&str]) -> Result<Reader> {
        Reader::new(&self.bootstrap, topics)
    }

    /// All records that the topic has now, up to its last stable offset.
    pub fn read_all(&self, topic: &str) -> Result<Vec<Record>> {
        self.reader(&[topic])?.read_to_end(BROKER_CALL_LIMIT)
    }

    /// How many records of the topic are not consumed by the group, by its stable committed offsets.
    pub fn lag(&self, group: &str, topic: &str) -> Result<usize> {
        let committed = self.committed(group, topic)?;
        let is_left = |record: &&Record| {
            let partition = record.partition.and_then(|partition| usize::try_from(partition).ok());
            record.offset >= partition.and_then(|partition| committed[partition])
        };
        Ok(self.read_all(topic)?.iter().filter(is_left).count())
    }

    /// The end of each partition of the topic: its last stable offset, or its high watermark.
    pub fn ends(&self, topic: &str, stable: bool) -> Result<Vec<i64>> {
        let isolation = if stable { "read_committed" } else { "read_uncommitted" };
        let consumer: BaseConsumer = config(&self.bootstrap).set("isolation.level", isolation).create()?;
        let end = |partition| Ok(consumer.fetch_watermarks(topic, partition, BROKER_CALL_LIMIT)?.1);
        partitions(consumer.client(), topic)?.into_iter().map(end).collect()
    }

    /// A view of a topic's open transactions.
    pub fn transactions(&self, topic: &str) -> Result<Transactions> {
        let reader = |isolation: &str| -> Result<BaseConsumer> {
            Ok(config(&self.bootstrap).set("group.id", "never used").set("isolation.level", isolation).create()?)
        };
        let committed = reader("read_committed")?;
        let uncommitted = reader("read_uncommitted")?;
        let partitions = partitions(committed.client(), topic)?;
        Ok(Transactions { topic: topic.to_owned(), partitions, committed, uncommitted })
    }

    /// The group's stable committed offsets in this topic, by partition. `None` where the group has no offset.
    pub fn committed(&self, group: &str, topic: &str) -> Result<Vec<Option<i64>>> {
        let committed = self.committed_with_metadata(group, topic)?;
        Ok(committed.into_iter().map(|committed| committed.map(|(offset, _)| offset)).collect())
    }

    /// The same with the metadata of each offset.
    pub fn committed_with_metadata(&self, group: &str, topic: &str) -> Result<Vec<Option<(i64, String)>>> {
        let consumer: BaseConsumer = config(&self.bootstrap).set("group.id", group).create()?;
        let mut asked = TopicPartitionList::new();
        for partition in partitions(consumer.client(), topic)? {
            asked.add_partition(topic, partition);
        }
        let committed = consumer.committed_offsets(asked, BROKER_CALL_LIMIT)?;
        committed
            .elements()
            .iter()
            .map(|partition| match (partition.error(), partition.offset()) {
                (Err(error), _) => Err(error.into()),
                (Ok(()), Offset::Offset(offset)) => Ok(Some((offset, partition.metadata().to_owned()))),
                (Ok(()), _) => Ok(None),
            })
            .collect()
    }
}

/// Partition and offset of a sent record, once the broker has acknowledged it.
type DeliveredAt = Arc<OnceLock<Result<(i32, i64), KafkaError>>>;

struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = DeliveredAt;

    fn delivery(&self, result: &DeliveryResult<'_>, delivered_at: DeliveredAt) {
        let result = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        delivered_at.set(result).expect("a record is delivered once");
    }
}

/// A reader that continues where it stopped, and keeps everything that it has read.
pub struct Reader {
    consumer: BaseConsumer,
    topics: String,
    partitions: usize,
    records: Vec<Record>,
    /// The last error. librdkafka continues after an error, so it matters only when the records do not arrive.
    error: Option<KafkaError>,
}

impl Reader {
    fn new(bootstrap: &str, topics: &[&str]) -> Result<Self> {
        let consumer: BaseConsumer = config(bootstrap)
            .set("group.id", "never used")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()?;
        let mut assigned = TopicPartitionList::new();
        for topic in topics {
            for partition in partitions(consumer.client(), topic)? {
                assigned.add_partition_offset(topic, partition, Offset::Beginning)?;
            }
        }
        consumer.assign(&assigned)?;
        Ok(Self { consumer, topics: topics.join(", "), partitions: assigned.count(), records: Vec::new(), error: None })
    }

    /// Reads until `condition` holds for all records that this reader has read, and returns them. Fails when no further
    /// record arrives for `limit`. `what` names the condition in the error.
    pub fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&[Record]) -> bool,
    ) -> Result<&[Record]> {
        let mut stall = Stall::with_limit(self.records.len(), limit);
        while !condition(&self.records) {
            self.step(&stall);
            self.check(what, limit, &mut stall)?;
        }
        Ok(&self.records)
    }

    fn read_to_end(mut self, limit: Duration) -> Result<Vec<Record>> {
        let mut stall = Stall::with_limit(self.records.len(), limit);
        let mut ended = BTreeSet::new();
        while ended.len() < self.partitions {
            ended.extend(self.step(&stall));
            self.check("the end", limit, &mut stall)?;
        }
        Ok(self.records)
    }

    /// Takes one record, or returns the partition whose end was reached. Does neither when nothing arrives before the
    /// limit.
    fn step(&mut self, stall: &Stall<usize>) -> Option<i32> {
        match self.consumer.poll(stall.left()) {
            Some(Ok(message)) => self.records.push(Record::received(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => return Some(partition),
            Some(Err(error)) => self.error = Some(error),
            None => {}
        }
        None
    }

    /// Fails when no further record has arrived for the limit.
    fn check(&self, what: &str, limit: Duration, stall: &mut Stall<usize>) -> Result<()> {
        let Self { topics, records, error, .. } = self;
        if stall.check(records.len()).is_err() {
            let last = &records[records.len().saturating_sub(3)..];
            let seen = format!("{} records in {topics}, last error: {error:?}, last records: {last:#?}", records.len());
            bail!("{limit:?} passed before {what}; {seen}");
        }
        Ok(())
    }
}

/// Made by [`Client::transactions`].
pub struct Transactions {
    topic: String,
    partitions: Vec<i32>,
    committed: BaseConsumer,
    uncommitted: BaseConsumer,
}

impl Transactions {
    /// Whether a transaction is open: the topic has records that a read_committed reader cannot see yet.
    pub fn is_open(&self) -> Result<bool> {
        Ok(self.open_records()? > 0)
    }

    /// A lower bound of the number of records that a read_committed reader cannot see yet.
    pub fn open_records(&self) -> Result<i64> {
        let mut open = 0;
        for partition in &self.partitions {
            // The high watermark first: a record that is written between the two calls does not look open.
            let (_, high) = self.uncommitted.fetch_watermarks(&self.topic, *partition, BROKER_CALL_LIMIT)?;
            let (_, stable) = self.committed.fetch_watermarks(&self.topic, *partition, BROKER_CALL_LIMIT)?;
            open += (high - stable).max(0);
        }
        Ok(open)
    }
}

pub(crate) fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        // Clients find a restarted broker at once.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "200");
    config
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(BROKER_CALL_LIMIT)).request_timeout(Some(BROKER_CALL_LIMIT))
}

fn partitions<C: ClientContext>(client: &rdkafka::client::Client<C>, topic: &str) -> Result<Vec<i32>> {
    let metadata = client.fetch_metadata(Some(topic), BROKER_CALL_LIMIT)?;
    let found = &metadata.topics()[0];
    if let Some(code) = found.error() {
        bail!("topic {topic}: {code:?}");
    }
    ensure!(!found.partitions().is_empty(), "topic {topic} has no partitions");
    let mut partitions: Vec<i32> = found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    partitions.sort_unstable();
    Ok(partitions)
}
