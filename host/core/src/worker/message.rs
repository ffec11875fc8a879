//! A record that was read and is not yet settled, and what is to be done with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::ports::{Consumed, Partition};
use crate::record::{
    Barrier, Class, ControlPosition, Coordinates, DeadLetter, Offset, Record, Repartitioned, ShardId, Tenant, TenantId,
    Tenants, from_repartitioned, shard_of, to_repartitioned,
};

/// The records of a worker that are in memory. Each of them holds a part of it, wherever it is, and gives it back when it is
/// dropped.
#[derive(Debug, Default)]
pub(super) struct Memory {
    records: AtomicUsize,
    bytes: AtomicUsize,
}

impl Memory {
    /// The number of records.
    pub(super) fn records(&self) -> usize {
        self.records.load(Ordering::Relaxed)
    }

    /// Their size in bytes, as they were read.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// One record's part of the memory.
#[derive(Debug)]
struct Held {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Held {
    fn new(memory: &Arc<Memory>, bytes: usize) -> Self {
        memory.records.fetch_add(1, Ordering::Relaxed);
        memory.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { memory: Arc::clone(memory), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.records.fetch_sub(1, Ordering::Relaxed);
        self.memory.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A record that was read, in the form that it had in its source topic. A barrier, and a record of the repartition topic that
/// Switchboard did not write, stay as they are.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    pub(super) record: Record,
    /// The source topic, partition and offset that it comes from.
    pub(super) origin: Coordinates,
    /// The newest change of a route that the worker had read which read the source record.
    pub(super) routes: Option<ControlPosition>,
    _held: Held,
}

/// What is to be done with a record.
#[derive(Debug)]
pub(super) enum Disposition {
    /// It takes the hop: it is sent to its tenant's shard.
    Repartition { tenant: TenantId, shard: ShardId },
    /// Its tenant's release handles it.
    Process { tenant: Arc<Tenant>, shard: ShardId },
    /// It is sent to the dead-letter topic.
    DeadLetter { tenant: Option<TenantId>, letter: DeadLetter },
    /// It is a barrier: there is nothing to do.
    Skip,
}

/// What decides about a record, apart from the record itself.
pub(super) struct Decoder<'a, F> {
    /// The consumed topics, in the order of the indices of `Partition::Source`.
    pub(super) aliases: &'a [Arc<str>],
    /// The newest change of a route that this worker has read. The change that made it consume the topic is not newer. The
    /// worker may read newer changes before it sends the record.
    pub(super) routes: Option<ControlPosition>,
    pub(super) shards: u32,
    pub(super) tenants: &'a mut Tenants,
    pub(super) memory: &'a Arc<Memory>,
    /// Whether a record of this source goes directly to this shard.
    pub(super) is_direct: F,
}

impl<F: Fn(Partition, ShardId) -> bool> Decoder<'_, F> {
    /// The message of a record that was just read, and what is to be done with it.
    pub(super) fn decode(self, Consumed { partition, offset, record }: Consumed) -> (Arc<Message>, Disposition) {
        let bytes = record.bytes();
        let (record, origin, routes, disposition) = match partition {
            Partition::Source { topic, index } => {
                let origin = Coordinates { topic: Arc::clone(&self.aliases[topic]), partition: index, offset };
                let disposition = match self.tenants.decode(&record.headers) {
                    Ok(tenant) => {
                        let shard = shard_of(&tenant.id, self.shards);
                        if (self.is_direct)(partition, shard) {
                            Disposition::Process { tenant, shard }
                        } else {
                            Disposition::Repartition { tenant: tenant.id.clone(), shard }
                        }
                    }
                    Err(letter) => Disposition::DeadLetter { tenant: None, letter },
                };
                (record, origin, self.routes, disposition)
            }
            Partition::Shard(shard) => {
                let here = || Coordinates { topic: Arc::from("repartition"), partition: shard.into(), offset };
                if Barrier::from_record(&record).is_some() {
                    (record, here(), self.routes, Disposition::Skip)
                } else {
                    match from_repartitioned(record, self.aliases) {
                        Ok(Repartitioned { record, origin, routes }) => {
                            let disposition = match self.tenants.decode(&record.headers) {
                                Ok(tenant) if shard_of(&tenant.id, self.shards) == shard => {
                                    Disposition::Process { tenant, shard }
                                }
                                // It was sent with another setting of the tenants' headers.
                                Ok(tenant) => {
                                    let shard = shard_of(&tenant.id, self.shards);
                                    Disposition::Repartition { tenant: tenant.id.clone(), shard }
                                }
                                Err(letter) => Disposition::DeadLetter { tenant: None, letter },
                            };
                            (record, origin, routes, disposition)
                        }
                        Err((record, error)) => {
                            let letter = DeadLetter::new(Class::Envelope, error.to_string());
                            (record, here(), self.routes, Disposition::DeadLetter { tenant: None, letter })
                        }
                    }
                }
            }
        };
        let held = Held::new(self.memory, bytes);
        (Arc::new(Message { partition, offset, record, origin, routes, _held: held }), disposition)
    }
}

impl Message {
    /// The record as it is sent to the repartition topic.
    pub(super) fn to_hop(&self) -> Record {
        to_repartitioned(self.record.clone(), &self.origin, self.routes)
    }
}
