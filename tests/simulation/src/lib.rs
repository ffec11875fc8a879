//! The real worker on a simulated Kafka, from a seed.
//!
//! `schedule` gives turns to workers (`switchboard_core::worker::Worker`, unchanged), to the brokers (`kafka`) and to
//! fate (`faults`); `client` stands between a worker and the brokers, as librdkafka does; `control` says which release
//! runs; `notes` are taken of what was done; `check` knows the promise. The same seed gives the same schedule, on any
//! machine. Nothing here is part of the product, and the product knows nothing of it: mistakes that it must find are
//! planted by patches (`tests/mutations`).
#![forbid(unsafe_code)]

mod check;
mod client;
mod control;
mod faults;
mod inputs;
mod kafka;
mod notes;
mod plugins;
mod schedule;

use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

pub use check::Swaps;
pub use faults::Tally;
pub use schedule::{Outcome, Stacks, run};

/// A schedule that broke the promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub seed: u64,
    /// What was broken.
    pub problem: String,
}

/// What many schedules had.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    pub schedules: u64,
    pub inputs: u64,
    pub turns: u64,
    pub faults: Tally,
    pub swaps: Swaps,
    /// The one with the smallest seed among those that were found.
    pub broken: Option<Broken>,
}

/// Runs the schedules of many seeds on all cores, until one breaks the promise.
pub fn run_all(seeds: Range<u64>) -> Summary {
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let work = || {
        let (mut sum, mut stacks) = (Summary::default(), Stacks::default());
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            sum.schedules += 1;
            let ended = panic::catch_unwind(AssertUnwindSafe(|| run(seed, &mut stacks)));
            match ended.unwrap_or_else(|_| Err("a panic, as told above".into())) {
                Ok(Outcome { inputs, turns, faults, swaps }) => {
                    sum.inputs += inputs as u64;
                    sum.turns += u64::from(turns);
                    sum.faults.add(&faults);
                    sum.swaps.add(&swaps);
                }
                Err(problem) => {
                    stop.store(true, Ordering::Relaxed);
                    sum.broken = Some(Broken { seed, problem });
                }
            }
        }
        sum
    };
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let mut all = Summary::default();
        for thread in threads {
            let sum = thread.join().expect("panics are caught");
            all.schedules += sum.schedules;
            all.inputs += sum.inputs;
            all.turns += sum.turns;
            all.faults.add(&sum.faults);
            all.swaps.add(&sum.swaps);
            all.broken = [all.broken, sum.broken].into_iter().flatten().min_by_key(|broken| broken.seed);
        }
        all
    })
}
