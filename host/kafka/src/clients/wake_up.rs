//! How a worker that waits in a poll is woken.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::lock::lock;

/// Wakes a worker that waits in a poll. Clones wake the same worker.
///
/// There are two signals, and none of them is lost:
///
/// * One of the worker's consumers has something. The worker clears this signal, then finds all queues empty, then waits:
///   librdkafka calls back whenever an empty queue gets its first entry (`rd_kafka_q_io_event`).
/// * Something outside of Kafka has finished. Only a poll that would have waited takes this signal. So it also ends the wait of a
///   poll that begins later.
#[derive(Debug, Clone, Default)]
pub struct WakeUp {
    inner: Arc<(Mutex<Signals>, Condvar)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Signals {
    /// One of the worker's consumers has something.
    consumer: bool,
    /// Something outside of Kafka has finished.
    outside: bool,
}

impl WakeUp {
    /// Makes the worker's poll return at once, or its next one that would wait. The thread that calls this has put what
    /// has finished where the worker looks after its poll.
    pub fn wake(&self) {
        self.signal(|signals| &mut signals.outside);
    }

    /// One of the worker's consumers has something.
    pub(super) fn wake_for_consumer(&self) {
        self.signal(|signals| &mut signals.consumer);
    }

    fn signal(&self, which: impl FnOnce(&mut Signals) -> &mut bool) {
        let was_set = std::mem::replace(which(&mut lock(&self.inner.0)), true);
        // A signal that was set has already woken the worker. A notification is a system call, also if nobody waits.
        if !was_set {
            self.inner.1.notify_one();
        }
    }

    /// Forgets that a consumer had something.
    pub(super) fn clear_consumer(&self) {
        lock(&self.inner.0).consumer = false;
    }

    /// Whether something outside of Kafka has finished since the last call.
    pub(super) fn take_outside(&self) -> bool {
        std::mem::take(&mut lock(&self.inner.0).outside)
    }

    /// Waits for at most `time`. Returns whether there is a signal.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let is_quiet = |signals: &mut Signals| !signals.consumer && !signals.outside;
        let waited = self.inner.1.wait_timeout_while(lock(&self.inner.0), time, is_quiet);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}
