//! A load that keeps every host busy: each tenant always has the same number of commands in flight, so a host with more
//! tenants or less CPU does not starve the others.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use switchboard_core::record::shard_of;
use switchboard_tests::app::{App, MESSENGER};
use switchboard_tests::client::unique;
use switchboard_tests::kafka::Kafka;
use switchboard_tests::progress;

use crate::clients::{
    CHARACTERS, Random, STALL_LIMIT, command, consumer, enqueue, headers, login, producer, tenant_id, uuid,
};
use crate::ownership::Layout;

/// The number of tenants on each shard.
const TENANTS_PER_SHARD: usize = 6;
/// The longest wait of the sender while all windows are full, and of the reader for an output.
const POLL: Duration = Duration::from_millis(5);

/// What places a command on a partition of its topic. The partitioner is that of Java clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// The tenant. With as many partitions as shards, a tenant's partition is anchored to the tenant's own shard.
    Tenant,
    /// The character, as the messenger's own clients do it.
    Character,
}

/// Tenants, and the commands of each that are in flight. The load ends with [`Self::stop`].
pub(crate) struct Feed {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

/// The commands of one tenant.
struct Tenant {
    number: usize,
    sent: AtomicU64,
    settled: AtomicU64,
}

struct Shared {
    tenants: Vec<Tenant>,
    settled: AtomicU64,
    stop: AtomicBool,
}

impl Feed {
    /// Lets all characters log in, and starts to send. The application must have a running host. `window`: how many
    /// commands of each tenant are in flight.
    pub(crate) fn start(kafka: &Kafka, app: &App, layout: Layout, keys: Keys, window: u64) -> Result<Self> {
        let tenants = tenants(layout.shards)?;
        log_in(kafka, app, &tenants)?;
        let tenant = |number| Tenant { number, sent: AtomicU64::new(0), settled: AtomicU64::new(0) };
        let tenants = tenants.into_iter().map(tenant).collect();
        let shared = Arc::new(Shared { tenants, settled: AtomicU64::new(0), stop: AtomicBool::new(false) });
        let reader = consumer(kafka, &unique("feed"))?;
        let mut assignment = TopicPartitionList::new();
        for alias in &MESSENGER[3..] {
            for partition in 0..layout.partitions {
                assignment.add_partition_offset(app.topic(alias), partition, Offset::Beginning)?;
            }
        }
        reader.assign(&assignment)?;
        let read = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.read(&reader)
        });
        let sender = producer(kafka)?;
        let topic = app.topic(MESSENGER[0]).to_owned();
        let send = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.send(&sender, &topic, keys, window)
        });
        Ok(Self { shared, threads: vec![read, send] })
    }

    /// Waits until this many further commands are settled. Returns how long that took.
    pub(crate) fn settle(&self, count: u64) -> Result<Duration> {
        let settled = || self.shared.settled.load(Ordering::Relaxed);
        let (began, first) = (Instant::now(), settled());
        progress::wait_for(&format!("{count} further commands to be settled"), || {
            ensure!(self.threads.iter().all(|thread| !thread.is_finished()), "the load has ended by itself");
            let settled = settled();
            Ok(if settled >= first + count {
                ControlFlow::Break(began.elapsed())
            } else {
                ControlFlow::Continue(settled)
            })
        })
    }

    /// Stops to send, and waits until each command has its output.
    pub(crate) fn stop(self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let Self { shared, threads } = self;
        progress::wait_for("the last commands to be settled", || {
            let settled = shared.settled.load(Ordering::Relaxed);
            let ended = threads.iter().all(JoinHandle::is_finished);
            Ok(if ended { ControlFlow::Break(()) } else { ControlFlow::Continue(settled) })
        })?;
        for thread in threads {
            thread.join().map_err(|_| anyhow!("the load panicked"))??;
        }
        for tenant in &shared.tenants {
            let (sent, settled) = (tenant.sent.load(Ordering::Relaxed), tenant.settled.load(Ordering::Relaxed));
            ensure!(sent == settled, "tenant {} got {settled} outputs for {sent} commands", tenant.number);
        }
        Ok(())
    }
}

impl Shared {
    fn send(&self, producer: &BaseProducer, topic: &str, keys: Keys, window: u64) -> Result<()> {
        let mut random = Random::default();
        while !self.stop.load(Ordering::Relaxed) {
            let mut is_full = true;
            for (index, tenant) in self.tenants.iter().enumerate() {
                let sent = tenant.sent.load(Ordering::Relaxed);
                if sent >= tenant.settled.load(Ordering::Relaxed) + window {
                    continue;
                }
                is_full = false;
                let actor = actor(index, random.below(CHARACTERS));
                tenant.sent.store(sent + 1, Ordering::Relaxed);
                send(producer, topic, tenant.number, actor, keys, &command(actor, &mut random))?;
            }
            producer.poll(if is_full { POLL } else { Duration::ZERO });
        }
        Ok(producer.flush(STALL_LIMIT)?)
    }

    /// Reads outputs until the load is stopped and each command has one.
    fn read(&self, consumer: &BaseConsumer) -> Result<()> {
        let index: BTreeMap<_, _> = self.tenants.iter().map(|tenant| (uuid(tenant.number), tenant)).collect();
        while !(self.stop.load(Ordering::Relaxed) && self.is_settled()) {
            let Some(message) = consumer.poll(POLL) else { continue };
            let message = message?;
            let mut headers = message.headers().into_iter().flat_map(Headers::iter);
            let id = headers.find(|header| header.key == "TENANT_ID").and_then(|header| header.value);
            let id = std::str::from_utf8(id.context("an output without a tenant")?)?;
            let tenant = index.get(id).context("an output of an unknown tenant")?;
            tenant.settled.fetch_add(1, Ordering::Relaxed);
            self.settled.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        let is_settled =
            |tenant: &Tenant| tenant.settled.load(Ordering::Relaxed) >= tenant.sent.load(Ordering::Relaxed);
        self.tenants.iter().all(is_settled)
    }
}

/// The same number of tenants for each shard.
fn tenants(shards: i32) -> Result<Vec<usize>> {
    let mut left: BTreeMap<i32, usize> = (0..shards).map(|shard| (shard, TENANTS_PER_SHARD)).collect();
    let mut tenants = Vec::new();
    let shards = u32::try_from(shards)?;
    let missing = usize::try_from(shards)? * TENANTS_PER_SHARD;
    for tenant in 0.. {
        if tenants.len() == missing {
            break;
        }
        let left = left.get_mut(&shard_of(&tenant_id(tenant), shards).get()).context("a shard that does not exist")?;
        if *left > 0 {
            *left -= 1;
            tenants.push(tenant);
        }
    }
    Ok(tenants)
}

/// A character's number. No two tenants have the same characters, so keys spread over all partitions.
fn actor(tenant_index: usize, character: usize) -> usize {
    tenant_index * CHARACTERS + character + 1
}

/// Logs all characters in. The last record of each tenant is not JSON: its dead letter shows that the others are settled.
fn log_in(kafka: &Kafka, app: &App, tenants: &[usize]) -> Result<()> {
    let producer = producer(kafka)?;
    for (index, tenant) in tenants.iter().enumerate() {
        for character in 0..CHARACTERS {
            let actor = actor(index, character);
            send(&producer, app.topic(MESSENGER[1]), *tenant, actor, Keys::Tenant, &login(actor))?;
        }
        send(&producer, app.topic(MESSENGER[1]), *tenant, 0, Keys::Tenant, "the end")?;
    }
    producer.flush(STALL_LIMIT)?;
    let mut letters = app.client.reader(&[&app.dead_letters()])?;
    letters.until("the logins", STALL_LIMIT, |letters| letters.len() >= tenants.len()).map(drop)
}

fn send(producer: &BaseProducer, topic: &str, tenant: usize, actor: usize, keys: Keys, value: &str) -> Result<()> {
    let key = match keys {
        Keys::Tenant => tenant_id(tenant).as_str().as_bytes().to_vec(),
        Keys::Character => [u32::try_from(actor)?.to_le_bytes(), [0; 4]].concat(),
    };
    enqueue(producer, BaseRecord::to(topic).key(&key).payload(value).headers(headers(tenant)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shard_has_as_many_tenants_as_every_other() {
        let tenants = tenants(16).unwrap();
        for shard in 0..16 {
            let own = tenants.iter().filter(|tenant| shard_of(&tenant_id(**tenant), 16).get() == shard);
            assert_eq!(own.count(), TENANTS_PER_SHARD);
        }
    }
}
