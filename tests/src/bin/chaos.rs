//! `make chaos CYCLES=n SEED=s`: makes faults on a real Kafka and reports the result.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use clap::Parser;
use switchboard_tests::chaos::{Options, run};

/// Kills, pauses and restarts hosts and brokers and disturbs their connections, while inputs arrive. Then checks that
/// each input was settled exactly once. `RUST_LOG=debug` makes the hosts' logs complete.
#[derive(Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// The number of cycles. Each makes one fault, or two at once.
    #[arg(long, default_value_t = 15)]
    cycles: usize,
    /// The seed of the faults and inputs. By default each run has another one.
    #[arg(long)]
    seed: Option<u64>,
    /// Keeps data and logs. Without, a run keeps them only when something is wrong.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let Arguments { cycles, seed, keep } = Arguments::parse();
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs() % 100_000);
    let seed = seed.unwrap_or_else(clock);
    let mut directory = match tempfile::Builder::new().prefix("switchboard-chaos-").tempdir() {
        Ok(directory) => directory,
        Err(error) => {
            eprintln!("no directory for data and logs: {error}");
            return ExitCode::FAILURE;
        }
    };
    directory.disable_cleanup(keep);
    println!("seed {seed}, {cycles} cycles; data and logs in {}", directory.path().display());
    match run_and_report(&Options { cycles, seed, directory: directory.path().to_owned() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            eprintln!("data and logs are kept in {}", directory.keep().display());
            eprintln!("to repeat: make chaos CYCLES={cycles} SEED={seed}");
            ExitCode::FAILURE
        }
    }
}

fn run_and_report(options: &Options) -> Result<()> {
    let report = run(options)?;
    println!("\n{report}");
    ensure!(report.is_good(), "exactly-once does not hold");
    Ok(())
}
