//! How the threads of a process are asked to stop.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::lock::lock;

/// A request to stop. Any thread may make it, and every thread can wait for it. Clones share the request.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    inner: Arc<(Mutex<bool>, Condvar)>,
}

/// See [`Shutdown::on_drop`].
#[must_use]
pub struct AskOnDrop<'a>(&'a Shutdown);

impl Drop for AskOnDrop<'_> {
    fn drop(&mut self) {
        self.0.ask();
    }
}

impl Shutdown {
    /// Asks all threads to stop.
    pub fn ask(&self) {
        *lock(&self.inner.0) = true;
        self.inner.1.notify_all();
    }

    /// Whether a stop was requested.
    pub fn is_asked(&self) -> bool {
        *lock(&self.inner.0)
    }

    /// Waits for at most `time`. Returns true as soon as a stop is requested.
    pub fn wait(&self, time: Duration) -> bool {
        let waited = self.inner.1.wait_timeout_while(lock(&self.inner.0), time, |asked| !*asked);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Asks all threads to stop when the guard is dropped, also by a panic. For a thread without which the process must not go on.
    pub fn on_drop(&self) -> AskOnDrop<'_> {
        AskOnDrop(self)
    }
}
