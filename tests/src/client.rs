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

/// How long a single call may take. A live broker answers it at once.
const CALL: Duration = NO_PROGRESS_LIMIT;

/// A name for a topic, an app or a group that nobody else on this broker uses: `prefix-<process>-<number>`.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A record, to be sent or received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub topic: String,
    /// None to send means by key, as Java clients do; a received one has it.
    pub partition: Option<i32>,
    /// None to send; a received one has it.
    pub offset: Option<i64>,
    /// Milliseconds since the epoch. None to send means now; a received one has it.
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// In order; a name may come twice, a value may be null.
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

/// Administers, produces and reads. Every call blocks until the broker has answered, or fails after [`NO_PROGRESS_LIMIT`].
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

    /// Creates a topic with the broker's default replication. It can be used when this returns.
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

    /// Deletes topics. They are gone when this returns.
    pub fn delete_topics(&self, names: &[&str]) -> Result<()> {
        for result in self.runtime.block_on(self.admin.delete_topics(names, &admin_options()))? {
            result.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
        }
        names.iter().try_for_each(|name| self.wait_for_topic(name, false))
    }

    /// The names of all topics.
    pub fn topics(&self) -> Result<Vec<String>> {
        let metadata = self.admin.inner().fetch_metadata(None, CALL)?;
        Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
    }

    /// Sets a group's offset of a partition, as an operator does. The group has no members.
    pub fn set_offset(&self, group: &str, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let consumer: BaseConsumer = config(&self.bootstrap).set("group.id", group).create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        Ok(consumer.commit(&list, CommitMode::Sync)?)
    }

    /// The offset of the first record that a partition still has.
    pub fn log_start(&self, topic: &str, partition: i32) -> Result<i64> {
        Ok(self.admin.inner().fetch_watermarks(topic, partition, CALL)?.0)
    }

    /// Gives a topic these settings, and takes away all others.
    pub fn alter_topic(&self, name: &str, settings: &[(&str, &str)]) -> Result<()> {
        let resource = AlterConfig::new(ResourceSpecifier::Topic(name));
        let altered = settings.iter().fold(resource, |altered, (key, value)| altered.set(key, value));
        for result in self.runtime.block_on(self.admin.alter_configs([&altered], &admin_options()))? {
            result.map_err(|(_, code)| anyhow!("topic {name}: {code}"))?;
        }
        Ok(())
    }

    /// Deletes the records of a partition that are before this offset.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before))?;
        let deleted = self.runtime.block_on(self.admin.delete_records(&list, &admin_options()))?;
        deleted.elements().iter().try_for_each(|partition| Ok(partition.error()?))
    }

    /// Waits until the brokers show that a topic is there, or that it is gone; they do so later than the controller
    /// acknowledges it.
    pub fn wait_for_topic(&self, name: &str, there: bool) -> Result<()> {
        let what = format!("the brokers to show that topic {name} is {}", if there { "there" } else { "gone" });
        progress::wait_until(&what, || Ok(partitions(self.admin.inner(), name).is_ok() == there))
    }

    /// Sends records in their order, and returns partition and offset of each once all are acknowledged.
    pub fn produce(&self, records: &[Record]) -> Result<Vec<(i32, i64)>> {
        let places: Vec<Place> = records.iter().map(|_| Place::default()).collect();
        for (record, place) in records.iter().zip(&places) {
            let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_ref() })
            });
            let mut outgoing = BaseRecord::with_opaque_to(&record.topic, Arc::clone(place)).headers(headers);
            outgoing.partition = record.partition;
            outgoing.timestamp = record.timestamp;
            outgoing.key = record.key.as_ref();
            outgoing.payload = record.value.as_ref();
            self.producer.send(outgoing).map_err(|(error, _)| error)?;
        }
        let unacknowledged = || places.iter().filter(|place| place.get().is_none()).count();
        let mut stall = Stall::new(unacknowledged());
        while let left @ 1.. = unacknowledged() {
            stall.check(left).with_context(|| format!("{left} records are not acknowledged"))?;
            // It blocks for all of that time, whatever arrives meanwhile.
            self.producer.poll(Duration::from_millis(1));
        }
        let outcomes = places.iter().map(|place| place.get().expect("waited for above").clone());
        let topics = records.iter().map(|record| &record.topic);
        outcomes.zip(topics).map(|(place, topic)| place.with_context(|| format!("producing to {topic}"))).collect()
    }

    /// Reads these topics, all partitions from the beginning, committed records only.
    pub fn reader(&self, topics: &[&str]) -> Result<Reader> {
        Reader::new(&self.bootstrap, topics)
    }

    /// All records that the topic has now, up to its last stable offset.
    pub fn read_all(&self, topic: &str) -> Result<Vec<Record>> {
        self.reader(&[topic])?.read_to_end(CALL)
    }

    /// Where each partition of the topic ends: its last stable offset, or its high watermark.
    pub fn ends(&self, topic: &str, stable: bool) -> Result<Vec<i64>> {
        let isolation = if stable { "read_committed" } else { "read_uncommitted" };
        let consumer: BaseConsumer = config(&self.bootstrap).set("isolation.level", isolation).create()?;
        let end = |partition| Ok(consumer.fetch_watermarks(topic, partition, CALL)?.1);
        partitions(consumer.client(), topic)?.into_iter().map(end).collect()
    }

    /// Looks at a topic's open transactions.
    pub fn transactions(&self, topic: &str) -> Result<Transactions> {
        let reader = |isolation: &str| -> Result<BaseConsumer> {
            Ok(config(&self.bootstrap).set("group.id", "never used").set("isolation.level", isolation).create()?)
        };
        let (committed, uncommitted) = (reader("read_committed")?, reader("read_uncommitted")?);
        let partitions = partitions(committed.client(), topic)?;
        Ok(Transactions { topic: topic.to_owned(), partitions, committed, uncommitted })
    }

    /// The group's stable committed offsets in this topic, by partition; none where it has none.
    pub fn committed(&self, group: &str, topic: &str) -> Result<Vec<Option<i64>>> {
        let consumer: BaseConsumer = config(&self.bootstrap).set("group.id", group).create()?;
        let mut asked = TopicPartitionList::new();
        for partition in partitions(consumer.client(), topic)? {
            asked.add_partition(topic, partition);
        }
        let committed = consumer.committed_offsets(asked, CALL)?;
        committed
            .elements()
            .iter()
            .map(|partition| match (partition.error(), partition.offset()) {
                (Err(error), _) => Err(error.into()),
                (Ok(()), Offset::Offset(offset)) => Ok(Some(offset)),
                (Ok(()), _) => Ok(None),
            })
            .collect()
    }
}

/// Partition and offset of a record sent, once it is known.
type Place = Arc<OnceLock<Result<(i32, i64), KafkaError>>>;

struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Place;

    fn delivery(&self, result: &DeliveryResult<'_>, place: Place) {
        let result = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        place.set(result).expect("a record is delivered once");
    }
}

/// Reads on where it stopped, and keeps all it has read.
pub struct Reader {
    consumer: BaseConsumer,
    topics: String,
    partitions: usize,
    records: Vec<Record>,
    /// librdkafka goes on after an error: it matters only when the records do not come.
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

    /// Reads until `condition` holds for all that was read since the reader was made, and returns that. Fails when nothing
    /// further has come for `limit`; `what` names the condition in the error.
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

    /// Takes one record, or returns the partition whose end was reached; neither when nothing comes as long as it may take.
    fn step(&mut self, stall: &Stall<usize>) -> Option<i32> {
        match self.consumer.poll(stall.left()) {
            Some(Ok(message)) => self.records.push(Record::received(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => return Some(partition),
            Some(Err(error)) => self.error = Some(error),
            None => {}
        }
        None
    }

    /// Fails when no further record has come for the limit.
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
    /// Whether one is open: records are there that a read_committed reader is not yet shown.
    pub fn is_open(&self) -> Result<bool> {
        Ok(self.open_records()? > 0)
    }

    /// How many records, at least, are there that a read_committed reader is not yet shown.
    pub fn open_records(&self) -> Result<i64> {
        let mut open = 0;
        for partition in &self.partitions {
            // In this order: what is written in between does not look like it.
            let (_, high) = self.uncommitted.fetch_watermarks(&self.topic, *partition, CALL)?;
            let (_, stable) = self.committed.fetch_watermarks(&self.topic, *partition, CALL)?;
            open += (high - stable).max(0);
        }
        Ok(open)
    }
}

pub(crate) fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        // A broker that is started again is found at once.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "200");
    config
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(CALL)).request_timeout(Some(CALL))
}

fn partitions<C: ClientContext>(client: &rdkafka::client::Client<C>, topic: &str) -> Result<Vec<i32>> {
    let metadata = client.fetch_metadata(Some(topic), CALL)?;
    let found = &metadata.topics()[0];
    if let Some(code) = found.error() {
        bail!("topic {topic}: {code:?}");
    }
    ensure!(!found.partitions().is_empty(), "topic {topic} has no partitions");
    let mut partitions: Vec<i32> = found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
    partitions.sort_unstable();
    Ok(partitions)
}
