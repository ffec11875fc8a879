//! The memory and the outputs of a host that gets three times the input that it can process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use switchboard_tests::app::App;
use switchboard_tests::client::unique;
use switchboard_tests::host::Host;
use switchboard_tests::kafka::{Kafka, Options};
use switchboard_tests::progress::Stall;

use crate::Args;
use crate::clients::{PARTITIONS, STALL_LIMIT, TENANTS, consumer, enqueue, per_second, producer};

/// The time between two samples of the host's memory.
const MEMORY_SAMPLE_INTERVAL: Duration = Duration::from_millis(200);

/// A kind of input.
struct Load {
    name: &'static str,
    value_bytes: usize,
    /// Makes the plugin slow, so that one machine can send more than the host can process.
    burn: usize,
    /// The number of records in the topic before the host starts.
    backlog: usize,
}

const LOADS: [Load; 2] = [
    Load { name: "small", value_bytes: 100, burn: 50, backlog: 300_000 },
    // The broker's default maximum, in all partitions at once.
    Load { name: "1 MiB", value_bytes: 1 << 20, burn: 3000, backlog: 400 },
];

/// The maximum of uncommitted records that a member holds with the default settings, in MiB: the records read ahead and
/// one fetch, two batches, and the producer's queue.
const MEMBER_BOUND_MIB: u64 = 4 + 4 + 2 * 16 + 32;

pub(crate) fn run(args: &Args) -> Result<()> {
    println!();
    println!(
        "{:<8} {:>12} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "overload", "host", "input", "records", "max lag", "idle", "peak", "bound"
    );
    for load in &LOADS {
        overload(load, args)?;
    }
    Ok(())
}

/// Sends messages and waits until the broker has them.
fn send_many(count: usize, producer: &BaseProducer, topic: &str, load: &Load, sent: &mut usize) -> Result<()> {
    for _ in 0..count {
        send(producer, topic, load, sent)?;
    }
    Ok(producer.flush(STALL_LIMIT)?)
}

fn print_curve(curve: &[u64]) {
    let steps = (curve.len() / 12).max(1);
    let points: Vec<_> = curve.iter().step_by(steps).map(ToString::to_string).collect();
    println!("         resident, in MiB: {}", points.join(" "));
}

/// The thread that checks the outputs. It ends early only when an output is wrong.
struct Checker<'a> {
    /// The number of outputs that it has checked.
    seen: &'a AtomicUsize,
    thread: ScopedJoinHandle<'a, Result<()>>,
}

impl Checker<'_> {
    fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }

    fn ensure_running(&self) -> Result<()> {
        ensure!(!self.thread.is_finished(), "the outputs are wrong");
        Ok(())
    }

    /// Waits until this many outputs are checked, and adds samples of the host's memory, in MiB, to the curve.
    fn wait_for(&self, count: usize, host: &Host, curve: &mut Vec<u64>) -> Result<()> {
        let mut stall = Stall::with_limit(0, STALL_LIMIT);
        while self.seen() < count {
            curve.push(host.memory()?.0 >> 20);
            thread::sleep(MEMORY_SAMPLE_INTERVAL);
            self.ensure_running()?;
            stall.check(self.seen()).context("no further outputs")?;
        }
        Ok(())
    }
}

/// Measures one kind of input.
fn overload(load: &Load, args: &Args) -> Result<()> {
    let kafka = Kafka::start_with(&Options { heap_mib: 1024, optimised: true, ..Options::default() })?;
    let app = App::hostile_on(&kafka, "overload", &["IN"], PARTITIONS)?.topic_with("OUT", &[])?;
    let threads = args.threads.to_string();
    let mut flags = vec!["--threads", &threads];
    flags.extend(args.with.iter().map(String::as_str));
    let mut host = app.run("host", &flags)?;
    // Every tenant has been processed and its wasm instance is warm: the memory without load.
    let producer = producer(&kafka)?;
    let mut sent = 0;
    send_many(2 * TENANTS, &producer, app.topic("IN"), load, &mut sent)?;
    let seen = AtomicUsize::new(0);
    let outputs = reader(&kafka, app.topic("OUT"))?;
    let stop = AtomicUsize::new(usize::MAX);
    thread::scope(|scope| -> Result<()> {
        let checker = Checker { seen: &seen, thread: scope.spawn(|| check(&outputs, &seen, &stop)) };
        checker.wait_for(sent, &host, &mut Vec::new())?;
        let idle = host.memory()?.0 >> 20;

        // The host's throughput: a backlog from its first output to its half.
        host.terminate(STALL_LIMIT)?;
        send_many(load.backlog, &producer, app.topic("IN"), load, &mut sent)?;
        host = app.run("host", &flags)?;
        let mut curve = Vec::new();
        let start = checker.seen();
        checker.wait_for(start + 1, &host, &mut curve)?;
        let began = Instant::now();
        checker.wait_for(start + load.backlog / 2, &host, &mut curve)?;
        let rate = per_second(load.backlog / 2, began.elapsed())?;
        let apart = began.elapsed() / u32::try_from(3 * load.backlog / 2)?;

        // Three times that throughput.
        let began = Instant::now();
        let before = sent;
        let span = Duration::from_secs(args.overload_seconds);
        let mut lag = 0;
        let mut sampled = began;
        while began.elapsed() < span {
            while apart * u32::try_from(sent - before)? < began.elapsed().min(span) {
                send(&producer, app.topic("IN"), load, &mut sent)?;
            }
            producer.poll(Duration::ZERO);
            thread::sleep(Duration::from_millis(5));
            if sampled.elapsed() >= MEMORY_SAMPLE_INTERVAL {
                curve.push(host.memory()?.0 >> 20);
                sampled = Instant::now();
            }
            lag = lag.max(sent - checker.seen());
            checker.ensure_running()?;
        }
        let input = per_second(sent - before, began.elapsed())?;
        producer.flush(STALL_LIMIT)?;
        checker.wait_for(sent, &host, &mut curve)?;
        let peak = host.memory()?.1 >> 20;
        host.terminate(STALL_LIMIT)?;
        stop.store(sent, Ordering::Relaxed);
        checker.thread.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        let bound = idle + MEMBER_BOUND_MIB;
        println!(
            "{:<8} {rate:>10.0}/s {input:>10.0}/s {sent:>10} {lag:>10} {idle:>6} MiB {peak:>6} MiB {bound:>6} MiB",
            load.name
        );
        print_curve(&curve);
        Ok(())
    })
}

/// Sends the next input. The inputs of each tenant have rising numbers.
fn send(producer: &BaseProducer, topic: &str, load: &Load, sent: &mut usize) -> Result<()> {
    let number = *sent;
    let tenant = number % TENANTS;
    let name = tenant.to_string();
    let headers = OwnedHeaders::new().insert(Header { key: "TENANT", value: Some(&name) });
    let mut value = format!("burn {} {number} ", load.burn);
    value.extend(std::iter::repeat_n('x', load.value_bytes.saturating_sub(value.len())));
    let record: BaseRecord<'_, [u8], str> = BaseRecord::to(topic).partition(i32::try_from(tenant)? % PARTITIONS);
    enqueue(producer, record.payload(&value).headers(headers))?;
    *sent += 1;
    Ok(())
}

fn reader(kafka: &Kafka, topic: &str) -> Result<BaseConsumer> {
    let consumer = consumer(kafka, &unique("overload"))?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    Ok(consumer)
}

/// Checks that each tenant's outputs are in the order of its inputs, and that none is missing or repeated.
fn check(consumer: &BaseConsumer, seen: &AtomicUsize, stop: &AtomicUsize) -> Result<()> {
    let mut next: Vec<usize> = (0..TENANTS).collect();
    while seen.load(Ordering::Relaxed) < stop.load(Ordering::Relaxed) {
        let Some(message) = consumer.poll(Duration::from_millis(50)) else { continue };
        let message = message?;
        let header = message.headers().and_then(|headers| headers.try_get(0)).and_then(|header| header.value);
        let number = |bytes: Option<&[u8]>| std::str::from_utf8(bytes?).ok()?.parse::<usize>().ok();
        let tenant = number(header).context("an output of an unknown tenant")?;
        let number = number(message.payload()).context("an output without a number")?;
        let expected = next.get_mut(tenant).context("an output of an unknown tenant")?;
        if number != *expected {
            bail!("the next output of tenant {tenant} is for input {number}, not for {expected}");
        }
        *expected += TENANTS;
        seen.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
