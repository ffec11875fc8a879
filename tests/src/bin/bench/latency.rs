//! The latency of single messages through an idle host.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::producer::BaseProducer;
use switchboard_tests::app::{App, MESSENGER};
use switchboard_tests::client::unique;
use switchboard_tests::kafka::Kafka;

use crate::Args;
use crate::clients::{PARTITIONS, STALL_LIMIT, TENANTS, config, consumer, send};
use crate::comparison::{Comparison, Figure, in_turn};
use crate::engine::Engine;

pub(crate) fn run(kafka: &Kafka, args: &Args) -> Result<()> {
    if let Some(former) = &args.against {
        return compare(kafka, args, former);
    }
    let (p50, p99) = measure(kafka, &Engine::new()?, args)?;
    println!();
    println!("{:<62} {:>10.1} ms", "latency of a single message through the idle host, p50", p50);
    println!("{:<62} {:>10.1} ms", "  p99", p99);
    Ok(())
}

/// Measures two binaries in turn.
fn compare(kafka: &Kafka, args: &Args, former: &Path) -> Result<()> {
    let engines = Engine::both(former)?;
    let mut comparison = Comparison::default();
    for engine in in_turn(&engines, args.rounds) {
        let (p50, p99) = measure(kafka, engine, args)?;
        println!("  {}: p50 {p50:.1} ms, p99 {p99:.1} ms", engine.side);
        let figures = [("single message, p50, ms", p50), ("single message, p99, ms", p99)];
        comparison.add(engine.side, &figures.map(|(name, value)| Figure { name, value }));
    }
    comparison.print(&format!("latency, {} rounds", args.rounds));
    Ok(())
}

/// Sends one message at a time through an idle host. Returns p50 and p99, in ms, of the time from the call that sends a
/// message until its output is read.
fn measure(kafka: &Kafka, engine: &Engine, args: &Args) -> Result<(f64, f64)> {
    let app = engine.runs(App::messenger_on(kafka, "lone", PARTITIONS)?);
    let flags = engine.flags(args);
    let mut host = app.run("host", &flags.iter().map(String::as_str).collect::<Vec<_>>())?;
    host.wait_for("its partitions", STALL_LIMIT, |line| line.contains("assigned"))?;
    let mut config = config(kafka);
    let producer: BaseProducer = config.set("linger.ms", "0").set("enable.idempotence", "true").create()?;
    let consumer = consumer(kafka, &unique("lone"))?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(app.topic(MESSENGER[3]), partition, rdkafka::Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut times = Vec::with_capacity(args.lone);
    for turn in 0..args.lone + 100 {
        let started = Instant::now();
        let room = turn + 1;
        let value = format!(r#"{{"actorId":1,"type":"JOIN","body":{{"messengerId":{room}}}}}"#);
        send(&producer, app.topic(MESSENGER[0]), turn % TENANTS, 1, &value)?;
        loop {
            producer.poll(Duration::ZERO);
            ensure!(started.elapsed() < STALL_LIMIT, "a message gets no output");
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                message?;
                break;
            }
        }
        // For the first messages clients, wasm instances and JIT are cold.
        if turn >= 100 {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    host.terminate(STALL_LIMIT)?;
    times.sort_by(f64::total_cmp);
    let percentile = |percent: usize| times.get(times.len() * percent / 100).copied().context("no measurements");
    Ok((percentile(50)?, percentile(99)?))
}
