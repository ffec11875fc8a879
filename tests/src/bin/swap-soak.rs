//! `make swap-soak SWAPS=n SEED=s`: swaps releases on a real Kafka and reports the result.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use clap::Parser;
use switchboard_tests::soak::{Options, run};

/// Changes the releases of tenants repeatedly and at random, while inputs arrive and a host is killed. Then checks that
/// each input was settled exactly once, by the release that its tenant had. `RUST_LOG=debug` makes the hosts' logs
/// complete.
#[derive(Parser)]
#[command(name = "swap-soak")]
struct Arguments {
    /// The number of swaps.
    #[arg(long, default_value_t = 1000)]
    swaps: usize,
    /// The seed of the swaps. By default each run has another one.
    #[arg(long)]
    seed: Option<u64>,
    /// The maximum number of messages a second. Fewer are sent when fewer are settled.
    #[arg(long, default_value_t = 5000)]
    rate: usize,
    /// Makes each deployment bring a new artifact.
    #[arg(long)]
    fresh: bool,
    /// Keeps data and logs. Without, a run keeps them only when something is wrong.
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
    match run_and_report(&Options { swaps, seed, rate, fresh, directory: directory.path().to_owned() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            eprintln!("data and logs are kept in {}", directory.keep().display());
            let fresh = if fresh { " FRESH=1" } else { "" };
            eprintln!("to repeat: make swap-soak SWAPS={swaps} SEED={seed}{fresh}");
            ExitCode::FAILURE
        }
    }
}

fn run_and_report(options: &Options) -> Result<()> {
    let report = run(options)?;
    println!("\n{report}");
    ensure!(report.is_good(), "a message was not settled exactly once by its tenant's release");
    Ok(())
}
