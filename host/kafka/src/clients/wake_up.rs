//! How a worker that waits for several consumers is woken.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::lock::lock;

/// Wakes a worker when one of its consumers has something. Clones share the state.
///
/// No wake-up is lost if the worker clears it, then finds all queues empty, then waits: librdkafka calls back whenever an empty
/// queue gets its first entry (`rd_kafka_q_io_event`).
#[derive(Debug, Clone, Default)]
pub(super) struct WakeUp {
    inner: Arc<(Mutex<bool>, Condvar)>,
}

impl WakeUp {
    /// Wakes the worker, or makes its next wait return at once.
    pub(super) fn wake(&self) {
        *lock(&self.inner.0) = true;
        self.inner.1.notify_one();
    }

    /// Forgets earlier wake-ups.
    pub(super) fn clear(&self) {
        *lock(&self.inner.0) = false;
    }

    /// Waits for at most `time`. Returns whether there was a wake-up since `clear`.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let waited = self.inner.1.wait_timeout_while(lock(&self.inner.0), time, |woken| !*woken);
        *waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
    }
}
