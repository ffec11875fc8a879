//! How long nothing comes out when a host is killed and started again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use switchboard_tests::app::App;
use switchboard_tests::host::Host;
use switchboard_tests::kafka::{Kafka, Options};

use crate::Args;
use crate::clients::LONG;
use crate::stream::{Stream, counting};

/// Between two inputs; each tenant has one every 48 ms.
pub(crate) const EVERY: Duration = Duration::from_millis(1);

/// The host's default.
pub(crate) const SHARDS: i32 = 16;

/// A way to be a member of the group.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) flags: &'static [&'static str],
    /// The KIP-848 session time-out of the broker in ms; Kafka's default is 45 s.
    session: &'static str,
    pub(crate) kills: usize,
}

pub(crate) const WAYS: [Way; 4] = [
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
    Ok(())
}

pub(crate) fn broker(way: &Way) -> Result<Kafka> {
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let properties = vec![
        property("group.initial.rebalance.delay.ms", "3000"),
        property("group.consumer.session.timeout.ms", way.session),
    ];
    Kafka::start_with(&Options { optimised: true, properties, ..Options::default() })
}

pub(crate) fn start(app: &App, name: &str, way: &Way, args: &Args) -> Result<Host> {
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
    let outputs = app.client.transactions(app.topic("OUT"))?;
    let shards = app.client.transactions(&format!("{}-switchboard-repartition", app.name))?;
    let (mut firsts, mut alls, mut open) = (Vec::new(), Vec::new(), 0);
    for kill in 0..way.kills {
        host.kill()?;
        let killed = stream.sent();
        open += usize::from(outputs.is_open()? || shards.is_open()?);
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

pub(crate) fn median(times: &mut [Duration]) -> Result<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied().context("nothing was measured")
}

pub(crate) fn median_and_worst(times: &mut [Duration]) -> Result<String> {
    let median = median(times)?;
    let worst = times.last().copied().unwrap_or_default();
    Ok(format!("{} / {} ms", median.as_millis(), worst.as_millis()))
}
