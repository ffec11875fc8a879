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

/// When a transaction ends, apart from when there is nothing more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// The most records of a transaction.
    pub records: usize,
    /// The bytes of consumed records at which a transaction ends.
    pub bytes: usize,
    /// How long a transaction takes in records.
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
