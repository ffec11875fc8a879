//! What happens between two states, in words.

use std::fmt;

use crate::cluster::coordinator::Place;
use crate::cluster::group::Partition;
use crate::small::Set;

/// What happens between two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the text of each step is in its Display")]
pub enum Step {
    Moves { partition: Partition, to: u8, with_source: bool },
    Rebalances,
    WritesMarker { member: u8, place: Place, commits: bool },
    AbortsOrphan { member: u8 },
    Crashes { member: u8 },
    Joins { member: u8, generation: u8, gives_back: bool },
    ReadsOffset { member: u8, partition: Partition },
    ReadsEndEarly { member: u8, end: u8 },
    Restores { member: u8, end: u8 },
    ReadsShard { member: u8, offset: u8 },
    ReadsBarrier { member: u8, writer: u8 },
    GivesUp { member: u8 },
    OpensAtOnce { member: u8 },
    ReadsDirectly { member: u8, record: u8 },
    Finishes { member: u8, record: u8 },
    FinishesSecond { member: u8, tenant: usize },
    FinishesAbandoned { member: u8, record: u8 },
    Begins { member: u8, has_barrier: bool, hops: Set, results: Set, parked: Set },
    WritesRecords { member: u8 },
    SendsOffsets { member: u8, source: Option<Set>, shard: Option<Set> },
    IsFenced { member: u8 },
    IsRefused { member: u8, record: u8 },
    Commits { member: u8 },
    Aborts { member: u8 },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moves { partition, to, with_source: false } => {
                write!(f, "the group gives {partition} to member {to}")
            }
            Self::Moves { to, .. } => write!(f, "the group gives p and s to member {to}"),
            Self::Rebalances => write!(f, "the group has a new generation, in which nothing moves"),
            Self::WritesMarker { member, place, commits } => {
                let kind = if *commits { "commit" } else { "abort" };
                write!(f, "the {kind} marker of member {member}'s transaction reaches {place}")
            }
            Self::AbortsOrphan { member } => {
                write!(f, "the coordinator aborts the transaction that member {member} left open")
            }
            Self::Crashes { member } => write!(f, "member {member} crashes and starts again"),
            Self::Joins { member, generation, gives_back: false } => {
                write!(f, "member {member} learns of generation {generation}")
            }
            Self::Joins { member, generation, .. } => {
                write!(f, "member {member} learns of generation {generation}, and gives back what it lost")
            }
            Self::ReadsOffset { member, partition } => {
                write!(f, "member {member} reads the committed offset of {partition} and its map")
            }
            Self::ReadsEndEarly { member, end } => {
                write!(f, "member {member} reads the high watermark of the changelog without owning s: {end}")
            }
            Self::Restores { member, end } => {
                write!(f, "member {member} restores the state of s from the changelog up to offset {end}")
            }
            Self::ReadsShard { member, offset } => write!(f, "member {member} reads offset {offset} of s"),
            Self::ReadsBarrier { member, writer } => {
                write!(f, "member {member} reads a barrier of member {writer} from s")
            }
            Self::GivesUp { member } => write!(f, "member {member} gives up its attempt to open the direct path"),
            Self::OpensAtOnce { member } => write!(f, "member {member} opens the direct path at once"),
            Self::ReadsDirectly { member, record } => {
                write!(f, "member {member} reads record {record} of p into its tenant's queue")
            }
            Self::Finishes { member, record } => write!(f, "member {member} has processed record {record}"),
            Self::FinishesSecond { member, tenant } => {
                write!(f, "member {member} has processed a second message of tenant {tenant} at the same time")
            }
            Self::FinishesAbandoned { member, record } => {
                write!(f, "member {member} takes the late result of record {record}, whose message it had abandoned")
            }
            Self::Begins { member, has_barrier, hops, results, parked } => {
                let barrier = has_barrier.then(|| "a barrier".to_owned());
                let sets = [("hops", hops), ("results", results), ("parked records", parked)];
                let sets = sets.iter().filter(|(_, set)| !set.is_empty()).map(|(name, set)| format!("{name} {set}"));
                let parts: Vec<_> = barrier.into_iter().chain(sets).collect();
                write!(f, "member {member} begins a transaction: {}", parts.join(", "))
            }
            Self::WritesRecords { member } => write!(f, "member {member} writes the records of its transaction"),
            Self::SendsOffsets { member, source, shard } => {
                let sets = [("p", source), ("s", shard)];
                let parts: Vec<_> =
                    sets.iter().filter_map(|(name, set)| set.map(|set| format!("{set} of {name}"))).collect();
                let parts = if parts.is_empty() { "nothing".to_owned() } else { parts.join(" and ") };
                write!(f, "member {member} sends its offsets: finished are {parts}")
            }
            Self::IsFenced { member } => {
                write!(f, "the group refuses the offsets of member {member}, which aborts, and joins again")
            }
            Self::IsRefused { member, record } => {
                write!(f, "the broker refuses the outputs of record {record}; member {member} aborts")
            }
            Self::Commits { member } => write!(f, "member {member} commits"),
            Self::Aborts { member } => write!(f, "member {member} aborts"),
        }
    }
}
