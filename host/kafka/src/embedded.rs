//! An embedded broker for demos: librdkafka's mock cluster in this process.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use switchboard_core::record::Record;

use crate::sys;
use crate::topics::Topology;

/// How long a write to the embedded broker may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// librdkafka's mock cluster: a broker in this process, for demos and first steps.
///
/// It speaks the protocol but gives none of the guarantees: it forgets the offsets that a transaction committed, shows aborted
/// records and fences nobody. Nothing that it shows is evidence for exactly-once.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl EmbeddedBroker {
    /// Starts a broker on a free port. It ends when this value is dropped.
    ///
    /// # Errors
    /// When librdkafka cannot start it.
    pub fn start() -> KafkaResult<Self> {
        let cluster = MockCluster::new(1)?;
        let servers = cluster.bootstrap_servers();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "0")
            .create()?;
        Ok(Self { cluster, producer })
    }

    /// Where clients connect to.
    pub fn bootstrap_servers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Creates every topic of a topology, with this number of shards. The mock does not understand requests to create topics.
    ///
    /// # Errors
    /// When librdkafka refuses one.
    pub fn create_topics(&self, topology: &Topology, shards: u32, source_partitions: i32) -> KafkaResult<()> {
        let shard_count = i32::try_from(shards).unwrap_or(i32::MAX);
        for (name, partitions) in
            [(&topology.repartition, shard_count), (&topology.changelog, shard_count), (&topology.dead_letters, 1)]
        {
            self.cluster.create_topic(name, partitions, 1)?;
        }
        for topic in topology.consumed.iter().chain(&topology.produced) {
            self.cluster.create_topic(&topic.name, source_partitions, 1)?;
        }
        Ok(())
    }

    /// Writes a record, without a transaction, and waits until the broker has it.
    ///
    /// # Errors
    /// When the broker does not take it within 10 s.
    pub fn send(&self, topic: &str, record: &Record) -> KafkaResult<()> {
        let mut out = BaseRecord::<[u8], [u8]>::to(topic).headers(sys::write_headers(&record.headers));
        out.key = record.key.as_deref();
        out.payload = record.value.as_deref();
        self.producer.send(out).map_err(|(error, _): (KafkaError, _)| error)?;
        let deadline = Instant::now() + SEND_TIMEOUT;
        while !sys::flush(&self.producer, Duration::from_millis(1)) {
            self.producer.poll(Duration::ZERO);
            if Instant::now() > deadline {
                return Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut));
            }
        }
        Ok(())
    }
}
