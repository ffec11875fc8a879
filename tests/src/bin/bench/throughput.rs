//! Records per second through the whole host, compared with plain loops that only copy.

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

/// Runs without measuring, because the broker's JIT is cold for the first few million records.
pub(crate) fn warm_up(kafka: &Kafka, args: &Args) -> Result<()> {
    plain(kafka, args.warm_up, args.workers)?;
    two_hops(kafka, args, args.warm_up).map(drop)
}

pub(crate) fn run(kafka: &Kafka, args: &Args) -> Result<()> {
    let copied = plain(kafka, args.records, 1)?;
    let copied_at_once = plain(kafka, args.records, args.workers)?;
    let two_hops = two_hops(kafka, args, args.records)?;
    println!();
    let rate = |what: &str, rate: f64| println!("{what:<62} {rate:>10.0} records/s");
    let share = |what: &str, of: f64| println!("{what:<62} {:>10.0} %", 100.0 * two_hops / of);
    rate("plain consume-produce loop, no transactions", copied);
    rate(&format!("{} such loops at once", args.workers), copied_at_once);
    rate(&format!("messenger, two hops, exactly-once, {} workers", args.workers), two_hops);
    share("  of the plain loop", copied);
    share(&format!("  of {} plain loops", args.workers), copied_at_once);
    Ok(())
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

/// Runs the host on `count` records. Returns the records per second from its first output to the last record.
fn two_hops(kafka: &Kafka, args: &Args, count: usize) -> Result<f64> {
    let app = App::messenger_on(kafka, "bench", PARTITIONS)?;
    let workers = args.workers.to_string();
    let flags: Vec<&str> = ["--workers", &workers].into_iter().chain(args.with.iter().map(String::as_str)).collect();
    let mut host = app.run("host", &flags)?;
    let mut letters = app.client.reader(&[&app.dead_letters()])?;
    log_in(kafka, &app)?;
    letters.until("the logins", STALL_LIMIT, |letters| letters.len() >= TENANTS)?;
    host.terminate(STALL_LIMIT)?;

    fill(kafka, &app, count)?;
    let mut host = app.run("host", &flags)?;
    let outputs: Vec<_> = MESSENGER[3..].iter().map(|alias| app.topic(alias)).collect();
    app.client.reader(&outputs)?.until("the first output", STALL_LIMIT, |outputs| !outputs.is_empty())?;
    let started = Instant::now();
    letters.until("the end of the stream", STALL_LIMIT, |letters| letters.len() >= 2 * TENANTS)?;
    let total = count + TENANTS;
    let rate = per_second(total, started.elapsed())?;
    host.terminate(STALL_LIMIT)?;
    println!("  two hops: {total} records, {rate:.0}/s");
    Ok(rate)
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
