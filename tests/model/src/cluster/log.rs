//! The partitions that members write records to: the repartition topic's partition `s`, and its changelog partition.

use std::hash::{Hash, Hasher};

use crate::small::{List, Set};

/// How many records a partition can hold. At most as many as a [`Set`] has numbers.
const LOG_CAPACITY: usize = 12;

/// What a record of a partition says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// In the repartition topic: a record of `p` that took the hop.
    #[default]
    Hop,
    /// In the changelog: the record was processed. Stands for its outputs and its changes of state.
    Result,
    /// In the changelog: the record became a dead letter, which changes no state.
    DeadLetter,
    /// In the changelog: the record is parked, to be processed later.
    Parked,
    /// In the repartition topic: a barrier. The number of its record is that of the member which wrote it.
    Barrier(Attempt),
}

/// The attempt to open the direct path that a barrier belongs to.
///
/// The engine numbers the attempts. Here the end of an attempt changes its barrier, which says the same with fewer states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attempt {
    /// Its writer waits for this barrier.
    Current,
    /// The attempt has ended.
    Former,
}

/// Whether the transaction of a record has ended, as the partition shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mark {
    /// No marker has reached the partition.
    #[default]
    Open,
    /// The commit marker has reached the partition.
    Committed,
}

/// A record of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The record of `p` that it is about.
    pub record: u8,
    /// What it says.
    pub kind: Kind,
    /// The state that a result was made from: the processed records whose changes it had.
    pub base: Set,
    /// The member whose transaction it belongs to.
    pub writer: u8,
    /// Whether that transaction has ended here.
    pub mark: Mark,
}

/// As one number: most of a search is hashing.
impl Hash for Entry {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self { record, kind, base, writer, mark } = *self;
        let kind = match kind {
            Kind::Hop => 0,
            Kind::Result => 1,
            Kind::DeadLetter => 2,
            Kind::Parked => 3,
            Kind::Barrier(Attempt::Current) => 4,
            Kind::Barrier(Attempt::Former) => 5,
        };
        hasher.write_u64(u64::from_le_bytes([record, kind, base.low(), base.high(), writer, mark as u8, 0, 0]));
    }
}

/// A partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log(List<Entry, LOG_CAPACITY>);

impl Log {
    /// The records by their offsets.
    pub fn entries(&self) -> &[Entry] {
        self.0.as_slice()
    }

    /// The offset behind the last record.
    pub fn high_watermark(&self) -> u8 {
        self.0.len()
    }

    /// The offset of the first record whose transaction has not ended here.
    pub fn last_stable_offset(&self) -> u8 {
        (0..self.high_watermark()).find(|at| self.at(*at).mark == Mark::Open).unwrap_or(self.high_watermark())
    }

    /// The record at an offset.
    pub fn at(&self, offset: u8) -> Entry {
        self.0.as_slice()[usize::from(offset)]
    }

    /// Adds a record.
    pub fn append(&mut self, entry: Entry) {
        self.0.push(entry);
    }

    /// A member's attempt to open the direct path has ended: its barrier is of a former attempt.
    pub fn end_attempt(&mut self, member: u8) {
        for entry in self.0.as_mut_slice() {
            if entry.kind == Kind::Barrier(Attempt::Current) && entry.record == member {
                entry.kind = Kind::Barrier(Attempt::Former);
            }
        }
    }

    /// The commit marker of a member's transaction reaches the partition.
    pub fn commit(&mut self, writer: u8) {
        for entry in self.0.as_mut_slice() {
            if entry.writer == writer && entry.mark == Mark::Open {
                entry.mark = Mark::Committed;
                // From here on, nothing depends on the writer.
                entry.writer = 0;
            }
        }
    }

    /// The abort marker of a member's transaction reaches the partition. Returns the offsets of its records, which are removed.
    ///
    /// No reader sees an aborted record. To remove it, and to move later records down by one, leaves fewer states.
    pub fn abort(&mut self, writer: u8) -> Set {
        self.remove(|entry| entry.writer == writer && entry.mark == Mark::Open)
    }

    /// Removes committed barriers of former attempts. Returns their offsets.
    pub fn remove_former_barriers(&mut self) -> Set {
        self.remove(|entry| entry.kind == Kind::Barrier(Attempt::Former) && entry.mark == Mark::Committed)
    }

    fn remove(&mut self, is_removed: impl Fn(&Entry) -> bool) -> Set {
        let removed = (0..self.high_watermark()).filter(|at| is_removed(&self.at(*at))).collect();
        self.0.retain(|entry| !is_removed(entry));
        removed
    }
}
