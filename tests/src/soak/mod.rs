//! Swaps on a real Kafka: the commands change which release tenants run, hundreds of times and at random, while inputs with a
//! known truth come in and hosts are killed, join and leave. In the end each input must be settled exactly once, each by the
//! release that its tenant had at that point.
//!
//! The load follows what is settled, and each swap waits until enough inputs are settled, so that a slow machine makes the same
//! test. Nothing is judged by time but a hang: nothing is settled any more.
//!
//! All releases are the ledger plugin, each with a version of its own that stands in each of its outputs.

pub mod artifacts;
pub mod check;
pub mod load;
mod report;
pub mod swaps;
pub mod versions;
pub mod watch;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

pub use report::Report;

use world::World;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    pub swaps: usize,
    pub seed: u64,
    /// Inputs a second, at most.
    pub rate: usize,
    /// Each deployment brings an artifact that was never there before; else two are swapped back and forth.
    pub fresh: bool,
    /// For data and logs.
    pub directory: PathBuf,
}

/// So many swaps come before memory is measured for the first time.
const WARM_UP: usize = 10;
/// So often how it goes is told, in swaps.
const TELL: usize = 50;
/// Swaps for each kill of a host; there is one at least.
const A_KILL: usize = 120;

/// Swaps, and judges what came of it; tells how it goes.
///
/// # Errors
/// When something hangs or was settled twice, at once; or when the test itself cannot go on.
pub fn run(options: &Options) -> Result<Report> {
    let started = Instant::now();
    let mut world = World::start(options)?;
    println!("a broker, two hosts and {} tenants after {:.0} s", load::TENANTS, started.elapsed().as_secs_f64());
    let kills = options.swaps.div_ceil(A_KILL);
    let due = |kill: usize| (options.swaps * (2 * kill + 1)) / (2 * kills);
    let mut report = Report::new(options);
    for swap in 1..=options.swaps {
        let told = || format!("swap {swap} of {}", options.swaps);
        let before = world.settled();
        if (0..kills).any(|kill| due(kill) == swap) {
            world.swap_in_spite_of_a_kill().with_context(told)?;
        } else {
            world.swap().with_context(told)?;
        }
        // One comes in the first half, and leaves in the second.
        if swap == options.swaps.div_ceil(3) {
            world.join().with_context(told)?;
        } else if swap == (2 * options.swaps).div_ceil(3) {
            world.leave().with_context(told)?;
        }
        if swap == WARM_UP.min(options.swaps) {
            world.settle().with_context(told)?;
            report.warm = world.memory()?;
        }
        if swap % TELL == 0 {
            let behind = world.settle().with_context(told)?;
            let memory = world.memory()?;
            println!(
                "{swap:>5} swaps, {:>4.0} s: all settled {:.1} s later, {}",
                started.elapsed().as_secs_f64(),
                behind.as_secs_f64(),
                report::mib(&memory)
            );
        }
        world.rest(before).with_context(told)?;
        report.swap(world.settled() - before);
    }
    world.last_swap().context("the last swap")?;
    report.end = world.memory()?;
    let (evidence, swaps, fleet, wrong) = world.finish()?;
    report.judge(&evidence, &swaps, &fleet, wrong);
    report.took = started.elapsed();
    Ok(report)
}
