//! The threads that wait for lookup sources.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::failure::Failure;
use super::lock;
use super::outbox::Outbox;

/// The most threads. A fetch beyond that waits until another one ends. A tenant has at most one fetch at a time, so this many
/// tenants can wait for lookups at once.
pub(super) const MAX_LOOKUP_THREADS: usize = 256;

/// A thread that had nothing to do for this long ends.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(10);

/// Threads that are started when there is something to fetch. Clones share them.
pub(super) struct LookupThreads<F>(Arc<Shared<F>>);

impl<F> Clone for LookupThreads<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Shared<F> {
    state: Mutex<State<F>>,
    fetch_arrived: Condvar,
    max_threads: usize,
    idle_time: Duration,
    failure: Failure,
    run: Box<dyn Fn(&mut F) + Send + Sync>,
}

struct State<F> {
    /// Fetches that no thread has taken yet, in the order of arrival.
    waiting: VecDeque<(F, Outbox<F>)>,
    /// Threads that wait for a fetch.
    idle: usize,
    /// All threads.
    threads: usize,
    stopping: bool,
}

impl<F: Send + 'static> LookupThreads<F> {
    /// No thread runs yet. A fetch that panics is reported as `failure`.
    pub(super) fn new(
        max_threads: usize,
        idle_time: Duration,
        failure: &Failure,
        run: impl Fn(&mut F) + Send + Sync + 'static,
    ) -> Self {
        let state = State { waiting: VecDeque::new(), idle: 0, threads: 0, stopping: false };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            fetch_arrived: Condvar::new(),
            max_threads,
            idle_time,
            failure: failure.clone(),
            run: Box::new(run),
        }))
    }

    /// Takes a fetch. It waits only if there are already as many threads as there may be.
    pub(super) fn fetch(&self, fetch: F, outbox: Outbox<F>) {
        let shared = &self.0;
        let mut state = lock(&shared.state);
        state.waiting.push_back((fetch, outbox));
        // An idle thread that was woken and has not gone on yet counts as idle, and its fetch as waiting.
        if state.idle >= state.waiting.len() {
            shared.fetch_arrived.notify_one();
        } else if state.threads < shared.max_threads {
            state.threads += 1;
            drop(state);
            self.start_thread();
        }
    }

    fn start_thread(&self) {
        let shared = Arc::clone(&self.0);
        let thread = std::thread::Builder::new().name("lookup".into());
        if let Err(error) = thread.spawn(move || run_fetches(&shared)) {
            let mut state = lock(&self.0.state);
            state.threads -= 1;
            if state.threads == 0 {
                // Nobody would ever run the fetch.
                self.0.failure.report(format!("no thread can be started for lookups: {error}"));
            }
        }
    }

    /// Asks the threads to end. Does not wait: a request may take long, and its answer has no effect any more.
    pub(super) fn stop(&self) {
        lock(&self.0.state).stopping = true;
        self.0.fetch_arrived.notify_all();
    }

    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        lock(&self.0.state).threads
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        lock(&self.0.state).idle
    }
}

impl<F> Shared<F> {
    /// Waits for the next fetch. `None`: the thread ends, and is not counted any more.
    fn next(&self) -> Option<(F, Outbox<F>)> {
        let mut state = lock(&self.state);
        let mut has_timed_out = false;
        loop {
            if state.stopping || has_timed_out && state.waiting.is_empty() {
                state.threads -= 1;
                return None;
            }
            if let Some(fetch) = state.waiting.pop_front() {
                return Some(fetch);
            }
            state.idle += 1;
            let woken = self.fetch_arrived.wait_timeout(state, self.idle_time);
            let (locked, waited) = woken.unwrap_or_else(PoisonError::into_inner);
            state = locked;
            state.idle -= 1;
            has_timed_out = waited.timed_out();
        }
    }
}

fn run_fetches<F>(shared: &Shared<F>) {
    let _report = shared.failure.report_panic("a thread that waits for lookups panicked");
    while let Some((mut fetch, outbox)) = shared.next() {
        (shared.run)(&mut fetch);
        outbox.deliver(fetch);
    }
}
