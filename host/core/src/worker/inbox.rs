//! Records that were read and are not yet committed, and what is to be done with each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::plugins::Answers;
use super::ports::{Consumed, Partition};
use super::process::Need;
use crate::record::{
    Class, ControlPosition, Coordinates, DeadLetter, Offset, Record, Repartitioned, ShardId, Tenant, TenantId, Tenants,
    Timestamp, from_repartitioned, shard_of, to_repartitioned,
};

/// A record that was read and is not yet committed. It stays here until its transaction is committed, so an aborted batch
/// runs again from memory, with the same answers.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    /// A record of a source partition already has the form of the repartition topic, unless it becomes a dead letter.
    pub(super) record: Record,
    /// The source topic, partition and offset that it comes from.
    pub(super) origin: Coordinates,
    /// `None`: it could not be decoded.
    pub(super) tenant: Option<TenantId>,
    pub(super) disposition: Disposition,
    /// The newest change of a route that the repartitioning worker had read.
    pub(super) routes: Option<ControlPosition>,
    pub(super) lookups: LookupProgress,
    /// Its outputs are flushed one by one, because the broker refused one of them, or only their batch.
    pub(super) one_by_one: bool,
    /// The timestamp of the source record.
    timestamp: Option<Timestamp>,
    /// Its size when it was read.
    bytes: usize,
}

/// What is to be done with a record.
#[derive(Debug)]
pub(super) enum Disposition {
    /// It is sent to its tenant's shard.
    Repartition { shard: ShardId },
    /// It is handled by its tenant's release.
    Process { shard: ShardId, tenant: Arc<Tenant> },
    /// It is sent to the dead-letter topic; `minimal`: with its coordinates only.
    DeadLetter { letter: DeadLetter, minimal: bool },
}

/// What decoding a record gave.
struct Decoded {
    record: Record,
    origin: Coordinates,
    tenant: Option<TenantId>,
    disposition: Disposition,
    routes: Option<ControlPosition>,
    timestamp: Option<Timestamp>,
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
    /// * `routes`: the newest change of a route that this worker has read. The change that made it consume the topic is
    ///   not newer. The worker may read newer changes before it sends the record.
    pub(super) fn new(
        consumed: Consumed,
        aliases: &[Arc<str>],
        routes: Option<ControlPosition>,
        shards: u32,
        tenants: &mut Tenants,
    ) -> Self {
        let bytes = consumed.record.bytes();
        let pending = match consumed.partition {
            Partition::Source { topic, index } => {
                let origin =
                    Coordinates { topic: Arc::clone(&aliases[topic]), partition: index, offset: consumed.offset };
                Self::from_source(consumed, origin, routes, shards, tenants)
            }
            Partition::Shard(shard) => Self::from_shard(consumed, shard, aliases, routes, tenants),
        };
        Self { bytes, ..pending }
    }

    /// A record of a source topic: it goes to its tenant's shard.
    fn from_source(
        Consumed { partition, offset, record }: Consumed,
        origin: Coordinates,
        routes: Option<ControlPosition>,
        shards: u32,
        tenants: &mut Tenants,
    ) -> Self {
        let timestamp = record.timestamp;
        let (record, tenant, disposition) = match tenants.decode(&record.headers) {
            Ok(tenant) => {
                let shard = shard_of(&tenant.id, shards);
                let record = to_repartitioned(record, &origin, routes);
                (record, Some(tenant.id.clone()), Disposition::Repartition { shard })
            }
            Err(letter) => (record, None, Disposition::DeadLetter { letter, minimal: false }),
        };
        Self::at(partition, offset, Decoded { record, origin, tenant, disposition, routes, timestamp })
    }

    /// A record of the repartition topic: it is a message for its tenant's release.
    fn from_shard(
        Consumed { partition, offset, record }: Consumed,
        shard: ShardId,
        aliases: &[Arc<str>],
        routes: Option<ControlPosition>,
        tenants: &mut Tenants,
    ) -> Self {
        let timestamp = record.timestamp;
        let decoded = match from_repartitioned(record, aliases) {
            Ok(Repartitioned { record, origin, routes }) => {
                let timestamp = record.timestamp;
                let (tenant, disposition) = match tenants.decode(&record.headers) {
                    Ok(tenant) => (Some(tenant.id.clone()), Disposition::Process { shard, tenant }),
                    Err(letter) => (None, Disposition::DeadLetter { letter, minimal: false }),
                };
                Decoded { record, origin, tenant, disposition, routes, timestamp }
            }
            Err((record, error)) => {
                let origin = Coordinates { topic: Arc::from("repartition"), partition: shard.into(), offset };
                let letter = DeadLetter::new(Class::Envelope, error.to_string());
                let disposition = Disposition::DeadLetter { letter, minimal: false };
                Decoded { record, origin, tenant: None, disposition, routes, timestamp }
            }
        };
        Self::at(partition, offset, decoded)
    }

    fn at(partition: Partition, offset: Offset, decoded: Decoded) -> Self {
        let Decoded { record, origin, tenant, disposition, routes, timestamp } = decoded;
        let lookups = LookupProgress::default();
        let (one_by_one, bytes) = (false, 0);
        Self { partition, offset, record, origin, tenant, disposition, routes, lookups, one_by_one, timestamp, bytes }
    }

    /// The broker refused something that was sent for this record, and the record was alone in its transaction. Takes the
    /// next of these steps, and returns false when there is none:
    ///
    /// 1. its outputs are flushed one by one;
    /// 2. it becomes a dead letter;
    /// 3. it becomes a dead letter with its coordinates only, without key and value.
    pub(super) fn refused(&mut self, reason: &str) -> bool {
        match &mut self.disposition {
            Disposition::DeadLetter { minimal: true, .. } => return false,
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

/// What a batch does with its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Repartition,
    Process,
}

impl Verb {
    fn other(self) -> Self {
        match self {
            Self::Repartition => Self::Process,
            Self::Process => Self::Repartition,
        }
    }
}

/// The most batches of one verb in a row while records wait for the other. Producers set the timestamps, so a verb whose
/// records always look older must not starve the other.
const MOST_IN_A_ROW: u32 = 4;

/// The order of offsets is checked among this number of records, so that the check stays cheap.
const CHECKED_RECORDS: usize = 16;

/// What was read and is not committed, by verb. Each queue has the records of a partition in the order of their offsets.
#[derive(Debug)]
pub(super) struct Inbox {
    repartition: VecDeque<Pending>,
    process: VecDeque<Pending>,
    bytes: usize,
    last_batches: BatchStreak,
}

/// The last batches, as far as they have one verb.
#[derive(Debug, Clone, Copy)]
struct BatchStreak {
    verb: Verb,
    /// The number of batches, up to `MOST_IN_A_ROW`.
    count: u32,
}

impl Inbox {
    pub(super) fn new() -> Self {
        let last_batches = BatchStreak { verb: Verb::Repartition, count: 0 };
        Self { repartition: VecDeque::new(), process: VecDeque::new(), bytes: 0, last_batches }
    }

    /// Adds the next record of a partition.
    pub(super) fn push(&mut self, pending: Pending) {
        assert!(
            self.last_of(pending.partition).is_none_or(|last| last < pending.offset),
            "offsets of a partition must increase: {:?} comes after {:?}",
            pending.offset,
            self.last_of(pending.partition)
        );
        self.bytes += pending.bytes;
        match pending.partition {
            Partition::Source { .. } => self.repartition.push_back(pending),
            Partition::Shard(_) => self.process.push_back(pending),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.repartition.len() + self.process.len()
    }

    /// The offset of the last record of a partition, if it is among the last ones of its queue.
    fn last_of(&self, partition: Partition) -> Option<Offset> {
        let queue = match partition {
            Partition::Source { .. } => &self.repartition,
            Partition::Shard(_) => &self.process,
        };
        let mut last = queue.iter().rev().take(CHECKED_RECORDS);
        last.find(|pending| pending.partition == partition).map(|pending| pending.offset)
    }

    /// Bytes of all records, as they were read.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Removes the first records of a queue, as they are committed.
    pub(super) fn settled(&mut self, verb: Verb, count: usize) {
        let settled: usize = self.queue(verb).drain(..count).map(|pending| pending.bytes).sum();
        self.bytes -= settled;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The verb of the next batch: the one whose first record is older, so under backlog the record that has waited longest
    /// goes first. Neither verb starves the other.
    pub(super) fn turn(&mut self) -> Option<Verb> {
        let last = self.last_batches;
        let verb = match (self.repartition.front(), self.process.front()) {
            (None, None) => return None,
            (Some(_), None) => Verb::Repartition,
            (None, Some(_)) => Verb::Process,
            (Some(repartition), Some(process)) => {
                let older = if repartition.timestamp < process.timestamp { Verb::Repartition } else { Verb::Process };
                if last.verb == older && last.count == MOST_IN_A_ROW { older.other() } else { older }
            }
        };
        let in_a_row = if last.verb == verb { last.count + 1 } else { 1 };
        self.last_batches = BatchStreak { verb, count: in_a_row.min(MOST_IN_A_ROW) };
        Some(verb)
    }

    /// The records that wait for a verb.
    pub(super) fn queue(&mut self, verb: Verb) -> &mut VecDeque<Pending> {
        match verb {
            Verb::Repartition => &mut self.repartition,
            Verb::Process => &mut self.process,
        }
    }

    /// Forgets the records of partitions that are no longer ours.
    pub(super) fn drop_partitions(&mut self, partitions: &[Partition]) {
        for queue in [&mut self.repartition, &mut self.process] {
            queue.retain(|pending| !partitions.contains(&pending.partition));
        }
        self.bytes = self.repartition.iter().chain(&self.process).map(|pending| pending.bytes).sum();
    }

    /// Forgets the records of a partition. Returns the offset of the first of them.
    pub(super) fn rewind(&mut self, partition: Partition) -> Option<Offset> {
        let queues = self.repartition.iter().chain(&self.process);
        let first = queues.filter(|pending| pending.partition == partition).map(|pending| pending.offset).min();
        self.drop_partitions(&[partition]);
        first
    }

    /// Forgets all records.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }
}
