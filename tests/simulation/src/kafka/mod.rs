//! A Kafka in memory: the brokers and coordinators that the worker's promise rests on.
//!
//! | module | what it knows |
//! |---|---|
//! | `log` | records, and which of them a read_committed reader sees |
//! | `transactions` | producer epochs, and how transactions end |
//! | `group` | members, generations and offsets |
//!
//! Requests may be held up here and arrive late. Nothing here knows the worker, and nothing happens by itself:
//! `Cluster::tick` does the background work of brokers in small steps, in an order that the seed gives.

mod group;
mod log;
mod transactions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use switchboard_core::record::{
    Coordinates, Offset, PartitionIndex, Record, Repartitioned, ShardId, from_repartitioned,
};
use switchboard_core::worker::{GroupOffset, Partition};

pub(crate) use group::{ClientId, Consumer, Fencing, Membership, NotTaken, OFFSET_RETENTION, WITHOUT_MAP};
pub(crate) use log::{Log, ProducerId};
pub(crate) use transactions::Refusal;

pub(crate) use group::Group;
use transactions::Transactions;

/// A log that something is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Consumed(Partition),
    Changelog(ShardId),
    /// All output topics in one log, so that the order of outputs is known.
    Outputs,
    DeadLetters,
    /// The group's offsets.
    Offsets,
    /// The simulation's own log: what workers did, in their transactions.
    Notes,
}

/// The first producer of other applications.
const FOREIGN: ProducerId = 1 << 16;

/// A request that is held up in the network.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    Produce { place: Place, record: Record },
    Offsets { membership: Option<Membership>, offsets: Vec<(Partition, GroupOffset)> },
    End { commit: bool },
}

#[derive(Debug)]
struct Late {
    due: Duration,
    producer: ProducerId,
    epoch: i32,
    request: Request,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Error {
    Transaction(Refusal),
    Group(NotTaken),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Transaction(refusal)
    }
}

/// Brokers, coordinators and the network between them and the clients.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) now: Duration,
    pub(crate) random: fastrand::Rng,
    /// Aliases of the source topics, by their numbers in `Partition::Source` here.
    pub(crate) sources: Vec<Arc<str>>,
    /// How many partitions each source topic has by now.
    pub(crate) partition_counts: Vec<u32>,
    pub(crate) logs: BTreeMap<Place, Log>,
    pub(crate) transactions: Transactions,
    pub(crate) group: Group,
    late: Vec<Late>,
    /// The longest time that the coordinator takes to end a transaction, in milliseconds.
    pub(crate) slowest_end: u64,
    /// Until then the coordinators answer nothing and write no markers.
    pub(crate) coordinators_back: Duration,
    /// Transactions of other applications that are open in sources: where, whose, and whether they will be committed.
    foreign: Vec<(Place, ProducerId, bool)>,
    /// The checkpoints on the disk of each slot.
    pub(crate) checkpoints: BTreeMap<(ProducerId, ShardId), Checkpoint>,
}

/// The state of a changelog up to an offset.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    pub(crate) entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The offset to go on from.
    pub(crate) end: Offset,
}

impl Cluster {
    /// `partitions`: those that each source topic gets in the end.
    pub(crate) fn new(
        mut random: fastrand::Rng,
        sources: Vec<Arc<str>>,
        partitions: u32,
        shards: u32,
        fencing: Fencing,
    ) -> Self {
        let index = |index: u32| PartitionIndex::try_from(index).expect("few partitions");
        let of = |topic| (0..partitions).map(move |number| Partition::Source { topic, index: index(number) });
        let shards: Vec<ShardId> = (0..shards).map(|shard| shard.try_into().expect("few shards")).collect();
        let shard_partitions = shards.iter().map(|shard| Partition::Shard(*shard));
        let consumed = (0..sources.len()).flat_map(of).chain(shard_partitions).map(Place::Consumed);
        let changelogs = shards.iter().map(|shard| Place::Changelog(*shard));
        let places = consumed.chain(changelogs).chain([Place::Outputs, Place::DeadLetters, Place::Notes]);
        Self {
            now: Duration::ZERO,
            partition_counts: sources.iter().map(|_| random.u32(1..=partitions)).collect(),
            slowest_end: random.choice([0, 5, 60, 400]).expect("not empty"),
            random,
            sources,
            logs: places.map(|place| (place, Log::default())).collect(),
            transactions: Transactions::default(),
            group: Group::new(shards.clone(), fencing),
            late: Vec::new(),
            coordinators_back: Duration::ZERO,
            foreign: Vec::new(),
            checkpoints: BTreeMap::new(),
        }
    }

    /// The partition of a source that coordinates are of.
    pub(crate) fn source(&self, source: &Coordinates) -> Option<Partition> {
        let topic = self.sources.iter().position(|alias| *alias == source.topic)?;
        Some(Partition::Source { topic, index: source.partition })
    }

    /// Where a record of the repartition topic comes from.
    pub(crate) fn repartitioned(&self, record: &Record) -> Option<(Partition, Offset)> {
        let Repartitioned { origin, .. } = from_repartitioned(record.clone(), &[]).ok()?;
        Some((self.source(&origin)?, origin.offset))
    }

    pub(crate) fn log(&mut self, place: Place) -> &mut Log {
        self.logs.get_mut(&place).expect("all places have a log")
    }

    /// Another application appends a record to a source within a transaction that stays open for a while. Returns the
    /// record's offset.
    pub(crate) fn append_open(&mut self, place: Place, record: Record, commit: bool) -> Offset {
        let producer = FOREIGN + u32::try_from(self.foreign.len()).expect("few transactions");
        self.foreign.push((place, producer, commit));
        self.log(place).append(Some(producer), record)
    }

    /// Ends a transaction of another application.
    fn end_foreign(&mut self) {
        if !self.foreign.is_empty() {
            // The last one: its number is free again.
            let (place, producer, commit) = self.foreign.pop().expect("it is not empty");
            self.log(place).mark(producer, commit);
        }
    }

    /// Writes a checkpoint of a changelog to the disk of a slot.
    pub(crate) fn write_checkpoint(&mut self, slot: ProducerId, shard: ShardId) {
        let log = self.log(Place::Changelog(shard));
        let mut entries = BTreeMap::new();
        for (_, record) in log.committed() {
            let key = record.key.clone().unwrap_or_default();
            match &record.value {
                Some(value) => entries.insert(key, value.clone()),
                None => entries.remove(&key),
            };
        }
        let end = log.stable_end();
        self.checkpoints.insert((slot, shard), Checkpoint { entries, end });
    }

    /// Produce, as part of a transaction.
    pub(crate) fn produce(
        &mut self,
        producer: ProducerId,
        epoch: i32,
        place: Place,
        record: &Record,
    ) -> Result<(), Error> {
        self.transactions.add(producer, epoch, place, self.now)?;
        self.log(place).append(Some(producer), record.clone());
        Ok(())
    }

    /// TxnOffsetCommit.
    pub(crate) fn add_offsets(
        &mut self,
        producer: ProducerId,
        epoch: i32,
        membership: Option<Membership>,
        offsets: &[(Partition, GroupOffset)],
    ) -> Result<(), Error> {
        self.transactions.add(producer, epoch, Place::Offsets, self.now)?;
        self.group.add_offsets(producer, membership, offsets).map_err(Error::Group)
    }

    /// Holds a request back. It arrives some time later, whatever its sender does meanwhile.
    pub(crate) fn hold(&mut self, producer: ProducerId, epoch: i32, request: Request) {
        let due = self.now + Duration::from_millis(self.random.u64(1..3000));
        self.late.push(Late { due, producer, epoch, request });
    }

    fn deliver(&mut self) {
        let Some(index) = self.late.iter().position(|late| late.due <= self.now) else { return };
        let Late { producer, epoch, request, .. } = self.late.swap_remove(index);
        // Its sender no longer waits for an answer.
        let _ = match request {
            Request::Produce { place, record } => self.transactions.verify(producer, epoch, place).map(|()| {
                self.log(place).append(Some(producer), record);
            }),
            Request::Offsets { membership, offsets } => {
                self.transactions.verify(producer, epoch, Place::Offsets).map(|()| {
                    let _ = self.group.add_offsets(producer, membership, &offsets);
                })
            }
            Request::End { commit } => self.transactions.end(producer, epoch, commit),
        };
    }

    /// One small step of the background work.
    pub(crate) fn tick(&mut self) {
        match self.random.u8(0..8) {
            0..=2 => self.mark(),
            3..=5 => {
                let clients: Vec<_> = self.group.clients.keys().copied().collect();
                if let Some(client) = self.random.choice(clients) {
                    self.group.exchange(client, self.now, &mut self.random);
                }
            }
            6 => self.deliver(),
            _ => {
                self.group.expire(self.now, &mut self.random);
                self.group.expire_offsets(self.now);
                if self.random.u8(0..16) == 0 {
                    self.end_foreign();
                }
                // A broker looks for transactions that are too old every 10 s.
                if self.random.u8(0..8) == 0 {
                    self.transactions.time_out(self.now);
                }
            }
        }
    }

    /// Writes one marker of a transaction that is ending. The order is random: the group's marker may be written before the
    /// changelog's.
    fn mark(&mut self) {
        if self.now < self.coordinators_back {
            return;
        }
        if let Some((producer, place)) = self.random.choice(self.transactions.unmarked()) {
            let commit = self.transactions.marked(producer, place);
            match place {
                Place::Offsets => self.group.mark(producer, commit, self.now),
                place => self.log(place).mark(producer, commit),
            }
        }
    }

    /// Whether nothing is under way that can still change the group's offsets, and the group has no members.
    pub(crate) fn operator_may_act(&self) -> bool {
        self.late.is_empty() && self.transactions.is_quiet() && self.group.is_empty()
    }

    /// Whether there is no request under way, no open transaction and no pending offset.
    pub(crate) fn is_quiet(&self) -> bool {
        self.late.is_empty() && self.foreign.is_empty() && self.transactions.is_quiet() && self.group.is_quiet()
    }
}
