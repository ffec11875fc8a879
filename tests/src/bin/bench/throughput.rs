//! Records per second through the whole host, compared with plain loops that only copy.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdkafka::consumer::Consumer as _;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use switchboard_tests::app::{App, MESSENGER};
use switchboard_tests::client::unique;
use switchboard_tests::kafka::Kafka;
use switchboard_tests::progress::Stall;

use crate::Args;
use crate::clients::{PARTITIONS, STALL_LIMIT, TENANTS, consumer, enqueue, fill, log_in, per_second, producer};
use crate::comparison::{Comparison, Figure, in_turn};
use crate::engine::Engine;
use crate::transactions::TransactionCount;

/// Runs without measuring, because the broker's JIT is cold for the first few million records.
pub(crate) fn warm_up(kafka: &Kafka, args: &Args) -> Result<()> {
    plain(kafka, args.warm_up, args.threads)?;
    two_hops(kafka, &Engine::new()?, args, args.warm_up).map(drop)
}

pub(crate) fn run(kafka: &Kafka, args: &Args) -> Result<()> {
    if let Some(former) = &args.against {
        return compare(kafka, args, former);
    }
    let copied = plain(kafka, args.records, 1)?;
    let copied_at_once = plain(kafka, args.records, args.threads)?;
    let run = two_hops(kafka, &Engine::new()?, args, args.records)?;
    let two_hops = run.rate;
    println!();
    let rate = |what: &str, rate: f64| println!("{what:<62} {rate:>10.0} records/s");
    let share = |what: &str, of: f64| println!("{what:<62} {:>10.0} %", 100.0 * two_hops / of);
    rate("plain consume-produce loop, no transactions", copied);
    rate(&format!("{} such loops at once", args.threads), copied_at_once);
    rate(&format!("messenger, two hops, exactly-once, {} threads", args.threads), two_hops);
    share("  of the plain loop", copied);
    share(&format!("  of {} plain loops", args.threads), copied_at_once);
    for Figure { name, value } in run.figures().into_iter().skip(1) {
        println!("{:<62} {value:>10.1}", format!("  {name}"));
    }
    Ok(())
}

/// Measures two binaries in turn.
fn compare(kafka: &Kafka, args: &Args, former: &Path) -> Result<()> {
    let engines = Engine::both(former)?;
    let mut comparison = Comparison::default();
    for engine in in_turn(&engines, args.rounds) {
        println!("  {}:", engine.side);
        comparison.add(engine.side, &two_hops(kafka, engine, args, args.records)?.figures());
    }
    comparison.print(&format!("throughput, {} rounds", args.rounds));
    Ok(())
}

/// The figures of a run of the host.
struct Run {
    /// Records per second.
    rate: f64,
    /// CPU seconds of the host per million records.
    host_cpu: f64,
    /// CPU seconds of the broker per million records.
    broker_cpu: f64,
    /// Committed transactions per million records.
    transactions: f64,
    /// The host's resident memory at its end, in MiB.
    resident: f64,
}

impl Run {
    /// The rate comes first.
    fn figures(&self) -> [Figure; 5] {
        [
            ("records/s", self.rate),
            ("CPU s per million records, host", self.host_cpu),
            ("CPU s per million records, broker", self.broker_cpu),
            ("transactions per million records", self.transactions),
            ("resident memory of the host, MiB", self.resident),
        ]
        .map(|(name, value)| Figure { name, value })
    }
}

/// Copies a topic of the same records (key, value and headers) with `loops` consume-produce loops. Returns the records
/// per second from the first record on.
fn plain(kafka: &Kafka, count: usize, loops: usize) -> Result<f64> {
    let app = App::on(kafka, "plain", &MESSENGER, PARTITIONS)?;
    fill(kafka, &app, count)?;
    let copied = AtomicUsize::new(0);
    let total = count + TENANTS;
    let group = unique("plain");
    let first = OnceLock::new();
    thread::scope(|scope| -> Result<()> {
        let copy = || -> Result<()> {
            let consumer = consumer(kafka, &group)?;
            let producer = producer(kafka)?;
            consumer.subscribe(&[app.topic(MESSENGER[0])])?;
            let mut stall = Stall::with_limit(0, STALL_LIMIT);
            while copied.load(Ordering::Relaxed) < total {
                stall.check(copied.load(Ordering::Relaxed)).context("the plain copy stands still")?;
                let Some(message) = consumer.poll(Duration::from_millis(10)) else { continue };
                first.get_or_init(Instant::now);
                forward(&producer, app.topic(MESSENGER[3]), &message?)?;
                copied.fetch_add(1, Ordering::Relaxed);
            }
            Ok(producer.flush(STALL_LIMIT)?)
        };
        let threads: Vec<_> = (0..loops).map(|_| scope.spawn(copy)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    let rate = per_second(total, first.get().context("nothing was copied")?.elapsed())?;
    println!("  plain copy, {loops} loops: {total} records, {rate:.0}/s");
    Ok(rate)
}

/// Runs the host on `count` records, and measures from its first output to the last record. Transactions count from the
/// host's start.
fn two_hops(kafka: &Kafka, engine: &Engine, args: &Args, count: usize) -> Result<Run> {
    let app = engine.runs(App::messenger_on(kafka, "bench", PARTITIONS)?);
    let flags = engine.flags(args);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let mut host = app.run("host", &flags)?;
    let mut letters = app.client.reader(&[&app.dead_letters()])?;
    log_in(kafka, &app)?;
    letters.until("the logins", STALL_LIMIT, |letters| letters.len() >= TENANTS)?;
    host.terminate(STALL_LIMIT)?;

    fill(kafka, &app, count)?;
    let transactions = TransactionCount::start(kafka, &app)?;
    let mut host = app.run("host", &flags)?;
    let outputs: Vec<_> = MESSENGER[3..].iter().map(|alias| app.topic(alias)).collect();
    app.client.reader(&outputs)?.until("the first output", STALL_LIMIT, |outputs| !outputs.is_empty())?;
    let started = Instant::now();
    let cpu = (host.cpu_time()?, kafka.cpu_time()?);
    letters.until("the end of the stream", STALL_LIMIT, |letters| letters.len() >= 2 * TENANTS)?;
    let total = count + TENANTS;
    let rate = per_second(total, started.elapsed())?;
    let cpu = (host.cpu_time()?.saturating_sub(cpu.0), kafka.cpu_time()?.saturating_sub(cpu.1));
    let (resident, _) = host.memory()?;
    host.terminate(STALL_LIMIT)?;
    let transactions = transactions.finish()?;
    println!("  two hops: {total} records, {rate:.0}/s");
    let millions = f64::from(u32::try_from(total)?) / 1e6;
    Ok(Run {
        rate,
        host_cpu: cpu.0.as_secs_f64() / millions,
        broker_cpu: cpu.1.as_secs_f64() / millions,
        transactions: f64::from(u32::try_from(transactions)?) / millions,
        resident: f64::from(u32::try_from(resident >> 10)?) / 1024.0,
    })
}

fn forward(producer: &BaseProducer, topic: &str, message: &BorrowedMessage<'_>) -> Result<()> {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    let headers = headers
        .fold(OwnedHeaders::new(), |headers, header| headers.insert(Header { key: header.key, value: header.value }));
    let mut record = BaseRecord::to(topic).headers(headers);
    record.key = message.key();
    record.payload = message.payload();
    enqueue(producer, record)
}
