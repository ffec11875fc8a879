//! Warnings that do not repeat themselves with every attempt.

use std::time::Duration;

/// How often a warning is logged again while its cause lasts.
const WARN_EVERY: Duration = Duration::from_secs(5);

/// Limits how often the same warning is logged: at once, and again every few seconds for as long as it stays the same.
#[derive(Debug, Default)]
pub(super) struct ThrottledWarn {
    last: Option<Warning>,
}

/// The last warning that was logged.
#[derive(Debug)]
struct Warning {
    at: Duration,
    message: &'static str,
    reason: String,
}

impl ThrottledWarn {
    /// Whether to log this warning now. `now`: the broker's clock, as the worker has no other.
    pub(super) fn is_due(&mut self, now: Duration, message: &'static str, reason: &str) -> bool {
        let is_recent = |last: &Warning| now.saturating_sub(last.at) < WARN_EVERY;
        let is_same = |last: &Warning| last.message == message && last.reason == reason;
        if self.last.as_ref().is_some_and(|last| is_same(last) && is_recent(last)) {
            return false;
        }
        self.last = Some(Warning { at: now, message, reason: reason.to_owned() });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_warning_is_due_once_per_interval_and_another_at_once() {
        let mut warnings = ThrottledWarn::default();
        let mut is_due = |seconds, message, reason| warnings.is_due(Duration::from_secs(seconds), message, reason);
        assert!(is_due(0, "aborted", "slow"));
        assert!(!is_due(4, "aborted", "slow"));
        assert!(is_due(5, "aborted", "slow"));
        assert!(is_due(5, "aborted", "refused"));
        assert!(is_due(5, "no producer", "refused"));
    }
}
