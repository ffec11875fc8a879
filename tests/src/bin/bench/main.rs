//! `make bench`: measures the whole host on a real broker.
//!
//! Machines are shared and noisy, so compare figures only within one run. Each file here is a part that can run alone:
//! `make bench ONLY=latency`. `make bench AGAINST=path` compares with another binary.
#![forbid(unsafe_code)]

mod clients;
mod comparison;
mod distribution;
mod engine;
mod fairness;
mod feed;
mod hand_over;
mod idle;
mod latency;
mod overload;
mod ownership;
mod quota;
mod recovery;
mod restore;
mod scale;
mod stream;
mod swap;
mod throughput;
mod transactions;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use switchboard_tests::kafka::{Kafka, Options};

/// Measures the host on a real broker.
#[derive(Parser)]
struct Args {
    /// The parts to measure. Default: all, with --against throughput and latency.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Another `switchboard` binary, such as one of a former version. Throughput, latency, fairness and idle then measure
    /// both in turn, on the same broker. Flags that it does not know are not passed to it.
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// The number of rounds of a comparison, of fairness, and of each form of input of `scale`.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The number of records of each measured run of `scale`.
    #[arg(long, default_value_t = 200_000)]
    scale_records: u64,
    /// The number of records of each measured run of throughput.
    #[arg(long, default_value_t = 600_000)]
    records: usize,
    /// The number of records of the run before it, which is not measured.
    #[arg(long, default_value_t = 1_500_000)]
    warm_up: usize,
    /// The number of messages whose latency is measured, one at a time.
    #[arg(long, default_value_t = 1000)]
    lone: usize,
    /// The duration of each measurement of fairness, in seconds.
    #[arg(long, default_value_t = 20)]
    fairness_seconds: u64,
    /// Measures only the kinds of group membership whose name contains this text. With `none`, `scale` measures
    /// throughput alone.
    #[arg(long, default_value = "")]
    way: String,
    /// The number of times that a second host joins and leaves.
    #[arg(long, default_value_t = 3)]
    hand_overs: usize,
    /// The duration of overload at three times the host's throughput, in seconds.
    #[arg(long, default_value_t = 30)]
    overload_seconds: u64,
    /// The number of state entries to restore.
    #[arg(long, default_value_t = 1_000_000)]
    entries: usize,
    /// The number of swaps of each kind.
    #[arg(long, default_value_t = 100)]
    swaps: usize,
    /// The number of messages in the backlog during which releases are swapped.
    #[arg(long, default_value_t = 2_000_000)]
    backlog: u64,
    /// The number of threads of each host that run plugins; of a former version, its workers.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// A further flag of `switchboard run`. Repeatable.
    #[arg(long = "with", value_name = "FLAG", allow_hyphen_values = true)]
    with: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Records per second, compared with plain loops that only copy.
    Throughput,
    /// The latency of single messages through an idle host.
    Latency,
    /// The latency of other tenants while one tenant keeps a core busy.
    Fairness,
    /// What a host uses that has nothing to do.
    Idle,
    /// The time without outputs after a kill.
    Recovery,
    /// The pause of a shard when hosts join and leave.
    HandOver,
    /// The memory and the outputs of a host at three times its throughput.
    Overload,
    /// The time to restore state, without and with checkpoints.
    Restore,
    /// The cost of a change of a tenant's release.
    Swap,
    /// Throughput on one, two and three hosts, and how shards and sources are distributed.
    Scale,
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
    let parts: &[Part] = match (&args.parts[..], &args.against) {
        ([], None) => Part::value_variants(),
        ([], Some(_)) => &[Part::Throughput, Part::Latency],
        (parts, _) => parts,
    };
    let mut warm = None;
    for part in parts {
        match part {
            Part::Throughput => throughput::run(warm_kafka(&mut warm, args)?, args)?,
            Part::Latency => latency::run(warm_kafka(&mut warm, args)?, args)?,
            Part::Fairness => fairness::run(warm_kafka(&mut warm, args)?, args)?,
            Part::Idle => idle::run(args)?,
            Part::Recovery => recovery::run(args)?,
            Part::HandOver => hand_over::run(args)?,
            Part::Overload => overload::run(args)?,
            Part::Restore => restore::run(args)?,
            Part::Swap => swap::run(args)?,
            Part::Scale => scale::run(warm_kafka(&mut warm, args)?, args)?,
        }
    }
    Ok(())
}

/// A broker that has handled some millions of records, for the parts that need a warm broker.
fn warm_kafka<'a>(warm: &'a mut Option<Kafka>, args: &Args) -> Result<&'a Kafka> {
    if warm.is_none() {
        println!("Starting a broker and warming it up. This takes about a minute.");
        // Kafka's default: members that start together get their partitions together, evenly by topic.
        let properties = vec![("group.initial.rebalance.delay.ms".to_owned(), "3000".to_owned())];
        let kafka = Kafka::start_with(&Options { heap_mib: 1024, optimised: true, properties, ..Options::default() })?;
        throughput::warm_up(&kafka, args)?;
        *warm = Some(kafka);
    }
    warm.as_ref().context("started above")
}
