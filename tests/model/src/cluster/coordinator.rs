//! Transactions: what is open, what is decided, and which markers have not been written yet.

use std::fmt;

use super::group::Partition;
use super::log::{Entry, Mark};
use super::{Cluster, MEMBERS};
use crate::small::Set;

/// A place that gets a marker of its own. The offsets of `p` and `s` are in one partition of the group's offsets topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The committed offsets of the group.
    Offsets,
    /// The partition `s` of the repartition topic.
    Repartition,
    /// The changelog of `s`.
    Changelog,
}

impl Place {
    /// All places.
    pub const ALL: [Self; 3] = [Self::Offsets, Self::Repartition, Self::Changelog];
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offsets => "the offsets",
            Self::Repartition => "the repartition topic",
            Self::Changelog => "the changelog",
        })
    }
}

/// Places that a transaction has written to and that have no marker of it yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Places(u8);

impl Places {
    /// Whether the place is among them.
    pub fn contains(self, place: Place) -> bool {
        self.0 >> place as u8 & 1 == 1
    }

    fn with(self, place: Place) -> Self {
        Self(self.0 | 1 << place as u8)
    }

    fn without(self, place: Place) -> Self {
        Self(self.0 & !(1 << place as u8))
    }
}

/// The transaction of a member, as the transaction coordinator sees it.
///
/// ```text
/// Idle ──▶ Open ──▶ Committing ──▶ Idle
///            └────▶ Aborting ────▶ Idle
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transaction {
    /// There is none. The next one may begin.
    #[default]
    Idle,
    /// It has written to these places.
    Open(Places),
    /// It is committed; the markers of these places are still to be written.
    Committing(Places),
    /// It is aborted; the markers of these places are still to be written.
    Aborting(Places),
}

/// The committed offsets of the group, each with its map: the set of finished records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Offsets {
    committed: [Set; 2],
    pending: [[Option<Set>; 2]; MEMBERS],
}

impl Offsets {
    /// Whether no open transaction has sent an offset of this partition.
    pub fn is_stable(&self, partition: Partition) -> bool {
        self.pending.iter().all(|by_partition| by_partition[partition as usize].is_none())
    }

    /// The finished records of a partition, by its committed offset.
    pub fn committed(&self, partition: Partition) -> Set {
        self.committed[partition as usize]
    }

    fn end_transaction(&mut self, member: usize, commits: bool) {
        let pending = std::mem::take(&mut self.pending[member]);
        for (committed, offset) in self.committed.iter_mut().zip(pending) {
            *committed = offset.filter(|_| commits).unwrap_or(*committed);
        }
    }

    /// The record at an offset of `s` was removed.
    pub fn remove_shard_offset(&mut self, offset: u8) {
        let shard = Partition::Shard as usize;
        self.committed[shard] = self.committed[shard].without_place(offset);
        for pending in &mut self.pending {
            pending[shard] = pending[shard].map(|finished| finished.without_place(offset));
        }
    }
}

impl Cluster {
    /// A member writes a record of its transaction.
    pub fn write(&mut self, place: Place, entry: Entry) {
        debug_assert_ne!(place, Place::Offsets, "offsets are sent");
        let log = if place == Place::Repartition { &mut self.repartition } else { &mut self.changelog };
        log.append(entry);
        self.touch(entry.writer, place);
    }

    /// A member sends the offsets of its transaction, all in one request.
    pub fn send_offsets(&mut self, member: u8, offsets: [Option<Set>; 2]) {
        self.offsets.pending[usize::from(member)] = offsets;
        if offsets != [None; 2] {
            self.touch(member, Place::Offsets);
        }
    }

    fn touch(&mut self, member: u8, place: Place) {
        let places = match self.transactions[usize::from(member)] {
            Transaction::Open(places) => places,
            _ => Places::default(),
        };
        self.transactions[usize::from(member)] = Transaction::Open(places.with(place));
    }

    /// The coordinator decides an open transaction.
    pub fn decide(&mut self, member: u8, commits: bool) {
        let transaction = &mut self.transactions[usize::from(member)];
        if let Transaction::Open(places) = *transaction {
            *transaction = if commits { Transaction::Committing(places) } else { Transaction::Aborting(places) };
        }
    }

    /// The marker of a decided transaction reaches a place. Returns the offsets of records that are removed there.
    pub fn write_marker(&mut self, member: u8, place: Place) -> Set {
        let index = usize::from(member);
        let (commits, places) = match self.transactions[index] {
            Transaction::Committing(places) => (true, places.without(place)),
            Transaction::Aborting(places) => (false, places.without(place)),
            Transaction::Idle | Transaction::Open(_) => return Set::EMPTY,
        };
        self.transactions[index] = match (commits, places == Places::default()) {
            (_, true) => Transaction::Idle,
            (true, false) => Transaction::Committing(places),
            (false, false) => Transaction::Aborting(places),
        };
        let log = match place {
            Place::Repartition => &mut self.repartition,
            Place::Changelog => &mut self.changelog,
            Place::Offsets => {
                self.offsets.end_transaction(index, commits);
                return Set::EMPTY;
            }
        };
        if !commits {
            return log.abort(member);
        }
        log.commit(member);
        Set::EMPTY
    }

    /// Whether a record is committed, also while its marker is still on its way.
    pub fn is_committed(&self, entry: &Entry) -> bool {
        match entry.mark {
            Mark::Committed => true,
            Mark::Open => matches!(self.transactions[usize::from(entry.writer)], Transaction::Committing(_)),
        }
    }
}
