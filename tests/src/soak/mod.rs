//! Swaps on a real Kafka. Commands change the releases of tenants hundreds of times and at random, while inputs arrive
//! whose correct results are known, and while hosts are killed, join and leave. In the end each input must be settled
//! exactly once, by the release that its tenant had at that point.
//!
//! The load follows the settled inputs, and each swap waits until enough inputs are settled. So a slow machine runs the
//! same test. Time decides only whether the test hangs: no further input is settled.
//!
//! All releases are the ledger plugin. Each has a version of its own, which every output contains.

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

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    pub swaps: usize,
    pub seed: u64,
    /// The maximum number of inputs a second.
    pub rate: usize,
    /// Whether each deployment brings a new artifact. Otherwise two artifacts alternate.
    pub fresh: bool,
    /// The directory of data and logs.
    pub directory: PathBuf,
}

/// The number of swaps before the first measurement of memory.
const WARM_UP_SWAPS: usize = 10;
/// The number of swaps between two lines of progress.
const SWAPS_PER_PROGRESS_LINE: usize = 50;
/// The number of swaps for each kill of a host. Every run has at least one kill.
const SWAPS_PER_KILL: usize = 120;

/// Swaps releases, prints the progress, and checks the result.
///
/// # Errors
/// At once, when the application hangs, when an input is settled twice, or when the test itself cannot continue.
pub fn run(options: &Options) -> Result<Report> {
    let started = Instant::now();
    let mut world = World::start(options)?;
    println!("a broker, two hosts and {} tenants after {:.0} s", load::TENANTS, started.elapsed().as_secs_f64());
    let kills = options.swaps.div_ceil(SWAPS_PER_KILL);
    let due = |kill: usize| (options.swaps * (2 * kill + 1)) / (2 * kills);
    let mut report = Report::new(options);
    for swap in 1..=options.swaps {
        let label = || format!("swap {swap} of {}", options.swaps);
        let before = world.settled();
        if (0..kills).any(|kill| due(kill) == swap) {
            world.swap_during_a_kill().with_context(label)?;
        } else {
            world.swap().with_context(label)?;
        }
        // A further host joins in the first half, and leaves in the second.
        if swap == options.swaps.div_ceil(3) {
            world.join().with_context(label)?;
        } else if swap == (2 * options.swaps).div_ceil(3) {
            world.leave().with_context(label)?;
        }
        if swap == WARM_UP_SWAPS.min(options.swaps) {
            world.settle().with_context(label)?;
            report.warm = world.memory()?;
        }
        if swap % SWAPS_PER_PROGRESS_LINE == 0 {
            let behind = world.settle().with_context(label)?;
            let memory = world.memory()?;
            println!(
                "{swap:>5} swaps, {:>4.0} s: all settled {:.1} s later, {}",
                started.elapsed().as_secs_f64(),
                behind.as_secs_f64(),
                report::mib(&memory)
            );
        }
        world.rest(before).with_context(label)?;
        report.swap(world.settled() - before);
    }
    world.last_swap().context("the last swap")?;
    report.end = world.memory()?;
    let (evidence, swaps, fleet, wrong) = world.finish()?;
    report.judge(&evidence, &swaps, &fleet, wrong);
    report.took = started.elapsed();
    Ok(report)
}
