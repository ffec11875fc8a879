//! A tenant's queue: records, results, the running message, and the state that it sees.
//!
//! The state of a tenant has four layers. Each is an earlier part of the queue than the next:
//!
//! ```text
//! committed ◀─ in the open transaction ◀─ finished, in no transaction ◀─ the running message
//! ```
//!
//! A message starts as soon as its tenant is idle. A later start would change nothing: the message sees the same layers, or
//! it is abandoned and starts again.

use std::hash::{Hash, Hasher};

use crate::mistakes::Mistake;
use crate::small::{List, Set};
use crate::state::Model;

/// How many records a queue can hold.
const QUEUE_CAPACITY: usize = 6;

/// How a record came into the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Origin {
    /// From `p`, by the direct path.
    #[default]
    Direct,
    /// From this offset of `s`, by a hop.
    Shard(u8),
    /// From the changelog: it is parked.
    Parked,
}

impl Origin {
    /// The offset of `s` that the record has.
    pub fn shard_offset(self) -> Option<u8> {
        match self {
            Self::Shard(offset) => Some(offset),
            Self::Direct | Self::Parked => None,
        }
    }

    /// The record at an offset of `s` was removed.
    pub fn remove_shard_offset(&mut self, removed: u8) {
        if let Self::Shard(offset) = self {
            *offset -= u8::from(*offset > removed);
        }
    }
}

/// The result of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was processed on this state.
    Processed(Set),
    /// It became a dead letter: the broker refused its records.
    DeadLetter,
}

/// A record that waits, runs, or has a result that is not committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Item {
    /// Which record of `p` it is.
    pub record: u8,
    /// How it came here.
    pub origin: Origin,
    /// Its result.
    pub outcome: Option<Outcome>,
    /// Its result is in the open transaction.
    pub is_sent: bool,
    /// The open transaction parks it.
    pub is_being_parked: bool,
}

/// As one number: most of a search is hashing.
impl Hash for Item {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let (origin, offset) = match self.origin {
            Origin::Direct => (0, 0),
            Origin::Shard(offset) => (1, offset),
            Origin::Parked => (2, 0),
        };
        let (outcome, base) = match self.outcome {
            None => (0, Set::EMPTY),
            Some(Outcome::Processed(base)) => (1, base),
            Some(Outcome::DeadLetter) => (2, Set::EMPTY),
        };
        let flags = u8::from(self.is_sent) << 1 | u8::from(self.is_being_parked);
        let bytes = [self.record, origin, offset, outcome, base.low(), base.high(), flags, 0];
        hasher.write_u64(u64::from_le_bytes(bytes));
    }
}

/// The running message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Job {
    /// Its record.
    pub record: u8,
    /// Where the record came from when the message started.
    pub origin: Origin,
    /// The state that it sees.
    pub base: Set,
}

/// The queue of a tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Queue {
    /// The committed state: the processed records whose changes it has.
    pub committed: Set,
    /// The records in the order in which they are processed.
    pub items: List<Item, QUEUE_CAPACITY>,
    /// The running message. Always that of the first record without a result.
    pub job: Option<Job>,
    /// A message whose partition was lost while it ran. It has an effect only where a mistake lets its result in.
    pub abandoned: Option<Job>,
}

impl Queue {
    /// The first record without a result.
    pub fn first_unfinished(&self) -> Option<usize> {
        self.items.as_slice().iter().position(|item| item.outcome.is_none())
    }

    /// The results that may be sent next: those of the queue's first records.
    pub fn finished(&self, model: &Model) -> std::ops::Range<usize> {
        let items = self.items.as_slice();
        let start = if model.has(Mistake::SendLaterResultsFirst) {
            items.iter().position(|item| item.outcome.is_some()).unwrap_or(items.len())
        } else {
            0
        };
        let count = items[start..].iter().take_while(|item| item.outcome.is_some()).count();
        start..start + count
    }

    /// The state in front of the record at `index`: all layers below it.
    fn state_before(&self, index: usize, model: &Model) -> Set {
        if model.has(Mistake::RunOnCommittedState) {
            return self.committed;
        }
        let seen = self.items.as_slice()[..index]
            .iter()
            .filter(|item| matches!(item.outcome, Some(Outcome::Processed(_))))
            .filter(|item| !(item.is_sent && model.has(Mistake::SkipCommittingLayer)));
        self.committed.union(seen.map(|item| item.record).collect())
    }

    /// Starts the first record without a result. Where messages take no time, all of them end at once.
    pub fn start(&mut self, model: &Model) {
        while self.job.is_none()
            && let Some(index) = self.first_unfinished()
        {
            let base = self.state_before(index, model);
            let item = &mut self.items.as_mut_slice()[index];
            if model.bounds.messages_take_time {
                self.job = Some(Job { record: item.record, origin: item.origin, base });
            } else {
                item.outcome = Some(Outcome::Processed(base));
            }
        }
    }

    /// The running message ends.
    pub fn finish(&mut self, model: &Model) {
        let Some(job) = self.job.take() else { return };
        let mut items = self.items.as_mut_slice().iter_mut();
        if let Some(item) = items.find(|item| item.record == job.record && item.outcome.is_none()) {
            item.outcome = Some(Outcome::Processed(job.base));
        }
        self.start(model);
    }

    /// The record of the running message may have been parked.
    pub fn update_job_origin(&mut self) {
        if let (Some(first), Some(job)) = (self.first_unfinished(), &mut self.job) {
            let item = self.items.as_slice()[first];
            if item.record == job.record {
                job.origin = item.origin;
            }
        }
    }

    /// A second message of the tenant runs at the same time, and ends first. Only a mistake does this.
    pub fn finish_second(&mut self) {
        let (Some(job), Some(first)) = (self.job, self.first_unfinished()) else { return };
        let later = &mut self.items.as_mut_slice()[first + 1..];
        if let Some(item) = later.iter_mut().find(|item| item.outcome.is_none()) {
            item.outcome = Some(Outcome::Processed(job.base));
        }
    }

    /// The result of an abandoned message arrives, and is taken for one of the queue. Only a mistake does this.
    pub fn accept_abandoned(&mut self, model: &Model) {
        let Some(job) = self.abandoned.take() else { return };
        let index = self.first_unfinished().unwrap_or(self.items.as_slice().len());
        let outcome = Some(Outcome::Processed(job.base));
        self.items.insert(index, Item { record: job.record, origin: job.origin, outcome, ..Item::default() });
        self.job = None;
        self.start(model);
    }

    /// The running message is abandoned: its partition is lost, or the state that it sees is.
    pub fn abandon_job(&mut self, model: &Model) {
        let job = self.job.take();
        if model.has(Mistake::AcceptAbandonedResult) {
            self.abandoned = job.or(self.abandoned);
        }
    }

    /// Drops the results from `index` on. Their records run again.
    pub fn drop_results(&mut self, index: usize, model: &Model) {
        for item in &mut self.items.as_mut_slice()[index..] {
            item.outcome = None;
        }
        if !model.has(Mistake::KeepRunningJob) {
            self.job = None;
        }
        self.start(model);
    }

    /// Drops the uncommitted direct records, with the results that were made after them.
    pub fn drop_direct(&mut self, model: &Model) {
        let Some(first) = self.items.as_slice().iter().position(|item| item.origin == Origin::Direct) else { return };
        if self.job.is_some_and(|job| job.origin == Origin::Direct) {
            self.abandon_job(model);
        }
        self.items.retain(|item| item.origin != Origin::Direct);
        if model.has(Mistake::KeepResultsBehindDropped) {
            self.start(model);
        } else {
            self.drop_results(first, model);
        }
    }

    /// Drops everything: `s` is lost.
    pub fn drop_all(&mut self, model: &Model) {
        self.abandon_job(model);
        self.items.clear();
        self.committed = Set::EMPTY;
    }
}
