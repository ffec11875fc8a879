//! `make swap-soak SWAPS=n SEED=s`: releases swapped on a real Kafka, and what came of it.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use clap::Parser;
use switchboard_tests::soak::{Options, run};

/// Changes which release tenants run, again and again and at random, while inputs come in and a host is killed; then checks
/// that each was settled exactly once, by the release that its tenant had. `RUST_LOG=debug` makes the hosts' logs complete.
#[derive(Parser)]
#[command(name = "swap-soak")]
struct Arguments {
    /// How many swaps, one after the other.
    #[arg(long, default_value_t = 1000)]
    swaps: usize,
    /// Which swaps, and which inputs; by default others each time.
    #[arg(long)]
    seed: Option<u64>,
    /// The most messages a second; fewer come when fewer are settled.
    #[arg(long, default_value_t = 5000)]
    rate: usize,
    /// Each deployment brings an artifact that was never there before.
    #[arg(long)]
    fresh: bool,
    /// Leaves data and logs where they are; otherwise only when something is wrong.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let Arguments { swaps, seed, rate, fresh, keep } = Arguments::parse();
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs() % 100_000);
    let seed = seed.unwrap_or_else(clock);
    let mut directory = match tempfile::Builder::new().prefix("switchboard-soak-").tempdir() {
        Ok(directory) => directory,
        Err(error) => {
            eprintln!("no directory for data and logs: {error}");
            return ExitCode::FAILURE;
        }
    };
    directory.disable_cleanup(keep);
    println!("seed {seed}, {swaps} swaps; data and logs in {}", directory.path().display());
    match judged(&Options { swaps, seed, rate, fresh, directory: directory.path().to_owned() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            eprintln!("data and logs stay in {}", directory.keep().display());
            let fresh = if fresh { " FRESH=1" } else { "" };
            eprintln!("again: make swap-soak SWAPS={swaps} SEED={seed}{fresh}");
            ExitCode::FAILURE
        }
    }
}

fn judged(options: &Options) -> Result<()> {
    let report = run(options)?;
    println!("\n{report}");
    ensure!(report.is_good(), "swaps do not hold what they promise");
    Ok(())
}
