//! The threads that run jobs.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::job_queues::JobQueues;
use super::outbox::Outbox;
use super::{END_WAIT, MAX_SLICE, MIN_SLICE, lock};

/// Runs a job. After each message the job asks whether it goes on, with the time that it has taken.
type RunJob<J> = dyn Fn(&mut J, &mut dyn FnMut(Duration) -> bool) + Send + Sync;

/// A fixed number of threads that run jobs. Clones share the threads.
pub(super) struct JobThreads<J>(Arc<Shared<J>>);

impl<J> Clone for JobThreads<J> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Shared<J> {
    state: Mutex<State<J>>,
    /// Wakes a thread that is idle; one for each thread.
    job_arrived: Vec<Condvar>,
    thread_ended: Condvar,
    /// The number of jobs that wait. It is read without the lock.
    waiting: AtomicUsize,
    stopping: AtomicBool,
    started: Instant,
    failure: Failure,
    run: Box<RunJob<J>>,
}

struct State<J> {
    queues: JobQueues<(J, Outbox<J>)>,
    /// Threads that have not ended.
    alive: usize,
}

impl<J: Send + 'static> JobThreads<J> {
    /// Starts threads. A job that panics is reported as `failure`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn start(
        threads: usize,
        failure: &Failure,
        run: impl Fn(&mut J, &mut dyn FnMut(Duration) -> bool) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { queues: JobQueues::new(threads), alive: 0 }),
            job_arrived: std::iter::repeat_with(Condvar::new).take(threads).collect(),
            thread_ended: Condvar::new(),
            waiting: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            started: Instant::now(),
            failure: failure.clone(),
            run: Box::new(run),
        });
        // Stops those that were started if another one cannot be started.
        let started = Self(Arc::clone(&shared));
        for number in 0..threads {
            let thread = std::thread::Builder::new().name(format!("executor-{number}"));
            lock(&shared.state).alive += 1;
            let of_thread = Arc::clone(&shared);
            if let Err(error) = thread.spawn(move || run_jobs(&of_thread, number)) {
                lock(&shared.state).alive -= 1;
                started.stop();
                return Err(error);
            }
        }
        Ok(started)
    }

    /// Takes a job. `used`: the time that its tenant has used. `tenant`: a hash of the tenant.
    pub(super) fn submit(&self, used: Duration, tenant: u64, job: J, outbox: Outbox<J>) {
        let mut state = lock(&self.0.state);
        let woken = state.queues.push(used, tenant, (job, outbox));
        self.0.waiting.store(state.queues.len(), Ordering::Relaxed);
        drop(state);
        if let Some(thread) = woken {
            self.0.job_arrived[thread].notify_one();
        }
    }

    /// Asks the threads to end, each after its current message. Waits for them for at most [`END_WAIT`]: what they do has no
    /// effect any more.
    pub(super) fn stop(&self) {
        let state = lock(&self.0.state);
        self.0.stopping.store(true, Ordering::Relaxed);
        for idle in &self.0.job_arrived {
            idle.notify_one();
        }
        // Either way the threads use nothing that ends with the caller.
        drop(self.0.thread_ended.wait_timeout_while(state, END_WAIT, |state| state.alive > 0));
    }

    #[cfg(test)]
    pub(super) fn alive(&self) -> usize {
        lock(&self.0.state).alive
    }
}

impl<J> Shared<J> {
    /// Waits for the next job of a thread. `None`: the thread ends.
    fn next(&self, thread: usize) -> Option<(J, Outbox<J>)> {
        let mut state = lock(&self.state);
        while !self.stopping.load(Ordering::Relaxed) {
            if let Some(job) = state.queues.take(thread, self.started.elapsed()) {
                self.waiting.store(state.queues.len(), Ordering::Relaxed);
                return Some(job);
            }
            let woken = self.job_arrived[thread].wait(state);
            state = woken.unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        None
    }

    /// Whether a job that has taken this long runs its next message too.
    fn goes_on(&self, took: Duration) -> bool {
        let others_wait = || self.waiting.load(Ordering::Relaxed) > 0;
        !self.stopping.load(Ordering::Relaxed) && took < MAX_SLICE && (took < MIN_SLICE || !others_wait())
    }
}

fn run_jobs<J>(shared: &Shared<J>, thread: usize) {
    let _ended = Ended(shared);
    let _report = shared.failure.report_panic("a thread that runs plugins panicked");
    while let Some((mut job, outbox)) = shared.next(thread) {
        (shared.run)(&mut job, &mut |took| shared.goes_on(took));
        outbox.deliver(job);
    }
}

/// Counts a thread that ends, also by a panic.
struct Ended<'a, J>(&'a Shared<J>);

impl<J> Drop for Ended<'_, J> {
    fn drop(&mut self) {
        lock(&self.0.state).alive -= 1;
        self.0.thread_ended.notify_all();
    }
}
