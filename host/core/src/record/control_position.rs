//! A position in the control topic.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::offset::Offset;

/// The identity of a topic. A topic that was deleted and created again has another id (KIP-516). This is half of
/// Kafka's id: that one is random, so half of it is enough to distinguish two topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(u64);

impl TopicId {
    /// The id with this number.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An offset in the control topic, with the identity of the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlPosition {
    /// The topic's id, since offsets of two topics cannot be compared. `None`: the brokers do not support topic ids.
    pub topic: Option<TopicId>,
    /// The offset.
    pub offset: Offset,
}
