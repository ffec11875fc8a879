//! A position in the control topic.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::offset::Offset;

/// Which topic of a name this is: a topic that was deleted and created again has another id (KIP-516). Half of Kafka's id, which
/// is random, so that half of it is enough to distinguish two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(u64);

impl TopicId {
    /// The id of this number.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in the control topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlPosition {
    /// Offsets of a topic that was deleted and created again cannot be compared. `None`: the brokers know no topic ids.
    pub topic: Option<TopicId>,
    pub offset: Offset,
}
