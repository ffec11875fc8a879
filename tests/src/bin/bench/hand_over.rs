//! How long a shard has no output when a host joins the group, and when it leaves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use switchboard_core::record::{TenantId, shard_of};
use switchboard_tests::host::Host;

use crate::Args;
use crate::clients::LONG;
use crate::recovery::{EVERY, SHARDS, WAYS, Way, broker, median, median_and_worst, start};
use crate::stream::{History, Stream, TENANTS, counting};

/// By then the group has come to rest again.
const REST: Duration = Duration::from_secs(15);

pub(crate) fn run(args: &Args) -> Result<()> {
    println!();
    println!("{:<34} {:>8} {:>16} {:>16}", "hand-over", "shards", "their pause", "slowest of all");
    // A static member does not leave: its partitions wait for the session time-out.
    let ways = WAYS.iter().filter(|way| way.flags != ["--instance", "a"] && way.kills > 1);
    for way in ways.filter(|way| way.name.contains(&args.way)) {
        hand_over(way, args)?;
    }
    Ok(())
}

/// What happened to shards in a span of time.
struct Moved {
    shards: BTreeSet<i32>,
    from: Instant,
    to: Instant,
}

/// Lets a second host join and leave again, and looks at the tenants whose shards it was given, and gave back.
fn hand_over(way: &Way, args: &Args) -> Result<()> {
    let kafka = broker(way)?;
    // Tells which shards were taken over.
    let app = counting(&kafka, "hand-over")?.env("RUST_LOG", "info,switchboard_core::worker::ownership=debug");
    let mut staying = start(&app, "staying", way, args)?;
    let stream = Stream::start(&kafka, &app, EVERY)?;
    stream.settle(REST)?;

    let calm = Instant::now();
    stream.settle(REST)?;
    let (mut joins, mut leaves) = (Vec::new(), Vec::new());
    for turn in 0..args.hand_overs {
        let from = Instant::now();
        let mut guest = start(&app, &format!("guest-{turn}"), way, args)?;
        stream.settle(REST)?;
        joins.push(Moved { shards: taken_over(&guest, 0), from, to: Instant::now() });
        let (from, before) = (Instant::now(), staying.log().len());
        guest.terminate(LONG)?;
        stream.settle(REST)?;
        leaves.push(Moved { shards: taken_over(&staying, before), from, to: Instant::now() });
    }
    let history = stream.finish()?;
    staying.terminate(LONG)?;
    let usual = median(&mut history.gaps(calm, calm + REST))?;
    println!(
        "{:<34} {:>8} {:>16} {:>16}",
        format!("{}, nothing", way.name),
        "",
        format!("{} ms", usual.as_millis()),
        ""
    );
    report(&format!("{}, joins", way.name), &history, &joins, usual)?;
    report(&format!("{}, leaves", way.name), &history, &leaves, usual)
}

/// The shards that a host took over since a line of its log.
fn taken_over(host: &Host, since: usize) -> BTreeSet<i32> {
    let shard = |line: &str| line.split_once("shard restored shard=")?.1.split(' ').next()?.parse().ok();
    host.log().iter().skip(since).filter_map(|line| shard(line)).collect()
}

fn report(what: &str, history: &History, moved: &[Moved], usual: Duration) -> Result<()> {
    let shards = u32::try_from(SHARDS)?;
    let shard = |tenant: usize| shard_of(&TenantId::new(format!("tenant-{tenant}")), shards);
    let (mut pauses, mut slowest, mut count) = (Vec::new(), Duration::ZERO, 0);
    for Moved { shards, from, to } in moved {
        let gaps = history.gaps(*from, *to);
        let own = (0..TENANTS).filter(|tenant| shards.contains(&shard(*tenant).get()));
        pauses.extend(own.map(|tenant| gaps[tenant].saturating_sub(usual)));
        slowest = slowest.max(history.slowest(*from, *to));
        count += shards.len();
    }
    let pause = if pauses.is_empty() { "none moved".into() } else { median_and_worst(&mut pauses)? };
    let shards = format!("{count} in {}", moved.len());
    println!("{what:<34} {shards:>8} {pause:>16} {:>16}", format!("{} ms", slowest.as_millis()));
    Ok(())
}
