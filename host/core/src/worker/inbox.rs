use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::broker::{Consumed, Partition};
use super::plugins::Answers;
use super::process::Need;
use crate::record::{
    Class, ControlPosition, Coordinates, DeadLetter, Offset, Record, Repartitioned, ShardId, Tenant, TenantId, Tenants,
    Timestamp, from_repartitioned, shard_of, to_repartitioned,
};

/// A record that was read and is not yet committed. It stays here until its transaction is, so that an aborted batch
/// runs again from memory, with the answers that it was given.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    /// Of a source partition: already in the repartition topic's form, unless it is bound for the dead letters.
    pub(super) record: Record,
    /// Where it was first consumed.
    pub(super) source: Coordinates,
    /// `None` where it could not be decoded.
    pub(super) tenant: Option<TenantId>,
    pub(super) fate: Disposition,
    /// The newest change of a route that its router knew of when it read it.
    pub(super) routes: Option<ControlPosition>,
    pub(super) lookups: LookupProgress,
    /// Its outputs are flushed one by one: the broker has refused them, or only the batch that they made together.
    pub(super) one_by_one: bool,
    /// Of the source record.
    timestamp: Option<Timestamp>,
    /// Bytes, as it was read.
    bytes: usize,
}

/// What is to be done with a record.
#[derive(Debug)]
pub(super) enum Disposition {
    Repartition { shard: ShardId },
    Process { shard: ShardId, tenant: Arc<Tenant> },
    DeadLetter { letter: DeadLetter, minimal: bool },
}

/// How far a message is with its lookups.
#[derive(Debug, Default)]
pub(super) struct LookupProgress {
    pub(super) answers: Answers,
    pub(super) need: Option<Need>,
    pub(super) unusable: u32,
    pub(super) spent: Duration,
}

impl Pending {
    /// `aliases`: of the consumed topics, by their places in `Partition::Source`. `routes`: the newest change of a route that
    /// this worker knows of. By the time a record is sent it may know of another, but what made it read the topic is older.
    pub(super) fn new(
        consumed: Consumed,
        aliases: &[Arc<str>],
        mut routes: Option<ControlPosition>,
        shards: u32,
        tenants: &mut Tenants,
    ) -> Self {
        let Consumed { partition, offset, record } = consumed;
        let bytes = record.bytes();
        let mut tenant = None;
        let mut decode = |record: &Record| {
            let decoded = tenants.decode(&record.headers);
            tenant = decoded.as_ref().ok().map(|tenant| tenant.id.clone());
            decoded
        };
        let mut timestamp = record.timestamp;
        let (record, source, fate) = match partition {
            Partition::Source { topic, index } => {
                let source = Coordinates { topic: Arc::clone(&aliases[topic]), partition: index, offset };
                match decode(&record) {
                    Ok(tenant) => {
                        let shard = shard_of(&tenant.id, shards);
                        (to_repartitioned(record, &source, routes), source, Disposition::Repartition { shard })
                    }
                    Err(letter) => (record, source, Disposition::DeadLetter { letter, minimal: false }),
                }
            }
            Partition::Shard(index) => match from_repartitioned(record, aliases) {
                Ok(Repartitioned { record, source, routes: routers }) => {
                    routes = routers;
                    timestamp = record.timestamp;
                    let fate = match decode(&record) {
                        Ok(tenant) => Disposition::Process { shard: index, tenant },
                        Err(letter) => Disposition::DeadLetter { letter, minimal: false },
                    };
                    (record, source, fate)
                }
                Err((record, error)) => {
                    let source = Coordinates { topic: Arc::from("repartition"), partition: index.into(), offset };
                    let letter = DeadLetter::new(Class::Envelope, error.to_string());
                    (record, source, Disposition::DeadLetter { letter, minimal: false })
                }
            },
        };
        let lookups = LookupProgress::default();
        Self { partition, offset, record, source, tenant, fate, routes, lookups, one_by_one: false, timestamp, bytes }
    }

    /// The broker refused what came of this record when it was alone in its transaction: its outputs are sent one by
    /// one, then the record becomes a dead letter, and when that is refused too, a dead letter by its coordinates. Gives
    /// false when even that was refused.
    pub(super) fn refused(&mut self, reason: &str) -> bool {
        match &mut self.fate {
            Disposition::DeadLetter { minimal: true, .. } => return false,
            Disposition::DeadLetter { minimal, .. } => *minimal = true,
            Disposition::Process { .. } if !self.one_by_one => self.one_by_one = true,
            Disposition::Repartition { .. } | Disposition::Process { .. } => {
                let letter = DeadLetter::new(Class::Output, reason);
                if let Disposition::Repartition { .. } = self.fate {
                    // Back to the source record's own form.
                    if let Ok(routed) = from_repartitioned(std::mem::take(&mut self.record), &[]) {
                        self.record = routed.record;
                    }
                }
                self.fate = Disposition::DeadLetter { letter, minimal: false };
            }
        }
        true
    }
}

/// Which verb a batch is of.
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

/// So many batches of one verb may come one after the other while the other waits: timestamps are the producers' own.
const MOST_IN_A_ROW: u32 = 4;

/// What was read and is not committed, by verb, each in the order of its partitions.
#[derive(Debug)]
pub(super) struct Inbox {
    route: VecDeque<Pending>,
    process: VecDeque<Pending>,
    bytes: usize,
    /// The verb of the last batches, and how many they were.
    last: (Verb, u32),
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { route: VecDeque::new(), process: VecDeque::new(), bytes: 0, last: (Verb::Repartition, 0) }
    }

    pub(super) fn push(&mut self, pending: Pending) {
        self.bytes += pending.bytes;
        match pending.partition {
            Partition::Source { .. } => self.route.push_back(pending),
            Partition::Shard(_) => self.process.push_back(pending),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.route.len() + self.process.len()
    }

    /// Bytes of all records, as they were read.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first records of a queue are committed.
    pub(super) fn settled(&mut self, verb: Verb, count: usize) {
        let settled: usize = self.queue(verb).drain(..count).map(|pending| pending.bytes).sum();
        self.bytes -= settled;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The verb of the next batch: the one whose first record is the older, so that under backlog what has waited longest
    /// is served first. Neither starves the other.
    pub(super) fn turn(&mut self) -> Option<Verb> {
        let verb = match (self.route.front(), self.process.front()) {
            (None, None) => return None,
            (Some(_), None) => Verb::Repartition,
            (None, Some(_)) => Verb::Process,
            (Some(route), Some(process)) => {
                let older = if route.timestamp < process.timestamp { Verb::Repartition } else { Verb::Process };
                if self.last == (older, MOST_IN_A_ROW) { older.other() } else { older }
            }
        };
        let in_a_row = if self.last.0 == verb { self.last.1 + 1 } else { 1 };
        self.last = (verb, in_a_row.min(MOST_IN_A_ROW));
        Some(verb)
    }

    pub(super) fn queue(&mut self, verb: Verb) -> &mut VecDeque<Pending> {
        match verb {
            Verb::Repartition => &mut self.route,
            Verb::Process => &mut self.process,
        }
    }

    /// Forgets the records of partitions that are no longer ours.
    pub(super) fn drop_partitions(&mut self, partitions: &[Partition]) {
        for queue in [&mut self.route, &mut self.process] {
            queue.retain(|pending| !partitions.contains(&pending.partition));
        }
        self.bytes = self.route.iter().chain(&self.process).map(|pending| pending.bytes).sum();
    }

    /// Forgets the records of a partition. Gives the offset of the first of them.
    pub(super) fn rewind(&mut self, partition: Partition) -> Option<Offset> {
        let queues = self.route.iter().chain(&self.process);
        let first = queues.filter(|pending| pending.partition == partition).map(|pending| pending.offset).min();
        self.drop_partitions(&[partition]);
        first
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }
}
