//! The time that a shard has no output when a host joins the group, and when it leaves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use switchboard_core::record::{TenantId, shard_of};
use switchboard_tests::host::Host;

use crate::Args;
use crate::clients::STALL_LIMIT;
use crate::recovery::{INPUT_INTERVAL, MEMBERSHIPS, Membership, SHARDS, broker, median, median_and_worst, start};
use crate::stream::{History, Stream, TENANTS, counting};

/// How long the group may need to become stable again.
const GROUP_STABLE_AFTER: Duration = Duration::from_secs(15);

pub(crate) fn run(args: &Args) -> Result<()> {
    println!();
    println!("{:<34} {:>8} {:>16} {:>16}", "hand-over", "shards", "their pause", "slowest of all");
    // A static member does not leave the group: its partitions wait for the session time-out.
    let memberships = MEMBERSHIPS.iter().filter(|one| one.flags != ["--instance", "a"] && one.kills > 1);
    for membership in memberships.filter(|one| one.name.contains(&args.way)) {
        hand_over(membership, args)?;
    }
    Ok(())
}

/// The shards that moved between hosts in a span of time.
struct Moved {
    shards: BTreeSet<i32>,
    from: Instant,
    to: Instant,
}

/// Lets a second host join and leave, and measures the tenants whose shards it took over and gave back.
fn hand_over(membership: &Membership, args: &Args) -> Result<()> {
    let kafka = broker(membership)?;
    // The host then logs which shards it has taken over.
    let app = counting(&kafka, "hand-over")?.env("RUST_LOG", "info,switchboard_core::worker::assignment=debug");
    let mut staying = start(&app, "staying", membership, args)?;
    let stream = Stream::start(&kafka, &app, INPUT_INTERVAL)?;
    stream.settle(GROUP_STABLE_AFTER)?;

    let calm = Instant::now();
    stream.settle(GROUP_STABLE_AFTER)?;
    let mut joins = Vec::new();
    let mut leaves = Vec::new();
    for turn in 0..args.hand_overs {
        let from = Instant::now();
        let mut guest = start(&app, &format!("guest-{turn}"), membership, args)?;
        stream.settle(GROUP_STABLE_AFTER)?;
        joins.push(Moved { shards: taken_over(&guest, 0), from, to: Instant::now() });
        let from = Instant::now();
        let before = staying.log().len();
        guest.terminate(STALL_LIMIT)?;
        stream.settle(GROUP_STABLE_AFTER)?;
        leaves.push(Moved { shards: taken_over(&staying, before), from, to: Instant::now() });
    }
    let history = stream.finish()?;
    staying.terminate(STALL_LIMIT)?;
    let usual = median(&mut history.gaps(calm, calm + GROUP_STABLE_AFTER))?;
    println!(
        "{:<34} {:>8} {:>16} {:>16}",
        format!("{}, no change", membership.name),
        "",
        format!("{} ms", usual.as_millis()),
        ""
    );
    report(&format!("{}, joins", membership.name), &history, &joins, usual)?;
    report(&format!("{}, leaves", membership.name), &history, &leaves, usual)
}

/// The shards that a host has taken over since a line of its log.
fn taken_over(host: &Host, since: usize) -> BTreeSet<i32> {
    let shard = |line: &str| line.split_once("shard restored shard=")?.1.split(' ').next()?.parse().ok();
    host.log().iter().skip(since).filter_map(|line| shard(line)).collect()
}

fn report(what: &str, history: &History, moved: &[Moved], usual: Duration) -> Result<()> {
    let shards = u32::try_from(SHARDS)?;
    let shard = |tenant: usize| shard_of(&TenantId::new(format!("tenant-{tenant}")), shards);
    let mut pauses = Vec::new();
    let mut slowest = Duration::ZERO;
    let mut count = 0;
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
