//! A point in time.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time in milliseconds since 1970-01-01 UTC, the unit of Kafka's record timestamps. It may be before 1970.
/// A time that may be absent is an `Option<Timestamp>`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The time this many milliseconds after 1970-01-01 UTC, or before it if negative.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// The milliseconds since 1970-01-01 UTC.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Converts a time of the system's clock. This reads no clock.
    pub fn of_system_time(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self(millis(since)),
            Err(before) => Self(millis(before.duration()).saturating_neg()),
        }
    }

    /// This time plus a duration, or the latest time that can be represented.
    #[must_use]
    pub fn saturating_add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(millis(time)))
    }

    /// This time minus a duration, or the earliest time that can be represented.
    #[must_use]
    pub fn saturating_sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(millis(time)))
    }

    /// The time since `earlier`; zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.checked_since(earlier).unwrap_or_default()
    }

    /// The time since `earlier`; `None` if `earlier` is later.
    pub fn checked_since(self, earlier: Self) -> Option<Duration> {
        u64::try_from(self.0.saturating_sub(earlier.0)).ok().map(Duration::from_millis)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Writes the plain number, as `Display` does.
impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        let (early, late) = (Timestamp::from_millis(5), Timestamp::from_millis(1005));
        let second = Duration::from_secs(1);
        assert_eq!((early.saturating_add(second), late.saturating_sub(second)), (late, early));
        assert_eq!((late.saturating_since(early), early.saturating_since(late)), (second, Duration::ZERO));
        assert_eq!((late.checked_since(early), early.checked_since(late)), (Some(second), None));
        let last = Timestamp::from_millis(i64::MAX);
        assert_eq!((last.saturating_add(Duration::MAX), last), (last, last));
        assert_eq!(Timestamp::from_millis(i64::MIN).saturating_sub(second), Timestamp::from_millis(i64::MIN));
    }

    #[test]
    fn a_system_time_is_converted_to_milliseconds() {
        let millis = |time| Timestamp::of_system_time(time).as_millis();
        assert_eq!(millis(UNIX_EPOCH + Duration::from_micros(7900)), 7);
        assert_eq!(millis(UNIX_EPOCH - Duration::from_millis(7)), -7);
    }
}
