//! What Kafka does: two partitions of records, committed offsets, transactions with their markers, and a consumer group.

pub mod coordinator;
pub mod group;
pub mod log;

use self::coordinator::{Offsets, Transaction};
use self::group::Group;
use self::log::Log;

/// How many members the group has.
pub const MEMBERS: usize = 2;

/// The state of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// Who owns what.
    pub group: Group,
    /// How far the group has come.
    pub offsets: Offsets,
    /// The transaction of each member.
    pub transactions: [Transaction; MEMBERS],
    /// The partition `s` of the repartition topic.
    pub repartition: Log,
    /// The changelog of `s`.
    pub changelog: Log,
}

impl Cluster {
    /// Empty partitions, and member 0 owns everything.
    pub fn start() -> Self {
        Self {
            group: Group::start(),
            offsets: Offsets::default(),
            transactions: [Transaction::Idle; MEMBERS],
            repartition: Log::default(),
            changelog: Log::default(),
        }
    }
}
