//! Chaos on a real Kafka: hosts and brokers are killed, paused and restarted, and connections fail, while inputs with a known
//! truth come in. In the end each of them must be settled exactly once.
//!
//! A cycle is a fault, or two at once, and then waiting until all that was sent is settled. Everything random comes from
//! the seed; when things happen within a fault does not.

pub mod check;
mod faults;
pub mod mix;
mod report;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

pub use report::Report;

use faults::Deck;
use world::World;

/// What is asked for.
#[derive(Debug)]
pub struct Options {
    pub cycles: usize,
    pub seed: u64,
    /// For data and logs.
    pub directory: PathBuf,
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
        let settled = (|| {
            let mut under_way = Vec::new();
            for fault in &faults {
                under_way.push(fault.begin(&mut world)?);
            }
            let longest = faults.iter().map(faults::Fault::lasts).max().unwrap_or_default();
            world.pass(longest)?;
            // The network first: a host that is to end may need it.
            for (fault, under_way) in faults.iter().zip(under_way).rev() {
                fault.end(&mut world, under_way)?;
            }
            world.settle()
        })();
        let settled = settled.with_context(|| format!("cycle {cycle}, {told}"))?;
        println!("{cycle:>4}  {told}: settled after {:.1} s", settled.as_secs_f64());
        report.cycle(&faults, settled);
    }
    report.late = world.late;
    let (evidence, wrong, fleet) = world.finish()?;
    report.judge(&evidence, wrong, &fleet);
    report.took = started.elapsed();
    Ok(report)
}
