//! A member of the group: what it knows of its partitions, its queues, and its transaction.
//!
//! | module | what it holds |
//! |---|---|
//! | `assignment` | generations, losses, and the steps of a takeover |
//! | `path` | records read from `p` and `s`, and when the direct path opens |
//! | `queue` | a tenant's records with their results, and its running message |
//! | `transaction` | what enters a transaction, and what its end means |

pub mod assignment;
pub mod path;
pub mod queue;
pub mod transaction;

use crate::small::Set;
use crate::state::TENANTS;

use self::path::Path;
use self::queue::Queue;
use self::transaction::OwnTransaction;

/// How far a member is with the takeover of `p`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SourcePhase {
    /// It does not own `p`.
    #[default]
    NotOwned,
    /// It reads the committed offset.
    ReadsOffset,
    /// It reads `p`.
    Owned,
}

/// How far a member is with the takeover of `s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ShardPhase {
    /// It does not own `s`.
    #[default]
    NotOwned,
    /// It reads the committed offset.
    ReadsOffset,
    /// It waits until the changelog's last stable offset has reached `end`, and restores the state up to there.
    Restores {
        /// The changelog's high watermark when the takeover read it.
        end: u8,
    },
    /// It reads and processes `s`.
    Owned,
}

/// What a member knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Member {
    /// The generation that it sends offsets with. 0: it is no member yet.
    pub generation: u8,
    /// Its takeover of `p`.
    pub source: SourcePhase,
    /// The finished records of `p` whose offsets are committed.
    pub source_finished: Set,
    /// The next record of `p` that it reads.
    pub source_next: u8,
    /// Its takeover of `s`.
    pub shard: ShardPhase,
    /// A high watermark of the changelog that it read without owning `s`. Only a mistake uses it.
    pub early_end: Option<u8>,
    /// The finished offsets of `s` that are committed.
    pub shard_finished: Set,
    /// The next offset of `s` that it reads.
    pub shard_next: u8,
    /// The direct path from `p` to `s`.
    pub path: Path,
    /// The queue of each tenant of `s`.
    pub queues: [Queue; TENANTS],
    /// Its open transaction.
    pub transaction: Option<OwnTransaction>,
}

impl Member {
    /// Whether it reads `s`.
    pub fn owns_shard(&self) -> bool {
        self.shard == ShardPhase::Owned
    }

    /// Whether both partitions are assigned to it. Their takeovers may still go on.
    pub fn has_both(&self) -> bool {
        self.source != SourcePhase::NotOwned && self.shard != ShardPhase::NotOwned
    }

    /// Whether it reads both partitions.
    pub fn owns_both(&self) -> bool {
        self.source == SourcePhase::Owned && self.owns_shard()
    }

    /// Skips finished records of `p`.
    pub fn skip_finished(&mut self) {
        while self.source_finished.contains(self.source_next) {
            self.source_next += 1;
        }
    }

    /// The record at an offset of `s` was removed from the repartition topic.
    pub fn remove_shard_offset(&mut self, offset: u8) {
        self.shard_finished = self.shard_finished.without_place(offset);
        self.shard_next -= u8::from(self.shard_next > offset);
        for queue in &mut self.queues {
            let items = queue.items.as_mut_slice().iter_mut().map(|item| &mut item.origin);
            let jobs = [&mut queue.job, &mut queue.abandoned].into_iter().flatten().map(|job| &mut job.origin);
            items.chain(jobs).for_each(|origin| origin.remove_shard_offset(offset));
        }
    }

    /// The record at an offset of the changelog was removed.
    pub fn remove_changelog_offset(&mut self, offset: u8) {
        if let ShardPhase::Restores { end } = &mut self.shard {
            *end -= u8::from(*end > offset);
        }
        self.early_end = self.early_end.map(|end| end - u8::from(end > offset));
    }
}
