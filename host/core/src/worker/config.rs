use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::{OutputRules, TenantSchema};
use crate::state::StateLimits;

/// Where a source partition without a committed offset is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartFrom {
    #[default]
    Earliest,
    Latest,
}

/// When a transaction ends, beside at once when there is nothing more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// At so many records.
    pub records: usize,
    /// At so many bytes of records read.
    pub bytes: usize,
    /// After so long.
    pub time: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { records: 5000, bytes: 16 << 20, time: Duration::from_millis(100) }
    }
}

/// What a worker goes by.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The application's name: the group, and the prefix of internal topics.
    pub app: String,
    /// Number of partitions of the repartition topic.
    pub shards: u32,
    pub tenants: TenantSchema,
    pub outputs: OutputRules,
    pub state: StateLimits,
    /// How many lookups a message may make.
    pub lookups_a_message: usize,
    /// How long a message may wait for its lookups in all.
    pub lookup_time: Duration,
    pub batch: BatchLimits,
    pub start_from: StartFrom,
}
