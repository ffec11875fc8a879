//! The command line of `simulate`: many schedules, and the command that replays the first one that breaks the promise.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::run_all;

/// Runs the real worker on a simulated Kafka, through schedules of faults. Each seed gives one schedule.
#[derive(Debug, Parser)]
struct Arguments {
    /// The number of schedules.
    #[arg(long, default_value_t = 20_000)]
    schedules: u64,
    /// The seed of the first schedule. The seeds of the others follow.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Prints each call.
    #[arg(long)]
    trace: bool,
}

/// Runs the schedules that the command line asks for. Fails when one breaks the promise.
pub fn main() -> ExitCode {
    let Arguments { schedules, seed, trace } = Arguments::parse();
    if trace {
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).without_time().init();
    }
    let started = Instant::now();
    let sum = run_all(seed..seed.saturating_add(schedules));
    println!(
        "{} schedules in {:.1} s: {} inputs, {} turns; {}; {}; {}",
        sum.schedules,
        started.elapsed().as_secs_f64(),
        sum.inputs,
        sum.turns,
        sum.faults,
        sum.swaps,
        sum.work
    );
    match sum.broken {
        None => ExitCode::SUCCESS,
        Some(broken) => {
            println!("{broken}");
            ExitCode::FAILURE
        }
    }
}
