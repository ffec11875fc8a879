//! What are the topics called, are they fit, and how far has the group come in them?
//!
//! | module | question |
//! |---|---|
//! | `topology` | what does the broker call each topic? |
//! | `internal_topics` | do the internal topics exist? It creates those that are missing. |
//! | `shard_count` | how many shards does the application have, and why? Pure: no request of its own. |
//! | `topic_requirements` | may an internal topic be used as it is? Pure: no request of its own. |
//! | `committed_offsets` | how far has the group come, or did it lose its offsets? |
//! | `group_members` | does the group have members that do not share its partitions as this version does? |
//! | `watermarks` | where does a log start and end? |
//! | `source_topics` | how many partitions do the consumed topics have? |
//! | `lag` | how many records wait, and for how long? |
//! | `purge` | which records of the repartition topic are processed? It deletes them. |
//!
//! Nothing here reads or writes application data, apart from the first waiting record of each partition (`lag`).

pub(crate) mod committed_offsets;
pub(crate) mod group_members;
pub(crate) mod internal_topics;
pub(crate) mod lag;
mod purge;
pub(crate) mod shard_count;
mod source_topics;
pub(crate) mod topic_requirements;
mod topology;
mod watermarks;

pub use committed_offsets::{CommittedOffsets, CommittedOffsetsError, check_committed_offsets};
pub use group_members::{GroupMembersError, check_group_members};
pub use internal_topics::{Admin, PreparedTopics, TopicError, TopicSettings, prepare, prepare_control};
pub use lag::report_lag;
pub use purge::Purge;
pub use shard_count::{ShardCount, ShardOrigin};
pub use source_topics::SourceTopics;
pub use topology::{TopicName, Topology, TopologyError};
pub use watermarks::Watermarks;

use std::time::Duration;

/// One request about topics. A stop waits for its end.
const TOPIC_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits for an answer of an admin client, whose own thread completes the future.
pub(crate) fn block_on<T>(answer: impl Future<Output = T>) -> T {
    futures_executor::block_on(answer)
}
