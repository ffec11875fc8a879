//! The time without outputs when a host is killed and restarted.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use switchboard_tests::app::App;
use switchboard_tests::host::Host;
use switchboard_tests::kafka::{Kafka, Options};

use crate::Args;
use crate::clients::STALL_LIMIT;
use crate::stream::{Stream, counting};

/// The time between two inputs. Each tenant has one every 48 ms.
pub(crate) const INPUT_INTERVAL: Duration = Duration::from_millis(1);

/// The number of shards.
pub(crate) const SHARDS: i32 = 16;

/// A kind of group membership.
pub(crate) struct Membership {
    pub(crate) name: &'static str,
    pub(crate) flags: &'static [&'static str],
    /// The broker's KIP-848 session time-out, in ms. Kafka's default is 45 s.
    session_timeout_ms: &'static str,
    pub(crate) kills: usize,
}

pub(crate) const MEMBERSHIPS: [Membership; 4] = [
    Membership { name: "classic, --instance", flags: &["--instance", "a"], session_timeout_ms: "45000", kills: 10 },
    Membership { name: "classic", flags: &[], session_timeout_ms: "45000", kills: 3 },
    Membership {
        name: "consumer, broker's 6 s",
        flags: &["--group-protocol", "consumer"],
        session_timeout_ms: "6000",
        kills: 3,
    },
    Membership {
        name: "consumer, broker's 45 s",
        flags: &["--group-protocol", "consumer"],
        session_timeout_ms: "45000",
        kills: 1,
    },
];

pub(crate) fn run(args: &Args) -> Result<()> {
    println!();
    println!(
        "{:<26} {:>6} {:>16} {:>16} {:>12}",
        "killed and restarted", "kills", "first output", "all shards", "in a txn"
    );
    for membership in MEMBERSHIPS.iter().filter(|membership| membership.name.contains(&args.way)) {
        recovery(membership, args)?;
    }
    Ok(())
}

pub(crate) fn broker(membership: &Membership) -> Result<Kafka> {
    let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let properties = vec![
        property("group.initial.rebalance.delay.ms", "3000"),
        property("group.consumer.session.timeout.ms", membership.session_timeout_ms),
    ];
    Kafka::start_with(&Options { optimised: true, properties, ..Options::default() })
}

pub(crate) fn start(app: &App, name: &str, membership: &Membership, args: &Args) -> Result<Host> {
    let threads = args.threads.to_string();
    let mut flags = vec!["--threads", &threads];
    flags.extend(membership.flags);
    flags.extend(args.with.iter().map(String::as_str));
    app.start(name, &flags)
}

/// Kills a busy host, restarts it at once, and waits until all tenants have outputs for the inputs after the kill.
fn recovery(membership: &Membership, args: &Args) -> Result<()> {
    let kafka = broker(membership)?;
    let app = counting(&kafka, "recovery")?;
    let mut host = start(&app, "host-0", membership, args)?;
    let stream = Stream::start(&kafka, &app, INPUT_INTERVAL)?;
    stream.settle(Duration::from_secs(5))?;
    let outputs = app.client.transactions(app.topic("OUT"))?;
    let repartitioned = app.client.transactions(&format!("{}-switchboard-repartition", app.name))?;
    let mut firsts = Vec::new();
    let mut alls = Vec::new();
    let mut open = 0;
    for kill in 0..membership.kills {
        host.kill()?;
        let killed = stream.sent();
        open += usize::from(outputs.is_open()? || repartitioned.is_open()?);
        let started = Instant::now();
        host = start(&app, &format!("host-{}", kill + 1), membership, args)?;
        let (first, all) = stream.outputs_since(killed)?;
        firsts.push(first - started);
        alls.push(all - started);
        // The next kill hits another moment of a transaction.
        stream.settle(Duration::from_millis(2000 + 37 * kill as u64))?;
    }
    stream.finish()?;
    host.terminate(STALL_LIMIT)?;
    println!(
        "{:<26} {:>6} {:>16} {:>16} {:>12}",
        membership.name,
        membership.kills,
        median_and_worst(&mut firsts)?,
        median_and_worst(&mut alls)?,
        format!("{open} of {}", membership.kills)
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
