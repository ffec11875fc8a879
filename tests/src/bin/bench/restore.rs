//! The time to restore state at the start of a host, without and with checkpoints.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use switchboard_tests::app::App;
use switchboard_tests::host::Host;
use switchboard_tests::kafka::{Kafka, Options};

use crate::Args;
use crate::clients::{PARTITIONS, STALL_LIMIT, TENANTS, config, enqueue, per_second};

/// The number of shards.
const SHARDS: usize = 16;
const ENTRIES_PER_TRANSACTION: usize = 5000;
const RUNS_PER_CASE: usize = 3;
/// The number of records of each entry in the changelog, because compaction is late.
const WRITES_PER_ENTRY: usize = 3;

pub(crate) fn run(args: &Args) -> Result<()> {
    // Kafka's default: members that start together get their partitions together.
    let properties = vec![("group.initial.rebalance.delay.ms".to_owned(), "3000".to_owned())];
    let kafka = Kafka::start_with(&Options { heap_mib: 1024, optimised: true, properties, ..Options::default() })?;
    let threads = args.threads.to_string();
    let app = App::messenger_on(&kafka, "restore", PARTITIONS)?.arg("--threads", &threads).arg("--instance", "bench");
    let app = app.arg("--shards", &SHARDS.to_string());
    let app = app.env("RUST_LOG", "info,switchboard_checkpoint=debug");
    // Creates the internal topics.
    app.run("host", &[])?.terminate(STALL_LIMIT)?;
    let producer = producer(&kafka, &app)?;
    let entries = args.entries;
    fill(&producer, &app, entries)?;
    begin_shards(&kafka, &app)?;
    // This start is not measured, because the broker's JIT is cold.
    start(&app, entries, &[])?.0.terminate(STALL_LIMIT)?;
    let written_once = (0..RUNS_PER_CASE).map(|_| timed(&app, entries, &[])).collect::<Result<Vec<_>>>()?;
    let records = entries * WRITES_PER_ENTRY;
    for _ in 1..WRITES_PER_ENTRY {
        fill(&producer, &app, entries)?;
    }
    let written_often = (0..RUNS_PER_CASE).map(|_| timed(&app, records, &[])).collect::<Result<Vec<_>>>()?;

    let state = tempfile::tempdir()?;
    let state_dir = ["--state-dir", &state.path().display().to_string()];
    let (mut host, _) = start(&app, records, &state_dir)?;
    let began = Instant::now();
    let offsets = RefCell::new(BTreeMap::new());
    host.wait_for("all checkpoints", STALL_LIMIT, |line| {
        let mut offsets = offsets.borrow_mut();
        if let (Some(shard), Some(offset)) = (number(line, "shard="), number(line, "offset=")) {
            offsets.insert(shard, offset);
        }
        // Commits have offsets too.
        offsets.values().sum::<usize>() > records
    })?;
    println!("  {:.2} s until all checkpoints were written while the host worked", began.elapsed().as_secs_f64());
    host.terminate(STALL_LIMIT)?;
    let checkpointed = (0..RUNS_PER_CASE).map(|_| timed(&app, entries, &state_dir)).collect::<Result<Vec<_>>>()?;
    let (mut host, _) = start(&app, entries, &state_dir)?;
    host.kill()?;
    let killed = timed(&app, entries, &state_dir)?;

    println!();
    let often = format!("the changelog, each written {WRITES_PER_ENTRY} times");
    for (what, read, mut runs) in [
        ("the changelog, each written once", entries, written_once),
        (&often, records, written_often),
        ("checkpoints", entries, checkpointed),
        ("checkpoints, after SIGKILL", entries, vec![killed]),
    ] {
        runs.sort_by_key(|run| run.restored);
        let Run { restored, ready } = runs[runs.len() / 2];
        let rate = per_second(read, restored)?;
        let restored = restored.as_secs_f64();
        let ready = ready.as_secs_f64();
        println!(
            "{entries} entries from {what:<38} {restored:>6.2} s {rate:>9.0}/s, ready {ready:>6.2} s after the start"
        );
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Run {
    /// The time that the slower worker logs: from the start of the first shard's restore to the end of the last one's.
    restored: Duration,
    /// The time from the start of the process until all shards are ready.
    ready: Duration,
}

fn timed(app: &App, entries: usize, flags: &[&str]) -> Result<Run> {
    let (mut host, run) = start(app, entries, flags)?;
    host.terminate(STALL_LIMIT)?;
    println!("  {run:?}");
    Ok(run)
}

/// Starts a host and waits until it has restored all shards.
fn start(app: &App, entries: usize, flags: &[&str]) -> Result<(Host, Run)> {
    let started = Instant::now();
    let host = app.start("host", flags)?;
    let restored = Cell::new(0);
    let slowest = Cell::new(0.0_f64);
    host.wait_for("all shards", STALL_LIMIT, |line| {
        let Some((_, line)) = line.split_once("restore finished ") else { return false };
        let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let count = |name: &str| field(name).and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
        restored.set(restored.get() + count("checkpoint_entries") + count("changelog_records"));
        slowest.set(field("seconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0_f64).max(slowest.get()));
        restored.get() >= entries
    })?;
    let run = Run { restored: Duration::from_secs_f64(slowest.get()), ready: started.elapsed() };
    Ok((host, run))
}

fn number(line: &str, before: &str) -> Option<usize> {
    let (_, rest) = line.split_once(before)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn producer(kafka: &Kafka, app: &App) -> Result<BaseProducer> {
    let mut config = config(kafka);
    config.set("transactional.id", &app.name).set("linger.ms", "5").set("delivery.report.only.error", "true");
    let producer: BaseProducer = config.create()?;
    producer.init_transactions(STALL_LIMIT)?;
    Ok(producer)
}

/// Writes `entries` entries to the changelog in transactions, as the host does.
fn fill(producer: &BaseProducer, app: &App, entries: usize) -> Result<()> {
    let changelog = format!("{}-switchboard-changelog", app.name);
    let value = "v".repeat(100);
    for first in (0..entries).step_by(ENTRIES_PER_TRANSACTION) {
        producer.begin_transaction()?;
        for number in first..(first + ENTRIES_PER_TRANSACTION).min(entries) {
            let tenant = number % TENANTS;
            let key = format!("00000000-0000-4000-8000-{tenant:012}/GMS/83/1\0character/{number:08}");
            let shard = i32::try_from(tenant % SHARDS)?;
            enqueue(producer, BaseRecord::to(&changelog).partition(shard).key(&key).payload(&value))?;
        }
        producer.commit_transaction(STALL_LIMIT)?;
    }
    Ok(())
}

/// Commits an offset for every shard. A host halts a shard that has state but no offset.
fn begin_shards(kafka: &Kafka, app: &App) -> Result<()> {
    let consumer: BaseConsumer = config(kafka).set("group.id", &app.name).create()?;
    let repartition_topic = format!("{}-switchboard-repartition", app.name);
    let mut offsets = TopicPartitionList::new();
    for shard in 0..SHARDS {
        offsets.add_partition_offset(&repartition_topic, i32::try_from(shard)?, Offset::Offset(0))?;
    }
    consumer.commit(&offsets, CommitMode::Sync).context("committing the shards' offsets")
}
