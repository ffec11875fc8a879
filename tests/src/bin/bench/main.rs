//! `make bench`: what the whole host does on a real broker.
//!
//! Machines are shared and noisy, so a figure means something only as a ratio within one run. A file here is a part, which
//! can be run alone: `make bench ONLY=latency`.
#![forbid(unsafe_code)]

mod clients;
mod hand_over;
mod latency;
mod overload;
mod recovery;
mod restore;
mod stream;
mod swap;
mod throughput;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use switchboard_tests::kafka::{Kafka, Options};

/// Measures the host on a real broker.
#[derive(Parser)]
struct Args {
    /// What to measure; all, if none is named.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Records of each measured run of throughput.
    #[arg(long, default_value_t = 600_000)]
    records: usize,
    /// Records of the run before it, which is not measured.
    #[arg(long, default_value_t = 1_500_000)]
    warm_up: usize,
    /// Messages whose latency is measured, one at a time.
    #[arg(long, default_value_t = 1000)]
    lone: usize,
    /// Of the ways to be a member of the group only those whose name has this in it.
    #[arg(long, default_value = "")]
    way: String,
    /// How often a second host joins and leaves.
    #[arg(long, default_value_t = 3)]
    hand_overs: usize,
    /// How long the input of overload comes at three times of what the host can do, in seconds.
    #[arg(long, default_value_t = 30)]
    overload_seconds: u64,
    /// Entries of state that are restored.
    #[arg(long, default_value_t = 1_000_000)]
    entries: usize,
    /// How often a release is changed, of each kind.
    #[arg(long, default_value_t = 100)]
    swaps: usize,
    /// Messages that wait when releases are changed in a backlog.
    #[arg(long, default_value_t = 2_000_000)]
    backlog: u64,
    /// Workers of the host.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// A further flag of `switchboard run`; repeatable.
    #[arg(long = "with", value_name = "FLAG", allow_hyphen_values = true)]
    with: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Records per second, beside plain loops that only copy.
    Throughput,
    /// How long a lone message takes through an idle host.
    Latency,
    /// How long nothing comes out after a kill.
    Recovery,
    /// How long a shard pauses when hosts join and leave.
    HandOver,
    /// What input at three times of what the host can do does to it.
    Overload,
    /// How long state takes to restore, without and with checkpoints.
    Restore,
    /// What a change of a tenant's release costs.
    Swap,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let parts = if args.parts.is_empty() { Part::value_variants() } else { &args.parts };
    let mut warm = None;
    for part in parts {
        match part {
            Part::Throughput => throughput::run(warm_kafka(&mut warm, args)?, args)?,
            Part::Latency => latency::run(warm_kafka(&mut warm, args)?, args)?,
            Part::Recovery => recovery::run(args)?,
            Part::HandOver => hand_over::run(args)?,
            Part::Overload => overload::run(args)?,
            Part::Restore => restore::run(args)?,
            Part::Swap => swap::run(args)?,
        }
    }
    Ok(())
}

/// A broker that has handled some millions of records, for the parts for which that matters.
fn warm_kafka<'a>(warm: &'a mut Option<Kafka>, args: &Args) -> Result<&'a Kafka> {
    if warm.is_none() {
        println!("Starting a broker, and warming it up, which takes about a minute.");
        // As Kafka has it by default: workers that start together get their partitions together, evenly by topic.
        let properties = vec![("group.initial.rebalance.delay.ms".to_owned(), "3000".to_owned())];
        let kafka = Kafka::start_with(&Options { heap_mib: 1024, optimised: true, properties, ..Options::default() })?;
        throughput::warm_up(&kafka, args)?;
        *warm = Some(kafka);
    }
    warm.as_ref().context("started above")
}
