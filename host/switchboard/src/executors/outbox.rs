//! Where finished jobs and fetches go.

use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Brings what has finished to the member that submitted it. There are at most as many things under way as the member has
/// tenants.
pub(super) struct Outbox<T> {
    finished: Sender<T>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Self { finished: self.finished.clone(), wake: Arc::clone(&self.wake) }
    }
}

impl<T> Outbox<T> {
    /// `wake` is called after each delivery, by the thread that delivers.
    pub(super) fn new(finished: Sender<T>, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { finished, wake }
    }

    /// Delivers something that has finished.
    pub(super) fn deliver(&self, item: T) {
        // Err: the member has ended.
        let _ = self.finished.send(item);
        (self.wake)();
    }
}
