//! A steady stream of inputs for many tenants, and the time at which a read_committed reader gets each output.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rdkafka::consumer::Consumer as _;
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use switchboard_tests::app::App;
use switchboard_tests::client::unique;
use switchboard_tests::kafka::Kafka;
use switchboard_tests::progress::{self, Stall};

use crate::clients::{STALL_LIMIT, config, consumer, enqueue};
use crate::recovery::SHARDS;

/// The usual number of tenants of a stream: a few on each of the 16 shards.
pub(crate) const TENANTS: usize = 48;
/// The number of partitions of the topic IN. Each tenant's inputs go to all of them in turn, so that no tenant depends
/// on a single source partition.
pub(crate) const PARTITIONS: i32 = 8;

/// An output. The plugin counts each tenant's inputs and answers with the count and the input's number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamOutput {
    pub(crate) tenant: usize,
    pub(crate) count: usize,
    /// The number of its input, in the order of sending.
    pub(crate) number: usize,
    pub(crate) at: Instant,
}

/// A stream of inputs for an application of the counting plugin. It ends with [`Self::finish`].
pub(crate) struct Stream {
    tenants: usize,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

#[derive(Default)]
struct Shared {
    /// The time at which each input was sent.
    sent: Mutex<Vec<Instant>>,
    seen: Mutex<Vec<StreamOutput>>,
    /// The number of outputs for tenants that are not the stream's.
    foreign: AtomicUsize,
    /// Whether the stream has ended.
    finished: AtomicBool,
}

/// An application for a stream.
pub(crate) fn counting(kafka: &Kafka, name: &str) -> Result<App> {
    let app = App::hostile_on(kafka, name, &["IN"], PARTITIONS)?.topic_with("OUT", &[])?;
    Ok(app.arg("--shards", &SHARDS.to_string()))
}

impl Stream {
    /// Starts to send and to read. `every` is the time between two inputs of any tenants.
    pub(crate) fn start(kafka: &Kafka, app: &App, every: Duration) -> Result<Self> {
        Self::of(TENANTS, kafka, app, every)
    }

    /// The same with this number of tenants. Others may have messages too: their outputs are counted.
    pub(crate) fn of(tenants: usize, kafka: &Kafka, app: &App, every: Duration) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut low_latency = config(kafka);
        low_latency.set("enable.idempotence", "true").set("linger.ms", "0");
        let producer: rdkafka::producer::BaseProducer = low_latency.create()?;
        let topic = app.topic("IN").to_owned();
        let state = Arc::clone(&shared);
        let send = move || -> Result<()> {
            let began = Instant::now();
            for number in 0.. {
                if state.finished.load(Ordering::Relaxed) {
                    break;
                }
                let tenant = number % tenants;
                let turn = number / tenants;
                let name = format!("tenant-{tenant}");
                let headers = OwnedHeaders::new().insert(Header { key: "TENANT", value: Some(&name) });
                let value = format!("count {number}");
                let partition = i32::try_from(tenant + turn)? % PARTITIONS;
                let record: BaseRecord<'_, [u8], str> = BaseRecord::to(&topic).partition(partition).payload(&value);
                lock(&state.sent).push(Instant::now());
                enqueue(&producer, record.headers(headers))?;
                producer.poll(Duration::ZERO);
                let due = began + every * u32::try_from(number + 1)?;
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            Ok(producer.flush(STALL_LIMIT)?)
        };
        let consumer = consumer(kafka, &unique("stream"))?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(app.topic("OUT"), 0, Offset::Beginning)?;
        consumer.assign(&assignment)?;
        let state = Arc::clone(&shared);
        let read = move || -> Result<()> {
            loop {
                if state.finished.load(Ordering::Relaxed) && lock(&state.seen).len() >= lock(&state.sent).len() {
                    return Ok(());
                }
                let Some(message) = consumer.poll(Duration::from_millis(50)) else { continue };
                let message = message?;
                let at = Instant::now();
                let header = message.headers().and_then(|headers| headers.try_get(0)).and_then(|header| header.value);
                match parse(header, message.payload(), at).with_context(|| format!("{message:?}"))? {
                    Some(seen) => lock(&state.seen).push(seen),
                    None => drop(state.foreign.fetch_add(1, Ordering::Relaxed)),
                }
            }
        };
        Ok(Self { tenants, shared, threads: vec![thread::spawn(send), thread::spawn(read)] })
    }

    /// The number of inputs that were sent.
    pub(crate) fn sent(&self) -> usize {
        lock(&self.shared.sent).len()
    }

    /// Waits until this many outputs for tenants that are not the stream's have been read, in all.
    pub(crate) fn wait_for_foreign(&self, count: usize) -> Result<()> {
        progress::wait_for(&format!("{count} outputs of another tenant"), || {
            self.alive()?;
            let foreign = self.shared.foreign.load(Ordering::Relaxed);
            Ok(if foreign >= count { ControlFlow::Break(()) } else { ControlFlow::Continue(foreign) })
        })
    }

    /// Waits until every tenant has an output for an input from this number on. Returns the time of the first such
    /// output, and the time at which the last tenant had one.
    pub(crate) fn outputs_since(&self, from: usize) -> Result<(Instant, Instant)> {
        let mut stall = Stall::with_limit(0, STALL_LIMIT);
        loop {
            let seen: Vec<StreamOutput> =
                lock(&self.shared.seen).iter().copied().filter(|seen| seen.number >= from).collect();
            let mut tenants = BTreeSet::new();
            let last = seen.iter().find(|seen| tenants.insert(seen.tenant) && tenants.len() == self.tenants);
            if let (Some(first), Some(last)) = (seen.first(), last) {
                return Ok((first.at, last.at));
            }
            stall
                .check(tenants.len())
                .with_context(|| format!("{} of {} tenants have outputs", tenants.len(), self.tenants))?;
            self.alive()?;
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets the stream run for this time, and waits until all tenants have outputs for the inputs after it.
    pub(crate) fn settle(&self, time: Duration) -> Result<()> {
        thread::sleep(time);
        self.outputs_since(self.sent()).map(drop)
    }

    fn alive(&self) -> Result<()> {
        ensure!(self.threads.iter().all(|thread| !thread.is_finished()), "the stream has ended by itself");
        Ok(())
    }

    /// Ends the stream, waits for the last output, and checks that every input was counted exactly once.
    pub(crate) fn finish(self) -> Result<History> {
        self.shared.finished.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("the stream panicked"))??;
        }
        let (sent, seen) = (lock(&self.shared.sent).clone(), lock(&self.shared.seen).clone());
        let history = History { tenants: self.tenants, sent, seen };
        let mut counts = vec![0; self.tenants];
        let mut numbers = BTreeSet::new();
        for StreamOutput { tenant, count, number, .. } in &history.seen {
            counts[*tenant] += 1;
            ensure!(*count == counts[*tenant], "tenant-{tenant} counts {count} after {}", counts[*tenant] - 1);
            ensure!(numbers.insert(*number), "input {number} was counted twice");
        }
        ensure!(numbers.len() == history.sent.len(), "{} of {} inputs counted", numbers.len(), history.sent.len());
        Ok(history)
    }
}

/// All inputs and outputs of a stream.
pub(crate) struct History {
    tenants: usize,
    pub(crate) sent: Vec<Instant>,
    pub(crate) seen: Vec<StreamOutput>,
}

impl History {
    /// For each tenant, the longest time without an output in a span of time.
    pub(crate) fn gaps(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let mut last = vec![from; self.tenants];
        let mut longest = vec![Duration::ZERO; self.tenants];
        for StreamOutput { tenant, at, .. } in self.seen.iter().filter(|seen| (from..to).contains(&seen.at)) {
            longest[*tenant] = longest[*tenant].max(*at - last[*tenant]);
            last[*tenant] = *at;
        }
        longest
    }

    /// The longest time from an input of this span of time to its output.
    pub(crate) fn slowest(&self, from: Instant, to: Instant) -> Duration {
        self.waits(from, to).max().unwrap_or_default()
    }

    /// The time from each input of this span of time to its output.
    pub(crate) fn waits(&self, from: Instant, to: Instant) -> impl Iterator<Item = Duration> {
        let waits = self.seen.iter().map(|seen| (self.sent[seen.number], seen.at));
        waits.filter(move |(sent, _)| (from..to).contains(sent)).map(|(sent, at)| at - sent)
    }
}

/// `None`: the tenant is not the stream's.
fn parse(tenant: Option<&[u8]>, value: Option<&[u8]>, at: Instant) -> Result<Option<StreamOutput>> {
    let text = |bytes: Option<&[u8]>| {
        anyhow::Ok(String::from_utf8(bytes.context("an output without tenant or value")?.to_vec())?)
    };
    let tenant = text(tenant)?;
    let Some(tenant) = tenant.strip_prefix("tenant-") else { return Ok(None) };
    let value = text(value)?;
    let Some((count, number)) = value.split_once(' ') else { bail!("an output that is not a count: {value}") };
    Ok(Some(StreamOutput { tenant: tenant.parse()?, count: count.parse()?, number: number.parse()?, at }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
