//! A position in the control topic.

use serde::{Deserialize, Serialize};

/// A place in the control topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which incarnation of the topic: offsets of one that was deleted and made anew cannot be compared. 0 where brokers
    /// know no topic ids.
    pub topic: u64,
    pub offset: i64,
}
