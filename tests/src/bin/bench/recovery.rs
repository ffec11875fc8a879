//! How long nothing comes out when a host is killed and started again, and when hosts come and go.

use std::iter;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use switchboard_tests::app::App;
use switchboard_tests::host::Host;
use switchboard_tests::kafka::{Kafka, Options};

use crate::Args;
use crate::clients::{LONG, config};
use crate::stream::{Stream, counting};

/// Between two inputs; each tenant has one every 48 ms.
const EVERY: Duration = Duration::from_millis(1);

/// The host's default.
const SHARDS: i32 = 16;

/// A way to be a member of the group.
struct Way {
    name: &'static str,
    flags: &'static [&'static str],
    /// The KIP-848 session time-out of the broker in ms; Kafka's default is 45 s.
    session: &'static str,
    kills: usize,
}

const WAYS: [Way; 4] = [
    Way { name: "classic, --instance", flags: &["--instance", "a"], session: "45000", kills: 10 },
    Way { name: "classic", flags: &[], session: "45000", kills: 3 },
    Way { name: "consumer, broker's 6 s", flags: &["--group-protocol", "consumer"], session: "6000", kills: 3 },
    Way { name: "consumer, broker's 45 s", flags: &["--group-protocol", "consumer"], session: "45000", kills: 1 },
];

pub(crate) fn run(args: &Args) -> Result<()> {
    println!();
    println!(
        "{:<26} {:>6} {:>16} {:>16} {:>12}",
        "killed and started again", "kills", "first output", "all shards", "in a txn"
    );
    for way in WAYS.iter().filter(|way| way.name.contains(&args.way)) {
        recovery(way, args)?;
    }
    println!();
    println!("{:<26} {:>6} {:>16} {:>16} {:>12}", "hand-over", "shards", "pause", "usual gap", "slowest");
    for way in
        WAYS.iter().filter(|way| !way.flags.contains(&"--instance") && way.kills > 1 && way.name.contains(&args.way))
    {
        hand_over(way, args)?;
    }
    Ok(())
}

fn broker(way: &Way) -> Result<Kafka> {
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let properties = vec![
        property("group.initial.rebalance.delay.ms", "3000"),
        property("group.consumer.session.timeout.ms", way.session),
    ];
    Kafka::start_with(&Options { optimised: true, properties, ..Options::default() })
}

fn start(app: &App, name: &str, way: &Way, args: &Args) -> Result<Host> {
    let workers = args.workers.to_string();
    let mut flags = vec!["--workers", &workers];
    flags.extend(way.flags);
    flags.extend(args.with.iter().map(String::as_str));
    app.start(name, &flags)
}

/// Kills a busy host, starts it again at once, and waits until all tenants have outputs for what came meanwhile.
fn recovery(way: &Way, args: &Args) -> Result<()> {
    let kafka = broker(way)?;
    let app = counting(&kafka, "recovery")?;
    let mut host = start(&app, "host-0", way, args)?;
    let stream = Stream::start(&kafka, &app, EVERY)?;
    stream.settle(Duration::from_secs(5))?;
    let (mut firsts, mut alls, mut open) = (Vec::new(), Vec::new(), 0);
    for kill in 0..way.kills {
        host.kill()?;
        let killed = stream.sent();
        open += usize::from(has_open_transaction(&kafka, &app)?);
        let started = Instant::now();
        host = start(&app, &format!("host-{}", kill + 1), way, args)?;
        let (first, all) = stream.back(killed)?;
        firsts.push(first - started);
        alls.push(all - started);
        // Not always at the same moment of a transaction.
        stream.settle(Duration::from_millis(2000 + 37 * kill as u64))?;
    }
    stream.finish()?;
    host.terminate(LONG)?;
    println!(
        "{:<26} {:>6} {:>16} {:>16} {:>12}",
        way.name,
        way.kills,
        median_and_worst(&mut firsts)?,
        median_and_worst(&mut alls)?,
        format!("{open} of {}", way.kills)
    );
    Ok(())
}

/// Whether a transaction is open in what the application writes: a dead host's, for nobody else is there.
fn has_open_transaction(kafka: &Kafka, app: &App) -> Result<bool> {
    let reader = |isolation: &str| -> Result<BaseConsumer> {
        Ok(config(kafka).set("isolation.level", isolation).set("group.id", "never used").create()?)
    };
    let (committed, uncommitted) = (reader("read_committed")?, reader("read_uncommitted")?);
    let shards = format!("{}-shards", app.name);
    for (topic, partition) in iter::once((app.topic("OUT"), 0)).chain((0..SHARDS).map(|shard| (shards.as_str(), shard)))
    {
        let end = |reader: &BaseConsumer| Ok::<_, KafkaError>(reader.fetch_watermarks(topic, partition, LONG)?.1);
        if end(&committed)? < end(&uncommitted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Lets a second host join and leave again.
fn hand_over(way: &Way, args: &Args) -> Result<()> {
    let kafka = broker(way)?;
    let app = counting(&kafka, "hand-over")?;
    let mut staying = start(&app, "staying", way, args)?;
    let stream = Stream::start(&kafka, &app, EVERY)?;
    stream.settle(Duration::from_secs(5))?;

    let mut marks = vec![Instant::now()];
    stream.settle(Duration::from_secs(5))?;
    for turn in 0..args.hand_overs {
        marks.push(Instant::now());
        let mut guest = start(&app, &format!("guest-{turn}"), way, args)?;
        stream.settle(Duration::from_secs(20))?;
        marks.push(Instant::now());
        guest.terminate(LONG)?;
        stream.settle(Duration::from_secs(20))?;
    }
    marks.push(Instant::now());
    let history = stream.finish()?;
    staying.terminate(LONG)?;
    let usual = median(&mut history.gaps(marks[0], marks[1]))?;
    for (what, first) in [("joins", 1), ("leaves", 2)] {
        let spans = (first..marks.len() - 1).step_by(2).map(|place| (marks[place], marks[place + 1]));
        let (mut pauses, mut slowest) = (Vec::new(), Duration::ZERO);
        for (from, to) in spans {
            pauses.extend(
                history.gaps(from, to).into_iter().filter(|gap| *gap > 3 * usual).map(|gap| gap.saturating_sub(usual)),
            );
            slowest = slowest.max(history.slowest(from, to));
        }
        println!(
            "{:<26} {:>6} {:>16} {:>16} {:>12}",
            format!("{}, {what}", way.name),
            pauses.len(),
            median_and_worst(&mut pauses)?,
            format!("{} ms", usual.as_millis()),
            format!("{} ms", slowest.as_millis())
        );
    }
    Ok(())
}

fn median(times: &mut [Duration]) -> Result<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing was measured")
}

fn median_and_worst(times: &mut [Duration]) -> Result<String> {
    let median = median(times)?;
    let worst = times.last().copied().unwrap_or_default();
    Ok(format!("{} / {} ms", median.as_millis(), worst.as_millis()))
}
