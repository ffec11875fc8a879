//! The settings of a worker.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::{OutputRules, TenantSchema};
use crate::state::StateLimits;

/// Where a source partition without a committed offset is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartFrom {
    /// From its log's start.
    #[default]
    Earliest,
    /// From its log's end.
    Latest,
}

/// How large transactions are under load. When nothing else finishes soon, one begins at once. Twice the records and bytes of a
/// transaction may be in memory as records that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// The most results of a transaction. A message has one, and one more where its release takes over the tenant before it.
    pub records: usize,
    /// The bytes of outputs and state changes at which a transaction ends.
    pub bytes: usize,
    /// The longest time that a result waits for a transaction to begin.
    pub time: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { records: 5000, bytes: 16 << 20, time: Duration::from_millis(100) }
    }
}

/// The settings of a worker.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The application's name: the group, and the prefix of internal topics.
    pub app: String,
    /// The number of partitions of the repartition topic.
    pub shards: u32,
    /// The headers that name a record's tenant.
    pub tenants: TenantSchema,
    /// What is added to outputs, and how large they may be.
    pub outputs: OutputRules,
    /// How much state a tenant may have.
    pub state: StateLimits,
    /// The most lookups of a message.
    pub lookups_a_message: usize,
    /// How long all lookups of a message may take together.
    pub lookup_time: Duration,
    /// When a transaction ends.
    pub batch: BatchLimits,
    /// Where a source partition without a committed offset is read from.
    pub start_from: StartFrom,
    /// How often the committed offset of an owned source partition without new records is committed again. Brokers forget
    /// offsets of topics without a subscriber `offsets.retention.minutes` after their last commit.
    pub offset_renewal: Duration,
}
