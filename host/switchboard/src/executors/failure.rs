//! What stops a host whose threads cannot go on.

use std::sync::{Arc, Mutex};

use switchboard_kafka::Shutdown;

use super::lock;

/// Remembers the first failure of a pool's threads, and stops the host. Clones share the failure.
#[derive(Clone)]
pub(super) struct Failure {
    stop: Shutdown,
    first: Arc<Mutex<Option<String>>>,
}

impl Failure {
    /// No failure so far.
    pub(super) fn new(stop: &Shutdown) -> Self {
        Self { stop: stop.clone(), first: Arc::default() }
    }

    /// Something failed without which the host must not go on.
    pub(super) fn report(&self, text: impl Into<String>) {
        lock(&self.first).get_or_insert_with(|| text.into());
        self.stop.ask();
    }

    /// Reports this text if the thread panics while the guard lives.
    pub(super) fn report_panic(&self, text: &'static str) -> ReportPanic<'_> {
        ReportPanic { failure: self, text }
    }

    /// The first failure.
    pub(super) fn first(&self) -> Option<String> {
        lock(&self.first).clone()
    }
}

/// See [`Failure::report_panic`].
#[must_use]
pub(super) struct ReportPanic<'a> {
    failure: &'a Failure,
    text: &'static str,
}

impl Drop for ReportPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.failure.report(self.text);
        }
    }
}
