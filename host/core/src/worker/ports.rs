//! Kafka, as the worker needs it: one trait for each thing that code may be allowed to do.
//!
//! Code that takes over shards gets a [`Consumer`] and a [`Changelog`], so it cannot commit. `transaction` gets a
//! [`Producer`], so it cannot change what is read.
//!
//! Calls return soon. A call that would have to wait for a broker returns `NotNow` or `Fault::Retriable`, and the worker
//! repeats it. No implementation retries, seeks or commits by itself, so the worker alone decides what happens in which
//! order.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::fault::{Cause, Fault, NotNow};
use crate::record::{Offset, PartitionIndex, Record, ShardId};

/// A partition that a worker consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Partition {
    /// A partition of a source topic. The owner of the shard that it is anchored to reads it: see [`anchor`].
    Source {
        /// The index of the topic's alias in the list that `Consumer::consume` was given.
        topic: usize,
        /// The partition of the topic.
        index: PartitionIndex,
    },
    /// A partition of the repartition topic.
    Shard(ShardId),
}

/// The shard whose owner reads a partition of a source topic, with this number of shards.
///
/// The rule depends on nothing that can change, so two hosts never disagree about it. A topic whose number of partitions
/// is a multiple of the number of shards is spread as evenly as the shards are.
pub fn anchor(partition: PartitionIndex, shards: u32) -> ShardId {
    let shards = i32::try_from(shards).expect("the number of a topic's partitions is an i32");
    ShardId::new(partition.get() % shards).expect("the rest of a number that is not negative")
}

/// Where a record is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    /// The topic of this alias. The partition follows from the key.
    Output(&'a str),
    /// This partition of the repartition topic.
    Shard(ShardId),
    /// This partition of the changelog.
    Changelog(ShardId),
    /// The dead-letter topic.
    DeadLetters,
}

/// A record as it was consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    /// The partition that it was read from.
    pub partition: Partition,
    /// Its offset there.
    pub offset: Offset,
    /// The record itself.
    pub record: Record,
}

/// An event of the consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A record of a partition that is being read.
    Record(Consumed),
    /// Shards are ours, and with them the source partitions that are anchored to them. The group waits for
    /// `accept_assignment`.
    Assigned(Vec<ShardId>),
    /// Shards have to be given back. They stay ours until `give_back`, and the group waits for that.
    Revoked(Vec<ShardId>),
    /// Shards are no longer ours. Other members may already read them. The group waits for `give_back` here too.
    Lost(Vec<ShardId>),
    /// The consumer cannot go on. The worker has to start again from what is committed.
    Failed(Cause),
    /// Another member has our static identity.
    Fenced(Cause),
    /// There was no event within the time given.
    Nothing,
}

/// Where to start reading a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The partition.
    pub partition: Partition,
    /// The offset of the first record to read.
    pub offset: Offset,
    /// Whether nothing is fetched before `resume`.
    pub paused: bool,
}

/// What the group keeps for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffset {
    /// The offset of the first record that is not settled.
    pub offset: Offset,
    /// A text that is committed with it: the worker lists there which later records are settled, in the format of
    /// `docs/internal-topics.md`. An operator's tool leaves it empty.
    pub metadata: String,
}

/// An event of the consumer that restores state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// A record of a shard's changelog.
    Record {
        /// The shard.
        shard: ShardId,
        /// The record's key.
        key: Vec<u8>,
        /// The record's value. `None`: the key is deleted.
        value: Option<Vec<u8>>,
    },
    /// The stable end of the changelog is reached, as it was when the restore of the shard began, or later.
    End {
        /// The shard.
        shard: ShardId,
    },
    /// There was nothing within the time given.
    Nothing,
}

/// A clock.
pub trait Clock {
    /// The monotonic time since some fixed point.
    fn now(&self) -> Duration;
}

/// A member of the consumer group, and a consumer of the source partitions that follow from its shards.
///
/// The group assigns the shards of the repartition topic and nothing else.
pub trait Consumer: Clock {
    /// Joins the group, if this is not a member yet.
    ///
    /// # Errors
    /// When the client cannot be created.
    fn join(&mut self) -> Result<(), Fault>;

    /// Leaves the group without a commit and stops all reading.
    fn leave(&mut self);

    /// Names the source topics. `aliases` has all that were ever consumed; it only grows, and `Partition::Source` has its
    /// indices. `consumed` says which of them are consumed now.
    fn consume(&mut self, aliases: &[Arc<str>], consumed: &[usize]);

    /// The number of partitions of a consumed source topic, as far as it is known. 0: the topic does not exist, or nobody
    /// answered yet. It grows when partitions are added. Does not wait.
    fn partition_count(&mut self, topic: usize) -> u32;

    /// The next event. Waits for at most `wait`.
    fn poll(&mut self, wait: Duration) -> Event;

    /// The committed offsets with their metadata, `None` where there is none. There is no answer while a transaction has one of
    /// them pending.
    ///
    /// # Errors
    /// When there is no answer at the moment.
    fn stable_offsets(&mut self, partitions: &[Partition]) -> Result<Vec<Option<GroupOffset>>, NotNow>;

    /// The first offset of the log, and the offset after its last record.
    ///
    /// # Errors
    /// When there is no answer at the moment.
    fn log_bounds(&mut self, partition: Partition) -> Result<Range<Offset>, NotNow>;

    /// Answers `Event::Assigned`. Nothing of these shards is read before `start`.
    fn accept_assignment(&mut self);

    /// Answers `Event::Revoked` and `Event::Lost`. `shards`: those that were started. A shard that was paused is not paused
    /// when it is started again.
    fn give_back(&mut self, shards: &[ShardId]);

    /// Starts to read shards of this member, or source partitions.
    fn start(&mut self, starts: &[Start]);

    /// Stops reading these source partitions.
    fn stop(&mut self, sources: &[Partition]);

    /// Holds back the records of these partitions until `resume`, also those that are already fetched. Other events still
    /// arrive.
    fn pause(&mut self, partitions: &[Partition]);

    /// Moves a paused partition: after `resume` its records come from this offset on.
    fn seek(&mut self, partition: Partition, offset: Offset);

    /// Goes on with the records of paused partitions.
    fn resume(&mut self, partitions: &[Partition]);
}

/// The changelogs of shards, for restores.
pub trait Changelog {
    /// The high watermark of a changelog: its end for a read_uncommitted client.
    ///
    /// # Errors
    /// When there is no answer at the moment.
    fn changelog_end(&mut self, shard: ShardId) -> Result<Offset, NotNow>;

    /// The start of a changelog and its last stable offset, which is its end for a read_committed client.
    ///
    /// # Errors
    /// When there is no answer at the moment.
    fn changelog_stable_bounds(&mut self, shard: ShardId) -> Result<Range<Offset>, NotNow>;

    /// Starts to read a shard's changelog with read_committed. `bounds`: its start and last stable offset as just returned.
    /// An implementation may take the beginning of the log from elsewhere, as from a checkpoint.
    fn start_restore(&mut self, shard: ShardId, bounds: Range<Offset>);

    /// The next record of the changelogs that are being read. Waits for at most `wait`.
    fn poll_restore(&mut self, wait: Duration) -> Restored;

    /// Stops reading a shard's changelog.
    fn stop_restore(&mut self, shard: ShardId);
}

/// A transactional producer that sends offsets as a member of the group.
pub trait Producer: Clock {
    /// Whether the group would fence our offsets: the assignment is not lost, and there is a generation and a member id.
    /// Kafka accepts offsets without these from anybody, unfenced.
    fn is_live_member(&self) -> bool;

    /// Whether the producer lost a connection or gave up a request since it was created. A request that is held up in the
    /// network could end a later transaction of the same epoch. KIP-890 prevents that; librdkafka does not implement it.
    fn producer_is_suspect(&self) -> bool;

    /// Creates a new producer with a new epoch. A transaction that the former producer left open is ended before this
    /// returns.
    ///
    /// # Errors
    /// When there is no new producer yet.
    fn renew_producer(&mut self) -> Result<(), Fault>;

    /// Drops the producer. What it has not sent is never sent.
    fn drop_producer(&mut self);

    /// Opens a transaction.
    ///
    /// # Errors
    /// When none could be opened.
    fn begin(&mut self) -> Result<(), Fault>;

    /// Hands a record over. It is certainly written after `flush`.
    ///
    /// # Errors
    /// When the record cannot be sent. The transaction can only be aborted, unless the fault is retriable.
    fn send(&mut self, destination: Destination<'_>, record: &Record) -> Result<(), Fault>;

    /// Writes all records that were sent.
    ///
    /// # Errors
    /// When one of them is not written.
    fn flush(&mut self) -> Result<(), Fault>;

    /// Adds offsets to the transaction, all in one request.
    ///
    /// # Errors
    /// When the group does not take them.
    fn send_offsets(&mut self, offsets: &[(Partition, GroupOffset)]) -> Result<(), Fault>;

    /// Commits the transaction.
    ///
    /// # Errors
    /// When it is not committed, or its outcome is not known.
    fn commit(&mut self) -> Result<(), Fault>;

    /// Aborts the transaction.
    ///
    /// # Errors
    /// When that is not known to have worked.
    fn abort(&mut self) -> Result<(), Fault>;
}

/// All Kafka clients of one worker.
pub trait Broker: Consumer + Changelog + Producer {}

impl<B: Consumer + Changelog + Producer> Broker for B {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_with_a_multiple_of_the_shards_is_spread_evenly() {
        for (partitions, shards) in [(8, 8), (24, 8), (16, 2), (5, 1)] {
            let mut counts = vec![0; shards as usize];
            for partition in 0..partitions {
                let shard = anchor(PartitionIndex::new(partition).unwrap(), shards);
                counts[usize::try_from(shard.get()).unwrap()] += 1;
            }
            assert!(counts.iter().all(|count| *count == counts[0]), "{partitions} over {shards}: {counts:?}");
        }
    }
}
