//! Chaos on a real Kafka: hosts and brokers are killed, paused and restarted, and connections fail, while inputs with a known
//! truth come in. In the end each of them must be settled exactly once.
//!
//! A cycle is a fault, or two at once, and then waiting until all that was sent is settled. Everything random comes from
//! the seed; when things happen within a fault does not.
//!
//! The load follows what is settled, and each fault lasts until enough inputs were under it, so that a slow machine makes the
//! same test. Nothing is judged by time but a hang: nothing is settled any more though no fault is left.

pub mod check;
mod faults;
pub mod mix;
mod report;
mod world;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use report::Report;

use faults::{Deck, Fault};
use world::{UNDER_A_FAULT, World};

/// What is asked for.
#[derive(Debug)]
pub struct Options {
    pub cycles: usize,
    pub seed: u64,
    /// For data and logs.
    pub directory: PathBuf,
}

/// What a cycle came to.
#[derive(Debug)]
struct Cycle {
    /// Inputs under each fault: in flight when it began, or sent before it ended. All of them are settled.
    under: Vec<u64>,
    /// How long it took until all was settled, from the end of the faults on.
    settled: Duration,
}

/// Makes faults and judges what came of it; tells each cycle in a line as it ends.
///
/// # Errors
/// When something hangs or was settled twice, at once; or when the test itself cannot go on.
pub fn run(options: &Options) -> Result<Report> {
    let started = Instant::now();
    let mut world = World::start(&options.directory, options.seed)?;
    println!("three brokers and {} hosts after {:.0} s", world::SPARE, started.elapsed().as_secs_f64());
    let mut report = Report::new(options.seed, options.cycles);
    let mut deck = Deck::new(options.seed);
    for cycle in 1..=options.cycles {
        let faults = deck.deal();
        let told = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        let done = cycle_of(&mut world, &faults).with_context(|| format!("cycle {cycle}, {told}"))?;
        let under = done.under.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        println!("{cycle:>4}  {told}: {under} inputs under it, settled after {:.1} s", done.settled.as_secs_f64());
        report.cycle(&faults, &done);
    }
    report.late = world.late;
    let (evidence, wrong, fleet) = world.finish()?;
    report.judge(&evidence, wrong, &fleet);
    report.took = started.elapsed();
    Ok(report)
}

/// Makes these faults at once while inputs come in, and waits until all that was sent is settled and all hosts take part again.
fn cycle_of(world: &mut World, faults: &[Fault]) -> Result<Cycle> {
    let mut begun = Vec::new();
    for fault in faults {
        let settled = world.begin_under_load()?;
        begun.push((settled, fault.begin(world)?));
    }
    let longest = faults.iter().map(Fault::lasts).max().unwrap_or_default();
    world.load.pass(longest)?;
    let last = begun.iter().map(|(settled, _)| *settled).max().unwrap_or_default();
    world.load.wait_for_sent(last + UNDER_A_FAULT)?;
    let mut under = Vec::new();
    // The network first: a host that is to end may need it.
    for (fault, (settled, under_way)) in faults.iter().zip(begun).rev() {
        under.push(world.load.generator.sent() - settled);
        fault.end(world, under_way)?;
    }
    under.reverse();
    let settled = world.load.settle()?;
    world.load.wait_for_hosts()?;
    Ok(Cycle { under, settled })
}
