//! Reports trouble that lasts at most once per interval.

use std::time::{Duration, Instant};

/// Limits how often the same trouble is logged. New trouble is reported at once; the same trouble again after the interval.
///
/// This type lives here because it is the lowest crate with a clock. The Kafka crate exports it again.
#[derive(Debug)]
pub struct ThrottledWarn {
    interval: Duration,
    last: Option<(Instant, String)>,
}

impl ThrottledWarn {
    /// The interval of [`ThrottledWarn::default`].
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

    /// Repeats the same trouble after this interval.
    pub const fn every(interval: Duration) -> Self {
        Self { interval, last: None }
    }

    /// Calls `log` if it is time to; returns whether it did.
    ///
    /// `trouble` identifies what is reported. Text that differs from the last one is reported at once.
    pub fn report(&mut self, trouble: impl Into<String>, log: impl FnOnce()) -> bool {
        let trouble = trouble.into();
        let due = self.last.as_ref().is_none_or(|(at, last)| at.elapsed() >= self.interval || *last != trouble);
        if due {
            log();
            self.last = Some((Instant::now(), trouble));
        }
        due
    }
}

impl Default for ThrottledWarn {
    fn default() -> Self {
        Self::every(Self::DEFAULT_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_reported_once_per_interval_and_new_trouble_at_once() {
        let mut warn = ThrottledWarn::every(Duration::from_hours(1));
        let reported = ["a", "a", "b", "b", "a"].map(|trouble| warn.report(trouble, || {}));
        assert_eq!(reported, [true, false, true, false, true]);
        let mut warn = ThrottledWarn::every(Duration::ZERO);
        assert_eq!(["a", "a"].map(|trouble| warn.report(trouble, || {})), [true, true]);
    }
}
