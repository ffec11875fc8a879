//! What is finished and not yet in a committed transaction, in the order in which it finished.
//!
//! A transaction is assembled from the first results. If it is aborted, the same results are sent again: nothing runs again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::job::JobResult;
use super::message::{Disposition, Message};
use super::ports::Partition;
use super::process::Verdict;
use crate::record::{DeadLetter, ShardId, TenantId};
use crate::routing::Release;
use crate::state::{Change, Version};

/// What follows from a record.
#[derive(Debug)]
pub(super) struct Finished {
    /// The record.
    pub(super) message: Arc<Message>,
    /// `None`: it could not be decoded, or it is a barrier.
    pub(super) tenant: Option<TenantId>,
    /// The shard of a record that its tenant's queue has had. A transaction with it sends the shard's offset too.
    pub(super) shard: Option<ShardId>,
    pub(super) effect: Effect,
    /// Its outputs are flushed one by one, because the broker refused one of them, or only their batch.
    pub(super) one_by_one: bool,
    /// When it finished.
    pub(super) at: Duration,
    /// Bytes of its outputs and changes.
    pub(super) bytes: usize,
}

/// What a transaction contains for a record.
#[derive(Debug)]
pub(super) enum Effect {
    /// It is sent to its tenant's shard.
    Hop(ShardId),
    /// It is sent to the dead-letter topic; `minimal`: with its coordinates only.
    DeadLetter { letter: DeadLetter, minimal: bool },
    /// Nothing: it is a barrier.
    Nothing,
    /// Its tenant's release reached a verdict. `before`: the version of the tenant's state before it.
    Handled { verdict: Verdict, release: Arc<Release>, before: Version, version: Version, changes: Vec<Change> },
    /// Its tenant's release took over the tenant's state before it. The record itself is not settled.
    TakenOver { before: Version, version: Version, changes: Vec<Change> },
}

impl Finished {
    /// A record that no release handles.
    pub(super) fn unhandled(message: Arc<Message>, disposition: Disposition, at: Duration) -> Self {
        let (tenant, effect) = match disposition {
            Disposition::Repartition { tenant, shard } => (Some(tenant), Effect::Hop(shard)),
            Disposition::DeadLetter { tenant, letter } => (tenant, Effect::DeadLetter { letter, minimal: false }),
            Disposition::Skip => (None, Effect::Nothing),
            Disposition::Process { .. } => unreachable!("its tenant's queue gets it"),
        };
        Self { message, tenant, shard: None, effect, one_by_one: false, at, bytes: 0 }
    }

    /// A dead letter instead of a message of this tenant.
    pub(super) fn dead_letter(
        message: Arc<Message>,
        tenant: TenantId,
        shard: ShardId,
        letter: DeadLetter,
        at: Duration,
    ) -> Self {
        let effect = Effect::DeadLetter { letter, minimal: false };
        Self { message, tenant: Some(tenant), shard: Some(shard), effect, one_by_one: false, at, bytes: 0 }
    }

    /// What a job's message did.
    pub(super) fn of_job(result: JobResult, tenant: TenantId, shard: ShardId, at: Duration) -> Self {
        let bytes = result.bytes();
        let JobResult { message, verdict, release, before, version, changes } = result;
        let effect = match verdict {
            Some(verdict) => Effect::Handled { verdict, release, before, version, changes },
            None => Effect::TakenOver { before, version, changes },
        };
        Self { message, tenant: Some(tenant), shard: Some(shard), effect, one_by_one: false, at, bytes }
    }

    /// Whether its record is settled by the transaction that contains it.
    pub(super) fn settles(&self) -> bool {
        !matches!(self.effect, Effect::TakenOver { .. })
    }

    /// The version of the tenant's state before and after it.
    pub(super) fn versions(&self) -> Option<(Version, Version)> {
        match &self.effect {
            Effect::Handled { before, version, .. } | Effect::TakenOver { before, version, .. } => {
                Some((*before, *version))
            }
            _ => None,
        }
    }

    /// What it changed in the tenant's state.
    pub(super) fn changes(&self) -> &[Change] {
        match &self.effect {
            Effect::Handled { changes, .. } | Effect::TakenOver { changes, .. } => changes,
            _ => &[],
        }
    }
}

/// Results that wait for a transaction.
#[derive(Debug, Default)]
pub(super) struct Results {
    queue: VecDeque<Finished>,
    bytes: usize,
}

impl Results {
    pub(super) fn push(&mut self, finished: Finished) {
        self.bytes += finished.bytes;
        self.queue.push_back(finished);
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of outputs and changes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the first one finished.
    pub(super) fn since(&self) -> Option<Duration> {
        self.queue.front().map(|finished| finished.at)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Finished> {
        self.queue.iter()
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Finished> {
        self.queue.front_mut()
    }

    /// Removes the first ones, as they are committed.
    pub(super) fn take_first(&mut self, count: usize) -> Vec<Finished> {
        let taken: Vec<_> = self.queue.drain(..count).collect();
        self.bytes -= taken.iter().map(|finished| finished.bytes).sum::<usize>();
        taken
    }

    /// Removes those for which `is_dropped` says so, and returns them in their order.
    pub(super) fn take_if(&mut self, mut is_dropped: impl FnMut(&Finished) -> bool) -> Vec<Finished> {
        let mut taken = Vec::new();
        for finished in std::mem::take(&mut self.queue) {
            if is_dropped(&finished) {
                self.bytes -= finished.bytes;
                taken.push(finished);
            } else {
                self.queue.push_back(finished);
            }
        }
        taken
    }

    /// Puts this one first.
    pub(super) fn push_front(&mut self, finished: Finished) {
        self.bytes += finished.bytes;
        self.queue.push_front(finished);
    }

    /// Whether a record of one of these sources waits for its hop.
    pub(super) fn has_hop_of(&self, sources: &BTreeSet<Partition>) -> bool {
        let is_hop = |finished: &&Finished| matches!(finished.effect, Effect::Hop(_));
        self.queue.iter().filter(is_hop).any(|finished| sources.contains(&finished.message.partition))
    }
}
