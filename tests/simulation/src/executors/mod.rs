//! What runs the jobs of a process: a number of threads, on which jobs take the time that the seed gives.
//!
//! A job shares nothing with its worker, so it is run at once when a thread takes it. Its results are handed over when its
//! time is over. That may be seconds later, when others own its shard, or when its worker has owned it a second time.

mod pool;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use switchboard_core::record::{ShardId, TenantId, shard_of};
use switchboard_core::worker::{Executors, Fetch, Finished, Job};

use crate::client::World;
use crate::kafka::ClientId;
use crate::plugins::{Directory, Lent};
use pool::Pool;

/// A job that took this long spends no more time.
const LONGEST_JOB: Duration = Duration::from_mins(1);

/// How long messages and lookups take in a schedule, and how soon jobs end. Each is the number of 256 occasions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Those that take no time.
    instant: u8,
    /// Those that take seconds. There are none in the time without faults.
    slow: u8,
    /// A job ends after a message, though it has more.
    ends: u8,
}

impl Pace {
    pub(crate) fn new(random: &mut fastrand::Rng) -> Self {
        let mut choose = |of: [u8; 4]| random.choice(of).expect("not empty");
        Self { instant: choose([0, 64, 128, 240]), slow: choose([0, 8, 32, 96]), ends: choose([0, 32, 128, 255]) }
    }

    fn time(self, random: &mut fastrand::Rng, calm: bool) -> Duration {
        let dice = random.u8(..);
        if dice < self.instant {
            Duration::ZERO
        } else if !calm && random.u8(..) < self.slow {
            Duration::from_millis(random.u64(1000..20_000))
        } else {
            Duration::from_micros(random.u64(100..50_000))
        }
    }
}

/// What executors did in a schedule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Jobs that were run.
    pub jobs: u64,
    /// Jobs that ended before their last message, as their time was over.
    pub cut_short: u64,
    /// Jobs that took longer than a second.
    pub long: u64,
    /// Jobs that finished after their worker had lost their shard.
    pub abandoned: u64,
    /// Jobs that were handed over while an abandoned job of the same tenant was not finished.
    pub overlapping: u64,
    /// Lookups that were fetched.
    pub fetches: u64,
    /// Committed offsets that list settled records beyond them.
    pub maps: u64,
}

impl Work {
    /// Adds another schedule's.
    pub fn add(&mut self, other: &Self) {
        self.jobs += other.jobs;
        self.cut_short += other.cut_short;
        self.long += other.long;
        self.abandoned += other.abandoned;
        self.overlapping += other.overlapping;
        self.fetches += other.fetches;
        self.maps += other.maps;
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { jobs, cut_short, long, abandoned, overlapping, fetches, maps } = self;
        write!(
            f,
            "{jobs} jobs, {cut_short} cut short, {long} longer than a second, {abandoned} abandoned, {overlapping} that overlap \
             an abandoned one, {fetches} lookups fetched, {maps} offsets with lists of settled records"
        )
    }
}

/// How often each worker took over each shard.
#[derive(Debug, Default)]
pub(crate) struct Takeovers(BTreeMap<(ClientId, ShardId), u32>);

impl Takeovers {
    /// A worker begins to restore a shard.
    pub(crate) fn began(&mut self, client: ClientId, shard: ShardId) {
        *self.0.entry((client, shard)).or_default() += 1;
    }

    fn count(&self, client: ClientId, shard: ShardId) -> u32 {
        self.0.get(&(client, shard)).copied().unwrap_or(0)
    }
}

/// When the next job or lookup of a process finishes. A worker that waits for events is woken then. The executors write it,
/// and the client reads it.
#[derive(Debug, Clone)]
pub(crate) struct Wake(Rc<Cell<Duration>>);

impl Default for Wake {
    fn default() -> Self {
        Self(Rc::new(Cell::new(Duration::MAX)))
    }
}

impl Wake {
    pub(crate) fn at(&self) -> Duration {
        self.0.get()
    }
}

/// A job as it was handed over.
struct Submitted {
    job: Job<Lent>,
    shard: ShardId,
    /// Which takeover of the shard by this worker it belongs to.
    takeover: u32,
}

impl Submitted {
    fn tenant(&self) -> &TenantId {
        &self.job.tenant().id
    }
}

/// The executors of a process.
pub(crate) struct Threads {
    world: Rc<RefCell<World>>,
    id: ClientId,
    shards: u32,
    pace: Pace,
    random: fastrand::Rng,
    lookups: Directory,
    jobs: Pool<Submitted>,
    /// Lookups do not wait for each other: each has a thread of its own.
    fetches: Vec<(Duration, Fetch)>,
    wake: Wake,
}

impl Threads {
    pub(crate) fn new(
        world: Rc<RefCell<World>>,
        id: ClientId,
        shards: u32,
        pace: Pace,
        mut random: fastrand::Rng,
        wake: Wake,
    ) -> Self {
        let lookups = Directory::new(Rc::clone(&world), random.fork());
        let jobs = Pool::new(random.usize(1..=4));
        Self { world, id, shards, pace, random, lookups, jobs, fetches: Vec::new(), wake }
    }

    fn now(&self) -> Duration {
        self.world.borrow().cluster.now
    }

    fn is_calm(&self) -> bool {
        let World { cluster, faults, .. } = &*self.world.borrow();
        faults.are_over(cluster.now)
    }

    /// Has threads start what they can start by now.
    fn advance(&mut self) {
        let (now, calm) = (self.now(), self.is_calm());
        let Self { world, id, pace, random, lookups, jobs, .. } = self;
        jobs.advance(
            now,
            |submitted| submitted.job.used(),
            |submitted, at| {
                let mut cut_short = false;
                // The time on the thread goes on with each message.
                let clock = Cell::new(at);
                submitted.job.run(
                    lookups,
                    || clock.get(),
                    |_| {
                        if clock.get() < at + LONGEST_JOB {
                            clock.set(clock.get() + pace.time(random, calm));
                        }
                        cut_short = random.u8(..) < pace.ends;
                        !cut_short
                    },
                );
                let finishes = clock.get() + pace.time(random, calm);
                let World { work, busy_until, .. } = &mut *world.borrow_mut();
                *busy_until = finishes.max(*busy_until);
                work.jobs += 1;
                work.cut_short += u64::from(cut_short);
                work.long += u64::from(finishes > at + Duration::from_secs(1));
                tracing::trace!(client = *id, tenant = %submitted.tenant(), ?at, ?finishes, "job");
                finishes
            },
        );
        let fetches = self.fetches.iter().map(|(finishes, _)| *finishes);
        self.wake.0.set(fetches.chain(self.jobs.next_finish()).min().unwrap_or(Duration::MAX));
    }

    fn finished_job(&mut self) -> Option<Job<Lent>> {
        let now = self.now();
        let finished = self.jobs.finished(now);
        if finished == 0 {
            return None;
        }
        let Submitted { job, shard, takeover } = self.jobs.take(now, self.random.usize(0..finished));
        let World { takeovers, work, .. } = &mut *self.world.borrow_mut();
        work.abandoned += u64::from(takeovers.count(self.id, shard) != takeover);
        tracing::trace!(client = self.id, ?now, tenant = %job.tenant().id, "job finished");
        Some(job)
    }

    fn finished_fetch(&mut self) -> Option<Fetch> {
        let now = self.now();
        let finished = (0..self.fetches.len()).filter(|place| self.fetches[*place].0 <= now).collect::<Vec<_>>();
        let place = self.random.choice(finished)?;
        tracing::trace!(client = self.id, ?now, "lookup fetched");
        Some(self.fetches.remove(place).1)
    }
}

impl Executors<Lent> for Threads {
    fn submit(&mut self, job: Job<Lent>) {
        let (now, shard) = (self.now(), shard_of(&job.tenant().id, self.shards));
        let takeover = self.world.borrow().takeovers.count(self.id, shard);
        let submitted = Submitted { job, shard, takeover };
        let others = self.jobs.all().filter(|other| other.tenant() == submitted.tenant());
        let (same, abandoned): (Vec<_>, Vec<_>) = others.partition(|other| other.takeover == takeover);
        {
            let World { work, problem, .. } = &mut *self.world.borrow_mut();
            work.overlapping += u64::from(!abandoned.is_empty());
            // The state of a tenant is in its job. Without a restore there is no other.
            if !same.is_empty() {
                let (client, tenant) = (self.id, submitted.tenant());
                problem.get_or_insert(format!(
                    "client {client}: {tenant} has two jobs at once since it took {shard} over"
                ));
            }
        }
        tracing::trace!(client = self.id, ?now, tenant = %submitted.tenant(), "submit");
        self.jobs.submit(now, submitted);
        self.advance();
    }

    fn fetch(&mut self, mut fetch: Fetch) {
        let (now, calm) = (self.now(), self.is_calm());
        let clock = Cell::new(now);
        let (pace, random) = (self.pace, &mut self.random);
        self.lookups.takes.set(pace.time(random, calm));
        fetch.run(&self.lookups, || clock.get() + self.lookups.spent.get());
        let finishes = now + self.lookups.spent.take();
        self.world.borrow_mut().work.fetches += 1;
        tracing::trace!(client = self.id, ?now, ?finishes, "fetch");
        self.fetches.push((finishes, fetch));
        self.advance();
    }

    fn finished(&mut self) -> Option<Finished<Lent>> {
        self.advance();
        let fetch_first = self.random.bool();
        let fetch = if fetch_first { self.finished_fetch().map(Finished::Fetch) } else { None };
        let finished = fetch
            .or_else(|| self.finished_job().map(Finished::Job))
            .or_else(|| self.finished_fetch().map(Finished::Fetch));
        self.advance();
        finished
    }
}
