//! Chaos on a real Kafka. Hosts and brokers are killed, paused and restarted, and connections fail, while inputs arrive
//! whose correct results are known. In the end each input must be settled exactly once.
//!
//! A cycle is one fault, or two at once, and then a wait until all inputs are settled. The seed decides everything
//! random. It does not decide the exact timing within a fault.
//!
//! The load follows the settled inputs, and each fault lasts until it has met enough inputs. So a slow machine runs the
//! same test. Time decides only whether the test hangs: no fault is left, and still no further input is settled.

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
use world::{MIN_INPUTS_UNDER_FAULT, World};

/// The options of a run.
#[derive(Debug)]
pub struct Options {
    pub cycles: usize,
    pub seed: u64,
    /// The directory of data and logs.
    pub directory: PathBuf,
}

/// The result of a cycle.
#[derive(Debug)]
struct Cycle {
    /// The number of inputs under each fault: in flight when it began, or sent before it ended. All of them are
    /// settled.
    inputs_under: Vec<u64>,
    /// The time from the end of the faults until all inputs were settled.
    settled_after: Duration,
}

/// Makes faults, prints a line at the end of each cycle, and checks the result.
///
/// # Errors
/// At once, when the application hangs, when an input is settled twice, or when the test itself cannot continue.
pub fn run(options: &Options) -> Result<Report> {
    let started = Instant::now();
    let mut world = World::start(&options.directory, options.seed)?;
    println!("three brokers and {} hosts after {:.0} s", world::SPARE_HOST, started.elapsed().as_secs_f64());
    let mut report = Report::new(options.seed, options.cycles);
    let mut deck = Deck::new(options.seed);
    for cycle in 1..=options.cycles {
        let faults = deck.deal();
        let names = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        let done = run_cycle(&mut world, &faults).with_context(|| format!("cycle {cycle}, {names}"))?;
        let inputs = done.inputs_under.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        let settled_after = done.settled_after.as_secs_f64();
        println!("{cycle:>4}  {names}: {inputs} inputs under it, settled after {settled_after:.1} s");
        report.cycle(&faults, &done);
    }
    report.late_requests = world.late_requests;
    let (evidence, wrong, fleet) = world.finish()?;
    report.judge(&evidence, wrong, &fleet);
    report.took = started.elapsed();
    Ok(report)
}

/// Makes these faults at once while inputs arrive. Then waits until all inputs are settled and all hosts have
/// partitions.
fn run_cycle(world: &mut World, faults: &[Fault]) -> Result<Cycle> {
    let mut begun = Vec::new();
    for fault in faults {
        let settled = world.begin_under_load()?;
        begun.push((settled, fault.begin(world)?));
    }
    let longest = faults.iter().map(Fault::lasts).max().unwrap_or_default();
    world.load.pass(longest)?;
    let last = begun.iter().map(|(settled, _)| *settled).max().unwrap_or_default();
    world.load.wait_for_sent(last + MIN_INPUTS_UNDER_FAULT)?;
    let mut inputs_under = Vec::new();
    // The network recovers first: a host that shuts down may need it.
    for (fault, (settled, held)) in faults.iter().zip(begun).rev() {
        inputs_under.push(world.load.generator.sent() - settled);
        fault.end(world, held)?;
    }
    inputs_under.reverse();
    let settled_after = world.load.settle()?;
    world.load.wait_for_hosts()?;
    Ok(Cycle { inputs_under, settled_after })
}
