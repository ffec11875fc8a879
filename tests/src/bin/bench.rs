//! `make bench`: what the whole host does on a real broker, beside a plain loop that only copies, in the same run.
//!
//! Machines are shared and noisy, so a figure means something only as a ratio within one run. The broker's JIT is cold
//! for the first few million records: everything runs once unmeasured before it is measured.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders, ToBytes};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use switchboard_tests::app::{App, MESSENGER};
use switchboard_tests::client::unique;
use switchboard_tests::kafka::{Kafka, Options};

const TENANTS: usize = 100;
const CHARACTERS: usize = 10;
const PARTITIONS: i32 = 8;
const LONG: Duration = Duration::from_mins(10);

/// Measures throughput and latency on a real broker.
#[derive(Parser)]
struct Args {
    /// Records of each measured run.
    #[arg(long, default_value_t = 600_000)]
    records: usize,
    /// Records of the run before it, which is not measured.
    #[arg(long, default_value_t = 1_500_000)]
    warm_up: usize,
    /// Messages whose latency is measured, one at a time.
    #[arg(long, default_value_t = 1000)]
    lone: usize,
    /// Workers of the host.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// A further flag of `switchboard run`; repeatable.
    #[arg(long = "with", value_name = "FLAG", allow_hyphen_values = true)]
    with: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    println!("Starting a broker, and warming it up; all of it takes about 2 minutes.");
    // As Kafka has it by default: workers that start together get their partitions together, evenly by topic.
    let properties = vec![("group.initial.rebalance.delay.ms".to_owned(), "3000".to_owned())];
    let kafka = Kafka::start_with(&Options { heap_mib: 1024, optimised: true, properties, ..Options::default() })?;
    let bench = Bench { kafka: &kafka, args };
    bench.plain(args.warm_up, args.workers)?;
    bench.two_hops(args.warm_up)?;

    let plain = bench.plain(args.records, 1)?;
    let plain_each = bench.plain(args.records, args.workers)?;
    let two_hops = bench.two_hops(args.records)?;
    let (p50, p99) = bench.lone()?;
    println!();
    let rate = |what: &str, rate: f64| println!("{what:<62} {rate:>10.0} records/s");
    let share = |what: &str, of: f64| println!("{what:<62} {:>10.0} %", 100.0 * two_hops / of);
    rate("plain consume-produce loop, no transactions", plain);
    rate(&format!("{} such loops at once", args.workers), plain_each);
    rate(&format!("messenger, two hops, exactly-once, {} workers", args.workers), two_hops);
    share("  of the plain loop", plain);
    share(&format!("  of {} plain loops", args.workers), plain_each);
    println!("{:<62} {:>10.1} ms", "a lone message's way through the idle host, p50", p50);
    println!("{:<62} {:>10.1} ms", "  p99", p99);
    Ok(())
}

struct Bench<'a> {
    kafka: &'a Kafka,
    args: &'a Args,
}

impl Bench<'_> {
    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.kafka.bootstrap());
        config
    }

    fn producer(&self) -> Result<BaseProducer> {
        let mut config = self.config();
        config.set("enable.idempotence", "true").set("linger.ms", "5").set("partitioner", "murmur2_random");
        Ok(config.set("delivery.report.only.error", "true").create()?)
    }

    fn consumer(&self, group: &str) -> Result<BaseConsumer> {
        let mut config = self.config();
        config
            .set("group.id", group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.queue.backoff.ms", "5");
        Ok(config.create()?)
    }

    /// Characters open, enter and leave rooms at random: each command gives one output. The last
    /// record of each tenant is no JSON, so that its dead letter says that all is done.
    fn fill(&self, topics: &App, count: usize) -> Result<()> {
        let producer = self.producer()?;
        let mut random = 0x2545_f491_4f6c_dd1d_usize;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..count {
            let (tenant, actor) = (next(TENANTS), next(CHARACTERS) + 1);
            let room = 1_000_000_000 + next(CHARACTERS);
            let body = match next(3) {
                0 => format!(
                    r#"{{"transactionId":"6b1e1f64-9d2c-4a55-8d65-6b0c4c0c2b11","actorId":{actor},"type":"CREATE","body":{{}}}}"#
                ),
                kind => {
                    let kind = if kind == 1 { "JOIN" } else { "LEAVE" };
                    format!(
                        r#"{{"transactionId":"6b1e1f64-9d2c-4a55-8d65-6b0c4c0c2b11","actorId":{actor},"type":"{kind}","body":{{"messengerId":{room}}}}}"#
                    )
                }
            };
            send(&producer, topics.topic(MESSENGER[0]), tenant, actor, &body)?;
        }
        for tenant in 0..TENANTS {
            send(&producer, topics.topic(MESSENGER[0]), tenant, 0, "the end")?;
        }
        producer.flush(LONG)?;
        Ok(())
    }

    /// Copies a topic of the same records, key, value and headers, with so many consume-produce loops, from the first record
    /// on: records/s.
    fn plain(&self, count: usize, loops: usize) -> Result<f64> {
        let app = App::on(self.kafka, "plain", &MESSENGER, PARTITIONS)?;
        self.fill(&app, count)?;
        let (copied, total) = (AtomicUsize::new(0), count + TENANTS);
        let group = unique("plain");
        let (began, first) = (Instant::now(), OnceLock::new());
        thread::scope(|scope| -> Result<()> {
            let copy = || -> Result<()> {
                let (consumer, producer) = (self.consumer(&group)?, self.producer()?);
                consumer.subscribe(&[app.topic(MESSENGER[0])])?;
                while copied.load(Ordering::Relaxed) < total {
                    ensure!(began.elapsed() < LONG, "the plain copy does not end");
                    let Some(message) = consumer.poll(Duration::from_millis(10)) else { continue };
                    first.get_or_init(Instant::now);
                    forward(&producer, app.topic(MESSENGER[3]), &message?)?;
                    copied.fetch_add(1, Ordering::Relaxed);
                }
                Ok(producer.flush(LONG)?)
            };
            let threads: Vec<_> = (0..loops).map(|_| scope.spawn(copy)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        let rate = per_second(total, first.get().context("nothing was copied")?.elapsed())?;
        println!("  plain copy, {loops} loops: {total} records, {rate:.0}/s");
        Ok(rate)
    }

    /// The host from its first output to the last record: records/s.
    fn two_hops(&self, count: usize) -> Result<f64> {
        let app = App::messenger_on(self.kafka, "bench", PARTITIONS)?;
        let workers = self.args.workers.to_string();
        let flags: Vec<&str> =
            ["--workers", &workers].into_iter().chain(self.args.with.iter().map(String::as_str)).collect();
        let mut host = app.run("host", &flags)?;
        let mut letters = app.client.reader(&[&app.dead_letters()])?;
        self.log_in(&app)?;
        letters.until("the logins", LONG, |letters| letters.len() >= TENANTS)?;
        host.terminate(LONG)?;

        self.fill(&app, count)?;
        let mut host = app.run("host", &flags)?;
        let outputs: Vec<_> = MESSENGER[3..].iter().map(|token| app.topic(token)).collect();
        app.client.reader(&outputs)?.until("the first output", LONG, |outputs| !outputs.is_empty())?;
        let started = Instant::now();
        letters.until("the end of the stream", LONG, |letters| letters.len() >= 2 * TENANTS)?;
        let total = count + TENANTS;
        let rate = per_second(total, started.elapsed())?;
        host.terminate(LONG)?;
        println!("  two hops: {total} records, {rate:.0}/s");
        Ok(rate)
    }

    /// Characters are known by their LOGIN; the last record of each tenant is no JSON.
    fn log_in(&self, app: &App) -> Result<()> {
        let producer = self.producer()?;
        for (tenant, actor) in (0..TENANTS).flat_map(|tenant| (1..=CHARACTERS).map(move |actor| (tenant, actor))) {
            let value = format!(r#"{{"worldId":0,"characterId":{actor},"type":"LOGIN","body":{{"channelId":1}}}}"#);
            send(&producer, app.topic(MESSENGER[1]), tenant, actor, &value)?;
        }
        for tenant in 0..TENANTS {
            send(&producer, app.topic(MESSENGER[1]), tenant, 0, "the end")?;
        }
        Ok(producer.flush(LONG)?)
    }

    /// One message at a time through an idle host, from the call that sends it to the moment its output is read:
    /// p50 and p99 in ms.
    fn lone(&self) -> Result<(f64, f64)> {
        let app = App::messenger_on(self.kafka, "lone", PARTITIONS)?;
        let mut host = app.run("host", &[])?;
        host.wait_for("its partitions", LONG, |line| line.contains("assigned"))?;
        let mut config = self.config();
        let producer: BaseProducer = config.set("linger.ms", "0").set("enable.idempotence", "true").create()?;
        let consumer = self.consumer(&unique("lone"))?;
        let mut assignment = rdkafka::TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            assignment.add_partition_offset(app.topic(MESSENGER[3]), partition, rdkafka::Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        let mut times = Vec::with_capacity(self.args.lone);
        for turn in 0..self.args.lone + 100 {
            let started = Instant::now();
            let room = turn + 1;
            let value = format!(r#"{{"actorId":1,"type":"JOIN","body":{{"messengerId":{room}}}}}"#);
            send(&producer, app.topic(MESSENGER[0]), turn % TENANTS, 1, &value)?;
            loop {
                producer.poll(Duration::ZERO);
                ensure!(started.elapsed() < LONG, "a lone message gets no output");
                if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                    message?;
                    break;
                }
            }
            // The first ones find clients, instances and JIT cold.
            if turn >= 100 {
                times.push(started.elapsed().as_secs_f64() * 1e3);
            }
        }
        host.terminate(LONG)?;
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().context("no measurements");
        Ok((at(50)?, at(99)?))
    }
}

fn per_second(count: usize, time: Duration) -> Result<f64> {
    Ok(f64::from(u32::try_from(count)?) / time.as_secs_f64())
}

fn send(producer: &BaseProducer, topic: &str, tenant: usize, actor: usize, value: &str) -> Result<()> {
    let key = [u32::try_from(actor)?.to_le_bytes(), [0; 4]].concat();
    let id = format!("00000000-0000-4000-8000-{tenant:012}");
    let headers = OwnedHeaders::new()
        .insert(Header { key: "TENANT_ID", value: Some(&id) })
        .insert(Header { key: "REGION", value: Some("GMS") })
        .insert(Header { key: "MAJOR_VERSION", value: Some(&[0, 83]) })
        .insert(Header { key: "MINOR_VERSION", value: Some(&[0, 1]) })
        .insert(Header { key: "traceparent", value: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01") });
    // One partition a tenant: its records keep their order.
    let partition = i32::try_from(tenant)? % PARTITIONS;
    hand_over(producer, BaseRecord::to(topic).partition(partition).key(&key).payload(value).headers(headers))
}

fn forward(producer: &BaseProducer, topic: &str, message: &BorrowedMessage<'_>) -> Result<()> {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    let headers = headers
        .fold(OwnedHeaders::new(), |headers, header| headers.insert(Header { key: header.key, value: header.value }));
    let mut record = BaseRecord::to(topic).headers(headers);
    record.key = message.key();
    record.payload = message.payload();
    hand_over(producer, record)
}

/// Waits while the producer's queue is full.
fn hand_over<K: ToBytes + ?Sized, P: ToBytes + ?Sized>(
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
