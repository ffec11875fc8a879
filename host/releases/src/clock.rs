//! The time of this machine in the unit of Kafka's timestamps.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time of this machine, in milliseconds since 1970.
pub fn unix_time_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
