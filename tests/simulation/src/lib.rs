//! The real worker on a simulated Kafka, from a seed.
//!
//! Nothing of the worker (`switchboard_core::worker::Worker`) is replaced. Everything around it is simulated, without
//! threads, clocks or sockets, so the same seed gives the same schedule on any machine.
//!
//! # What a schedule draws
//!
//! * The plugin: the messenger with its test vectors as inputs, or a small one whose outputs depend on the order.
//! * The sizes: shards, source partitions, tenants, inputs, records of a batch, processes. Some source partitions are added
//!   while inputs arrive.
//! * The threads of each process, how long jobs and lookups take, and after how many messages jobs end. Some take longer than
//!   rebalances, aborts and new memberships of the same process.
//! * How the group fences offsets: by generation, or by partition.
//! * The releases that run: changes of routes while inputs arrive, and what happens to tenants whose release fails.
//! * The faults: slow calls, lost, late and repeated requests, aborts, crashes, stopped processes and their twins, processes
//!   dead for ever, rebalances, lost members, moving coordinators, compaction, deletion, old checkpoints, open transactions
//!   in sources, releases that cannot be loaded, processes late with routes, lookups without an answer, refused, damaged and
//!   lost lists of settled records in committed offsets. Each kind is off, rare or frequent in a
//!   schedule. After some simulated time there are no more faults, and all must be settled.
//! * The order in which processes, brokers and faults take turns.
//!
//! # What a schedule checks
//!
//! * Each input is there exactly once: as outputs, as a dead letter, or as a record that its tenant's release does not
//!   consume. Where an operator lost the list of settled records, inputs of that partition may be there again.
//! * A dead letter has a reason in its input.
//! * Where committed metadata cannot be read, nothing is committed until it is repaired, and all other inputs are settled.
//! * A tenant has one job at a time.
//! * A tenant's messages are numbered without a gap, and none overtook another one of its source partition.
//! * Each message was handled by the release that follows from the routes that its worker had read and from the entry in
//!   the tenant's state. No tenant was run by older routes than before.
//! * The same releases, run natively in that order, give the same outputs and the same state.
//! * In the end no transaction is open, the offsets are at the end of their logs, every direct path has opened, and no worker
//!   has anything to do.
//!
//! # Where to look
//!
//! | module | what it holds |
//! |---|---|
//! | `schedule` | processes, brokers and faults take turns |
//! | `faults` | which faults a schedule has |
//! | `inputs` | the records of the source topics |
//! | `control` | the control topic, and how far each process has read it |
//! | `executors` | the threads of processes, and how long jobs take |
//! | `operator` | what an operator does to committed offsets |
//! | `plugins` | the releases that workers run, natively |
//! | `client` | what stands between a worker and the brokers, as librdkafka does |
//! | `kafka` | the brokers and coordinators |
//! | `notes` | what workers did, as an observer saw it |
//! | `check` | whether the promise was kept |
//!
//! `tests/mutants` shows that the simulation finds mistakes: it plants known ones into the worker, one at a time.
#![forbid(unsafe_code)]

mod check;
mod cli;
mod client;
mod control;
mod executors;
mod faults;
mod inputs;
mod kafka;
mod notes;
mod operator;
mod plugins;
mod schedule;

use std::fmt;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

pub use check::Swaps;
pub use cli::main;
pub use executors::Work;
pub use faults::FaultCounts;
pub use schedule::{Outcome, Stacks, run};

/// A schedule that broke the promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The seed that gives the schedule.
    pub seed: u64,
    /// What was broken.
    pub problem: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, problem } = self;
        writeln!(f, "The schedule of seed {seed} broke the promise: {problem}")?;
        writeln!(f, "To replay it:            make simulate SCHEDULES=1 SEED={seed}")?;
        write!(f, "To see each of its calls: make simulate SCHEDULES=1 SEED={seed} TRACE=1")
    }
}

/// What many schedules had, in sum.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// How many schedules ran.
    pub schedules: u64,
    /// How many inputs they had.
    pub inputs: u64,
    /// How many turns they took.
    pub turns: u64,
    /// The faults that were made.
    pub faults: FaultCounts,
    /// The changes of releases that were made.
    pub swaps: Swaps,
    /// What executors did.
    pub work: Work,
    /// The schedule with the smallest seed among those that broke the promise.
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
            match ended.unwrap_or_else(|_| Err("a panic, printed above".into())) {
                Ok(Outcome { inputs, turns, faults, swaps, work }) => {
                    sum.inputs += inputs as u64;
                    sum.turns += u64::from(turns);
                    sum.faults.add(&faults);
                    sum.swaps.add(&swaps);
                    sum.work.add(&work);
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
            all.work.add(&sum.work);
            all.broken = [all.broken, sum.broken].into_iter().flatten().min_by_key(|broken| broken.seed);
        }
        all
    })
}
