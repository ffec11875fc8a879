//! The clients of the benchmarks, and the records that they send.

use std::time::Duration;

use anyhow::Result;
use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::{Header, OwnedHeaders, ToBytes};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use switchboard_core::record::TenantId;
use switchboard_tests::app::{App, MESSENGER};
use switchboard_tests::kafka::Kafka;

pub(crate) const TENANTS: usize = 100;
pub(crate) const CHARACTERS: usize = 10;
/// The number of partitions of each source topic.
pub(crate) const PARTITIONS: i32 = 8;
/// How long a measurement may make no progress before it fails.
pub(crate) const STALL_LIMIT: Duration = Duration::from_mins(10);

pub(crate) fn config(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap());
    config
}

pub(crate) fn producer(kafka: &Kafka) -> Result<BaseProducer> {
    let mut config = config(kafka);
    config.set("enable.idempotence", "true").set("linger.ms", "5").set("partitioner", "murmur2_random");
    // By default brokers accept slightly larger records than librdkafka.
    config.set("message.max.bytes", "2097152");
    Ok(config.set("delivery.report.only.error", "true").create()?)
}

pub(crate) fn consumer(kafka: &Kafka, group: &str) -> Result<BaseConsumer> {
    let mut config = config(kafka);
    config
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "5");
    Ok(config.create()?)
}

/// Sends commands with which characters open, enter and leave rooms at random. Each command gives one output. The last
/// record of each tenant is not JSON: its dead letter shows that all records before it are settled.
pub(crate) fn fill(kafka: &Kafka, app: &App, count: usize) -> Result<()> {
    let producer = producer(kafka)?;
    let mut random = Random::default();
    for _ in 0..count {
        let tenant = random.below(TENANTS);
        let actor = random.below(CHARACTERS) + 1;
        let body = command(actor, &mut random);
        send(&producer, app.topic(MESSENGER[0]), tenant, actor, &body)?;
    }
    for tenant in 0..TENANTS {
        send(&producer, app.topic(MESSENGER[0]), tenant, 0, "the end")?;
    }
    producer.flush(STALL_LIMIT)?;
    Ok(())
}

/// Random numbers, the same in each run.
pub(crate) struct Random(usize);

impl Default for Random {
    fn default() -> Self {
        Self(0x2545_f491_4f6c_dd1d)
    }
}

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A command with which a character opens, enters or leaves a room. It gives one output.
pub(crate) fn command(actor: usize, random: &mut Random) -> String {
    let room = 1_000_000_000 + random.below(CHARACTERS);
    let (kind, body) = match random.below(3) {
        0 => ("CREATE", String::new()),
        1 => ("JOIN", format!(r#""messengerId":{room}"#)),
        _ => ("LEAVE", format!(r#""messengerId":{room}"#)),
    };
    let transaction = "6b1e1f64-9d2c-4a55-8d65-6b0c4c0c2b11";
    format!(r#"{{"transactionId":"{transaction}","actorId":{actor},"type":"{kind}","body":{{{body}}}}}"#)
}

/// A character's LOGIN. It gives no output.
pub(crate) fn login(actor: usize) -> String {
    format!(r#"{{"worldId":0,"characterId":{actor},"type":"LOGIN","body":{{"channelId":1}}}}"#)
}

/// Sends a LOGIN for each character, so that the messenger knows them. The last record of each tenant is not JSON.
pub(crate) fn log_in(kafka: &Kafka, app: &App) -> Result<()> {
    let producer = producer(kafka)?;
    for (tenant, actor) in (0..TENANTS).flat_map(|tenant| (1..=CHARACTERS).map(move |actor| (tenant, actor))) {
        send(&producer, app.topic(MESSENGER[1]), tenant, actor, &login(actor))?;
    }
    for tenant in 0..TENANTS {
        send(&producer, app.topic(MESSENGER[1]), tenant, 0, "the end")?;
    }
    Ok(producer.flush(STALL_LIMIT)?)
}

pub(crate) fn per_second(count: usize, time: Duration) -> Result<f64> {
    Ok(f64::from(u32::try_from(count)?) / time.as_secs_f64())
}

pub(crate) fn send(producer: &BaseProducer, topic: &str, tenant: usize, actor: usize, value: &str) -> Result<()> {
    let key = [u32::try_from(actor)?.to_le_bytes(), [0; 4]].concat();
    // One partition for each tenant, so that its records keep their order.
    let partition = i32::try_from(tenant)? % PARTITIONS;
    enqueue(producer, BaseRecord::to(topic).partition(partition).key(&key).payload(value).headers(headers(tenant)))
}

/// The headers of a tenant's message.
pub(crate) fn headers(tenant: usize) -> OwnedHeaders {
    OwnedHeaders::new()
        .insert(Header { key: "TENANT_ID", value: Some(&uuid(tenant)) })
        .insert(Header { key: "REGION", value: Some("GMS") })
        .insert(Header { key: "MAJOR_VERSION", value: Some(&[0, 83]) })
        .insert(Header { key: "MINOR_VERSION", value: Some(&[0, 1]) })
        .insert(Header { key: "traceparent", value: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01") })
}

/// The UUID of a tenant.
pub(crate) fn uuid(tenant: usize) -> String {
    format!("00000000-0000-4000-8000-{tenant:012}")
}

/// The canonical text of a tenant, of which the host computes its shard.
pub(crate) fn tenant_id(tenant: usize) -> TenantId {
    TenantId::new(format!("{}/GMS/83/1", uuid(tenant)))
}

/// Adds a record to the producer's queue. Waits while the queue is full.
pub(crate) fn enqueue<K: ToBytes + ?Sized, P: ToBytes + ?Sized>(
    producer: &BaseProducer,
    mut record: BaseRecord<'_, K, P>,
) -> Result<()> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((error, back)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => record = back,
            Err((error, _)) => return Err(error.into()),
        }
        producer.poll(Duration::from_millis(1));
    }
}
