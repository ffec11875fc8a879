//! Kafka, as the worker needs it.
//!
//! Calls return soon. A call that would have to wait for a broker returns `NotNow` or `Fault::Retriable`, and the worker
//! repeats it. No implementation retries, seeks or commits by itself, so the worker alone decides what happens in which
//! order.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::record::{Offset, PartitionIndex, Record, ShardId};

/// A partition that a worker consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Partition {
    /// A partition of a source topic.
    Source {
        /// The index of the topic's alias in the list that `Broker::subscribe` was given.
        topic: usize,
        /// The partition of the topic.
        index: PartitionIndex,
    },
    /// A partition of the repartition topic.
    Shard(ShardId),
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

/// An event of the group's consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A record of a partition that was assigned.
    Record(Consumed),
    /// Partitions are ours. The group waits for an `assign` with some, all or none of them. The others may be assigned in
    /// later calls.
    Assigned(Vec<Partition>),
    /// Partitions have to be given back. They stay ours until `unassign`, and the group waits for that.
    Revoked(Vec<Partition>),
    /// Partitions are no longer ours. Other members may already read them.
    Lost(Vec<Partition>),
    /// The consumer cannot go on. The worker has to start again from what is committed.
    Failed(Cause),
    /// Another member has our static identity.
    Fenced(Cause),
    /// There was no event within the time given.
    Nothing,
}

/// Where to start reading an assigned partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The partition.
    pub partition: Partition,
    /// The offset of the first record to read.
    pub offset: Offset,
    /// Whether nothing is fetched before `resume`.
    pub paused: bool,
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

/// The code of an error in Kafka's protocol. Negative codes are the client library's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KafkaErrorCode(i32);

impl KafkaErrorCode {
    /// The error of this code.
    pub const fn new(code: i32) -> Self {
        Self(code)
    }

    /// The code.
    pub const fn get(self) -> i32 {
        self.0
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Cause {
    /// For people.
    pub text: String,
    /// For programs, where there is one.
    pub code: Option<KafkaErrorCode>,
}

impl Cause {
    /// A cause with this text and code.
    pub fn new(text: impl Into<String>, code: Option<KafkaErrorCode>) -> Self {
        Self { text: text.into(), code }
    }
}

impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self { text, code: None }
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// There is no answer at the moment. Ask again later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotNow(pub Cause);

/// How a transactional call failed. It says what to do next, never which record to skip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Repeat the same call.
    #[error("{0}")]
    Retriable(Cause),
    /// The broker refuses a record as such: it is too large or invalid, its topic does not exist, or writing is not allowed.
    /// Abort.
    #[error("the broker refuses a record: {0}")]
    Refused(Cause),
    /// The call took too long. Abort. A smaller transaction may succeed.
    #[error("timed out: {0}")]
    TimedOut(Cause),
    /// Abort, and run the batch again.
    #[error("{0}")]
    Abortable(Cause),
    /// The producer is unusable, or the outcome is unknown.
    #[error("{0}")]
    Fatal(Cause),
    /// The group does not accept our offsets. Start again from what is committed.
    #[error("not a member of the group any more: {0}")]
    NotAMember(Cause),
    /// The producer's epoch is no longer valid. Another producer has our transactional id, or the coordinator aborted a
    /// transaction that was open for longer than `transaction.timeout.ms`.
    #[error("fenced: {0}")]
    Fenced(Cause),
    /// Another member has our static identity.
    #[error("fenced: {0}")]
    FencedInstance(Cause),
}

impl Fault {
    /// Why the call failed.
    pub fn cause(&self) -> &Cause {
        match self {
            Self::Retriable(cause)
            | Self::Refused(cause)
            | Self::TimedOut(cause)
            | Self::Abortable(cause)
            | Self::Fatal(cause)
            | Self::NotAMember(cause)
            | Self::Fenced(cause)
            | Self::FencedInstance(cause) => cause,
        }
    }
}

/// The Kafka clients of one worker: a consumer in the group, a consumer that restores state, a transactional producer.
pub trait Broker {
    /// The monotonic time since some fixed point.
    fn now(&self) -> Duration;

    /// Subscribes to the topics of the aliases `consumed`, and to the repartition topic. The first call joins the group.
    /// Partitions of topics that are no longer consumed are revoked, and their committed offsets stay. `aliases` has all
    /// aliases that were ever consumed; it only grows, and `Partition::Source` has its indices.
    fn subscribe(&mut self, aliases: &[Arc<str>], consumed: &[Arc<str>]);

    /// The next event. Waits for at most `wait`.
    fn poll(&mut self, wait: Duration) -> Event;

    /// The committed offsets, `None` where there is none. There is no answer while a transaction has one of them pending.
    fn stable_offsets(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Offset>>, NotNow>;

    /// The first offset of the log, and the offset after its last record.
    fn log_bounds(&mut self, partition: Partition) -> Result<Range<Offset>, NotNow>;

    /// Answers `Event::Assigned`, and starts to read these partitions.
    fn assign(&mut self, starts: &[Start]);

    /// Answers `Event::Revoked` and `Event::Lost`. Partitions that were never read are not in the list. A partition that was
    /// paused is not paused when it is assigned again.
    fn unassign(&mut self, partitions: &[Partition]);

    /// Holds back the records of these partitions until `resume`, also those that are already fetched. Other events still
    /// arrive.
    fn pause(&mut self, partitions: &[Partition]);

    /// Moves a paused partition: after `resume` its records come from this offset on.
    fn seek(&mut self, partition: Partition, offset: Offset);

    /// Goes on with the records of paused partitions.
    fn resume(&mut self, partitions: &[Partition]);

    /// The high watermark of a changelog: its end for a read_uncommitted client.
    fn changelog_end(&mut self, shard: ShardId) -> Result<Offset, NotNow>;

    /// The start of a changelog and its last stable offset, which is its end for a read_committed client.
    fn changelog_stable_bounds(&mut self, shard: ShardId) -> Result<Range<Offset>, NotNow>;

    /// Starts to read a shard's changelog with read_committed. `bounds`: its start and last stable offset as just returned.
    /// An implementation may take the beginning of the log from elsewhere, as from a checkpoint.
    fn start_restore(&mut self, shard: ShardId, bounds: Range<Offset>);

    /// The next record of the changelogs that are being read. Waits for at most `wait`.
    fn poll_restore(&mut self, wait: Duration) -> Restored;

    /// Stops reading a shard's changelog.
    fn stop_restore(&mut self, shard: ShardId);

    /// Whether the group would fence our offsets: the assignment is not lost, and there is a generation and a member id.
    /// Kafka accepts offsets without these from anybody, unfenced.
    fn is_live_member(&self) -> bool;

    /// Whether the producer lost a connection or gave up a request since it was created. A request that is held up in the
    /// network could end a later transaction of the same epoch. KIP-890 prevents that; librdkafka does not implement it.
    fn producer_is_suspect(&self) -> bool;

    /// Creates a new producer with a new epoch. A transaction that the former producer left open is ended before this
    /// returns.
    fn renew_producer(&mut self) -> Result<(), Fault>;

    /// Opens a transaction.
    fn begin(&mut self) -> Result<(), Fault>;

    /// Hands a record over. It is certainly written after `flush`.
    fn send(&mut self, destination: Destination<'_>, record: &Record) -> Result<(), Fault>;

    /// Writes all records that were sent.
    fn flush(&mut self) -> Result<(), Fault>;

    /// Adds offsets to the transaction: for each partition, the offset of the next record to read.
    fn send_offsets(&mut self, offsets: &[(Partition, Offset)]) -> Result<(), Fault>;

    /// Commits the transaction.
    fn commit(&mut self) -> Result<(), Fault>;

    /// Aborts the transaction.
    fn abort(&mut self) -> Result<(), Fault>;

    /// Leaves the group without a commit, and joins it again with the same topics. Drops the producer. The worker has
    /// forgotten everything that it read.
    fn restart(&mut self) -> Result<(), Fault>;
}
