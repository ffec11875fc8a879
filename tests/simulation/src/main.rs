//! `make simulate SCHEDULES=n SEED=s`: many schedules, and one line to replay the first that breaks the promise.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use switchboard_simulation::run_all;

/// Runs the worker on a simulated Kafka, a schedule of faults a seed.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many schedules.
    #[arg(long, default_value_t = 20_000)]
    schedules: u64,
    /// The first one's seed; the others' follow.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Tells what happens, call by call.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let Arguments { schedules, seed, trace } = Arguments::parse();
    if trace {
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).without_time().init();
    }
    let started = Instant::now();
    let sum = run_all(seed..seed.saturating_add(schedules));
    println!(
        "{} schedules in {:.1} s: {} inputs, {} turns; {}; {}",
        sum.schedules,
        started.elapsed().as_secs_f64(),
        sum.inputs,
        sum.turns,
        sum.faults,
        sum.swaps
    );
    match sum.broken {
        None => ExitCode::SUCCESS,
        Some(broken) => {
            println!("broken: {}", broken.problem);
            println!("replay: make simulate SCHEDULES=1 SEED={}", broken.seed);
            ExitCode::FAILURE
        }
    }
}
