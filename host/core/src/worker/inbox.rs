//! Records that were read and are not yet committed, and what is to be done with each.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::plugins::Answers;
use super::ports::{Consumed, Partition};
use super::process::Need;
use crate::record::{
    Barrier, Class, ControlPosition, Coordinates, DeadLetter, Offset, Record, Repartitioned, ShardId, Tenant, TenantId,
    Tenants, from_repartitioned, shard_of, to_repartitioned,
};

/// A record that was read and is not yet committed. It stays here until its transaction is committed, so an aborted batch
/// runs again from memory, with the same answers.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    /// A record that takes the hop already has the form of the repartition topic, unless it becomes a dead letter.
    pub(super) record: Record,
    /// The source topic, partition and offset that it comes from.
    pub(super) origin: Coordinates,
    /// `None`: it could not be decoded.
    pub(super) tenant: Option<TenantId>,
    pub(super) disposition: Disposition,
    /// The newest change of a route that the worker had read which read the source record.
    pub(super) routes: Option<ControlPosition>,
    pub(super) lookups: LookupProgress,
    /// Its outputs are flushed one by one, because the broker refused one of them, or only their batch.
    pub(super) one_by_one: bool,
    /// Its size when it was read.
    bytes: usize,
}

/// What is to be done with a record.
#[derive(Debug)]
pub(super) enum Disposition {
    /// It takes the hop: it is sent to its tenant's shard.
    Repartition { shard: ShardId },
    /// Its tenant's release handles it.
    Process { shard: ShardId, tenant: Arc<Tenant> },
    /// It is sent to the dead-letter topic; `minimal`: with its coordinates only.
    DeadLetter { letter: DeadLetter, minimal: bool },
    /// A barrier: there is nothing to do.
    Skip,
}

/// What decoding a record gave.
struct Decoded {
    record: Record,
    origin: Coordinates,
    tenant: Option<TenantId>,
    disposition: Disposition,
    routes: Option<ControlPosition>,
}

/// How far a message is with its lookups.
#[derive(Debug, Default)]
pub(super) struct LookupProgress {
    pub(super) answers: Answers,
    pub(super) need: Option<Need>,
    /// How often the release found its answers unusable.
    pub(super) unusable: u32,
    /// How long its lookups have taken.
    pub(super) spent: Duration,
}

impl Pending {
    /// A record that was just read.
    ///
    /// * `aliases`: the consumed topics, in the order of the indices of `Partition::Source`.
    /// * `is_direct`: whether a record of this source goes directly to this shard.
    /// * `routes`: the newest change of a route that this worker has read. The change that made it consume the topic is
    ///   not newer. The worker may read newer changes before it sends the record.
    pub(super) fn new(
        consumed: Consumed,
        aliases: &[Arc<str>],
        routes: Option<ControlPosition>,
        shards: u32,
        tenants: &mut Tenants,
        is_direct: impl Fn(Partition, ShardId) -> bool,
    ) -> Self {
        let bytes = consumed.record.bytes();
        let pending = match consumed.partition {
            Partition::Source { topic, index } => {
                let origin =
                    Coordinates { topic: Arc::clone(&aliases[topic]), partition: index, offset: consumed.offset };
                Self::from_source(consumed, origin, routes, shards, tenants, is_direct)
            }
            Partition::Shard(shard) => Self::from_shard(consumed, shard, aliases, routes, tenants),
        };
        Self { bytes, ..pending }
    }

    /// A record of a source topic: it goes to its tenant's shard, directly or by the hop.
    fn from_source(
        Consumed { partition, offset, record }: Consumed,
        origin: Coordinates,
        routes: Option<ControlPosition>,
        shards: u32,
        tenants: &mut Tenants,
        is_direct: impl Fn(Partition, ShardId) -> bool,
    ) -> Self {
        let (record, tenant, disposition) = match tenants.decode(&record.headers) {
            Ok(tenant) => {
                let (shard, id) = (shard_of(&tenant.id, shards), tenant.id.clone());
                if is_direct(partition, shard) {
                    (record, Some(id), Disposition::Process { shard, tenant })
                } else {
                    (to_repartitioned(record, &origin, routes), Some(id), Disposition::Repartition { shard })
                }
            }
            Err(letter) => (record, None, Disposition::DeadLetter { letter, minimal: false }),
        };
        Self::at(partition, offset, Decoded { record, origin, tenant, disposition, routes })
    }

    /// Makes a record that would go directly to its shard take the hop.
    fn redirect(&mut self, shard: ShardId) {
        self.record = to_repartitioned(std::mem::take(&mut self.record), &self.origin, self.routes);
        self.disposition = Disposition::Repartition { shard };
        self.lookups = LookupProgress::default();
        self.one_by_one = false;
    }

    /// A record of the repartition topic: it is a message for its tenant's release.
    fn from_shard(
        Consumed { partition, offset, record }: Consumed,
        shard: ShardId,
        aliases: &[Arc<str>],
        routes: Option<ControlPosition>,
        tenants: &mut Tenants,
    ) -> Self {
        let here = || Coordinates { topic: Arc::from("repartition"), partition: shard.into(), offset };
        if Barrier::from_record(&record).is_some() {
            let (origin, disposition) = (here(), Disposition::Skip);
            return Self::at(partition, offset, Decoded { record, origin, tenant: None, disposition, routes });
        }
        let decoded = match from_repartitioned(record, aliases) {
            Ok(Repartitioned { record, origin, routes }) => {
                let (tenant, disposition) = match tenants.decode(&record.headers) {
                    Ok(tenant) => (Some(tenant.id.clone()), Disposition::Process { shard, tenant }),
                    Err(letter) => (None, Disposition::DeadLetter { letter, minimal: false }),
                };
                Decoded { record, origin, tenant, disposition, routes }
            }
            Err((record, error)) => {
                let origin = here();
                let letter = DeadLetter::new(Class::Envelope, error.to_string());
                let disposition = Disposition::DeadLetter { letter, minimal: false };
                Decoded { record, origin, tenant: None, disposition, routes }
            }
        };
        Self::at(partition, offset, decoded)
    }

    fn at(partition: Partition, offset: Offset, decoded: Decoded) -> Self {
        let Decoded { record, origin, tenant, disposition, routes } = decoded;
        let lookups = LookupProgress::default();
        let (one_by_one, bytes) = (false, 0);
        Self { partition, offset, record, origin, tenant, disposition, routes, lookups, one_by_one, bytes }
    }

    /// The broker refused something that was sent for this record, and the record was alone in its transaction. Takes the
    /// next of these steps, and returns false when there is none:
    ///
    /// 1. its outputs are flushed one by one;
    /// 2. it becomes a dead letter;
    /// 3. it becomes a dead letter with its coordinates only, without key and value.
    pub(super) fn refused(&mut self, reason: &str) -> bool {
        match &mut self.disposition {
            Disposition::DeadLetter { minimal: true, .. } | Disposition::Skip => return false,
            Disposition::DeadLetter { minimal, .. } => *minimal = true,
            Disposition::Process { .. } if !self.one_by_one => self.one_by_one = true,
            Disposition::Repartition { .. } | Disposition::Process { .. } => {
                let letter = DeadLetter::new(Class::Output, reason);
                if let Disposition::Repartition { .. } = self.disposition {
                    // Back to the form that it had in its source topic.
                    if let Ok(repartitioned) = from_repartitioned(std::mem::take(&mut self.record), &[]) {
                        self.record = repartitioned.record;
                    }
                }
                self.disposition = Disposition::DeadLetter { letter, minimal: false };
            }
        }
        true
    }
}

/// The order of offsets is checked among this number of records, so that the check stays cheap.
const CHECKED_RECORDS: usize = 16;

/// What was read and is not committed, in the order of arrival. So it has the records of a partition in the order of their
/// offsets.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queue: VecDeque<Pending>,
    bytes: usize,
}

impl Inbox {
    /// Adds the next record of a partition.
    pub(super) fn push(&mut self, pending: Pending) {
        let last = self.last_of(pending.partition);
        assert!(
            last.is_none_or(|last| last < pending.offset),
            "offsets of a partition must increase: {:?} comes after {last:?}",
            pending.offset
        );
        self.bytes += pending.bytes;
        self.queue.push_back(pending);
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The offset of the last record of a partition, if it is among the last records.
    fn last_of(&self, partition: Partition) -> Option<Offset> {
        let mut last = self.queue.iter().rev().take(CHECKED_RECORDS);
        last.find(|pending| pending.partition == partition).map(|pending| pending.offset)
    }

    /// Bytes of all records, as they were read.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Removes the first records, as they are committed.
    pub(super) fn settled(&mut self, count: usize) {
        let settled: usize = self.queue.drain(..count).map(|pending| pending.bytes).sum();
        self.bytes -= settled;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn queue(&mut self) -> &mut VecDeque<Pending> {
        &mut self.queue
    }

    /// Whether a record of one of these sources waits for its hop.
    pub(super) fn has_hop_of(&self, sources: &BTreeSet<Partition>) -> bool {
        let hops = |pending: &Pending| matches!(pending.disposition, Disposition::Repartition { .. });
        self.queue.iter().any(|pending| hops(pending) && sources.contains(&pending.partition))
    }

    /// Makes the records that would go directly to these shards take the hop, in their order.
    pub(super) fn redirect(&mut self, shards: &[ShardId]) {
        for pending in &mut self.queue {
            if let (Partition::Source { .. }, Disposition::Process { shard, .. }) =
                (pending.partition, &pending.disposition)
                && shards.contains(shard)
            {
                let shard = *shard;
                pending.redirect(shard);
            }
        }
    }

    /// Forgets the records that go directly to these shards: a mistake that only a mutation makes.
    #[cfg(feature = "mutations")]
    pub(super) fn forget_direct(&mut self, shards: &[ShardId]) {
        let is_direct = |pending: &Pending| match (pending.partition, &pending.disposition) {
            (Partition::Source { .. }, Disposition::Process { shard, .. }) => shards.contains(shard),
            _ => false,
        };
        self.queue.retain(|pending| !is_direct(pending));
        self.bytes = self.queue.iter().map(|pending| pending.bytes).sum();
    }

    /// Forgets the records of partitions that are no longer ours.
    pub(super) fn drop_partitions(&mut self, partitions: &[Partition]) {
        self.queue.retain(|pending| !partitions.contains(&pending.partition));
        self.bytes = self.queue.iter().map(|pending| pending.bytes).sum();
    }

    /// Forgets the records of a partition. Returns the offset of the first of them.
    pub(super) fn rewind(&mut self, partition: Partition) -> Option<Offset> {
        let first =
            self.queue.iter().filter(|pending| pending.partition == partition).map(|pending| pending.offset).min();
        self.drop_partitions(&[partition]);
        first
    }

    /// Forgets all records.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
