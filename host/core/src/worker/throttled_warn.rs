//! Warnings that do not repeat themselves with every attempt.

use std::time::Duration;

/// How often a warning is logged again while its cause lasts.
const WARN_EVERY: Duration = Duration::from_secs(5);

/// Logs a warning at once, and again every few seconds for as long as it stays the same.
#[derive(Debug, Default)]
pub(super) struct ThrottledWarn {
    last: Option<(Duration, String)>,
}

impl ThrottledWarn {
    /// `now`: the broker's clock, as the worker has no other.
    pub(super) fn warn(&mut self, now: Duration, text: &str) {
        let is_due = |(at, last): &(Duration, String)| last != text || now.saturating_sub(*at) >= WARN_EVERY;
        if self.last.as_ref().is_none_or(is_due) {
            tracing::warn!("{text}");
            self.last = Some((now, text.to_owned()));
        }
    }
}
