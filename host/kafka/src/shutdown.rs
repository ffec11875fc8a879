use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A stop that anyone may ask for and everyone waits with.
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
    pub fn ask(&self) {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.inner.1.notify_all();
    }

    pub fn is_asked(&self) -> bool {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for at most `time`; true as soon as a stop is asked for.
    pub fn wait(&self, time: Duration) -> bool {
        let asked = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.inner.1.wait_timeout_while(asked, time, |asked| !*asked);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Asks for a stop when it is dropped: by a thread without which nothing must go on, also when it panics.
    pub fn on_drop(&self) -> AskOnDrop<'_> {
        AskOnDrop(self)
    }
}
