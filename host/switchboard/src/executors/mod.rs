//! The threads that run plugins and wait for lookups: the implementation of `Executors`.
//!
//! A process has one pool for all its members. Each member has a handle, and gets its own jobs and fetches back.
//!
//! | module | question that it answers |
//! |---|---|
//! | `job_queues` | Which job does a thread run next? |
//! | `job_threads` | How do threads run jobs, and when does a job make room for others? |
//! | `lookup_threads` | How do fetches run without waiting for each other? |
//! | `outbox` | How does a member learn that something has finished? |
//! | `failure` | What happens when a thread panics? |
//!
//! The number of threads for jobs is fixed. A job ends early, after a message, if it has run for [`MIN_SLICE`] and another one waits,
//! or if it has run for [`MAX_SLICE`]. Fetches spend their time waiting for answers, so each gets a thread of its own.

mod failure;
mod job_queues;
mod job_threads;
mod lookup_threads;
mod outbox;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use switchboard_core::worker::{Executors, Fetch, Finished, Job, Lookups, Runner};
use switchboard_kafka::Shutdown;

use failure::Failure;
use job_threads::JobThreads;
use lookup_threads::{IDLE_TIME, LookupThreads, MAX_LOOKUP_THREADS};
use outbox::Outbox;

/// After this time a job ends if another one waits. A change of the job costs some microseconds.
const MIN_SLICE: Duration = Duration::from_millis(2);
/// After this time a job ends in any case, so that its results can be committed.
const MAX_SLICE: Duration = Duration::from_millis(20);
/// How long a host that stops waits for running calls of plugins. Their results are not used any more.
const END_WAIT: Duration = Duration::from_millis(200);

/// The threads of a process that run plugins and wait for lookups. They end with `stop`.
pub(crate) struct ExecutorPool<R> {
    jobs: JobThreads<Job<R>>,
    fetches: LookupThreads<Fetch>,
    failure: Failure,
    hasher: RandomState,
}

/// A pool's threads could not go on, so the host had to stop.
#[derive(Debug, thiserror::Error)]
#[error(
    "the host stopped because {0}. The messages that it had not committed will be processed again: start the host again"
)]
pub(crate) struct ExecutorFailure(String);

impl<R: Runner + Send + 'static> ExecutorPool<R> {
    /// Starts this many threads for jobs. A thread that panics stops the host by `stop`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start<L>(threads: usize, lookups: &L, stop: &Shutdown) -> io::Result<Self>
    where
        L: Lookups + Clone + Send + Sync + 'static,
    {
        let (failure, started) = (Failure::new(stop), Instant::now());
        let of_jobs = lookups.clone();
        let jobs = JobThreads::start(threads, &failure, move |job: &mut Job<R>, goes_on| {
            job.run(&of_jobs, || started.elapsed(), goes_on);
        })?;
        let of_fetches = lookups.clone();
        let fetches = LookupThreads::new(MAX_LOOKUP_THREADS, IDLE_TIME, &failure, move |fetch: &mut Fetch| {
            fetch.run(&of_fetches, || started.elapsed());
        });
        Ok(Self { jobs, fetches, failure, hasher: RandomState::new() })
    }

    /// A member's handle. `wake` is called when something of the member has finished.
    pub(crate) fn member(&self, wake: impl Fn() + Send + Sync + 'static) -> MemberExecutors<R> {
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(wake);
        let (job_sender, finished_jobs) = channel();
        let (fetch_sender, finished_fetches) = channel();
        MemberExecutors {
            jobs: self.jobs.clone(),
            fetches: self.fetches.clone(),
            hasher: self.hasher.clone(),
            job_outbox: Outbox::new(job_sender, Arc::clone(&wake)),
            fetch_outbox: Outbox::new(fetch_sender, wake),
            finished_jobs,
            finished_fetches,
        }
    }

    /// Ends the threads. Waits for at most [`END_WAIT`] for calls of plugins, and not at all for lookups.
    ///
    /// # Errors
    /// When a thread could not go on before.
    pub(crate) fn stop(self) -> Result<(), ExecutorFailure> {
        self.fetches.stop();
        self.jobs.stop();
        self.failure.first().map_or(Ok(()), |failure| Err(ExecutorFailure(failure)))
    }
}

/// What runs the jobs and fetches of one member.
pub(crate) struct MemberExecutors<R> {
    jobs: JobThreads<Job<R>>,
    fetches: LookupThreads<Fetch>,
    hasher: RandomState,
    job_outbox: Outbox<Job<R>>,
    fetch_outbox: Outbox<Fetch>,
    finished_jobs: Receiver<Job<R>>,
    finished_fetches: Receiver<Fetch>,
}

impl<R: Runner + Send + 'static> Executors<R> for MemberExecutors<R> {
    fn submit(&mut self, job: Job<R>) {
        let (used, tenant) = (job.used(), self.hasher.hash_one(&job.tenant().id));
        self.jobs.submit(used, tenant, job, self.job_outbox.clone());
    }

    fn fetch(&mut self, fetch: Fetch) {
        self.fetches.fetch(fetch, self.fetch_outbox.clone());
    }

    fn finished(&mut self) -> Option<Finished<R>> {
        let fetch = || self.finished_fetches.try_recv().ok().map(Finished::Fetch);
        fetch().or_else(|| self.finished_jobs.try_recv().ok().map(Finished::Job))
    }
}

/// Locks a mutex, poisoned or not: nothing panics while it holds one of this module's locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
