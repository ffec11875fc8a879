//! Kafka, as the worker needs it.
//!
//! Calls return soon: what has to wait for a broker says `NotNow` or `Fault::Retriable`, and the worker asks again.
//! No implementation retries, seeks or commits by itself, so that every order of events is the worker's own.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::record::{Offset, PartitionIndex, Record, ShardId};

/// A partition that a worker consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Partition {
    /// Of a source topic, by its alias's place in `Broker::subscribe`.
    Source { topic: usize, index: PartitionIndex },
    /// Of the repartition topic.
    Shard(ShardId),
}

/// Where a record is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    /// A topic's alias; the partition follows from the key.
    Output(&'a str),
    Shard(ShardId),
    Changelog(ShardId),
    DeadLetters,
}

/// A record with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    pub partition: Partition,
    pub offset: Offset,
    pub record: Record,
}

/// What the group consumer has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Record(Consumed),
    /// Partitions are ours. The group waits for an `assign`, with some, all or none of them; others may follow later.
    Assigned(Vec<Partition>),
    /// Partitions stay ours until we `unassign` them; until then the group waits.
    Revoked(Vec<Partition>),
    /// Partitions are somebody else's already.
    Lost(Vec<Partition>),
    /// The consumer cannot go on: start again from what is committed.
    Failed(Cause),
    /// Another member has our static identity.
    Fenced(Cause),
    /// Nothing came within the time given.
    Nothing,
}

/// Where to read an assigned partition from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    pub partition: Partition,
    pub offset: Offset,
    /// Nothing is fetched before `resume`.
    pub paused: bool,
}

/// What the restore consumer has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    Record {
        shard: ShardId,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    /// The log's stable end, as it was when the shard's restore began or later, has been reached.
    End {
        shard: ShardId,
    },
    /// Nothing came within the time given.
    Nothing,
}

/// The code of an error, as Kafka's protocol numbers them. Negative codes are a client's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KafkaErrorCode(i32);

impl KafkaErrorCode {
    pub const fn new(code: i32) -> Self {
        Self(code)
    }

    pub const fn get(self) -> i32 {
        self.0
    }
}

/// Why a call failed: text for people, and the error's code for programs, where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Cause {
    pub text: String,
    pub code: Option<KafkaErrorCode>,
}

impl Cause {
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

/// The answer cannot be had at the moment; ask again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotNow(pub Cause);

/// How a transactional call failed: what may be done next, never which record to skip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The same call again.
    #[error("{0}")]
    Retriable(Cause),
    /// The broker refuses a record for itself: too large, invalid, no such topic, not allowed. Abort.
    #[error("the broker refuses a record: {0}")]
    Refused(Cause),
    /// It took too long. Abort; a smaller transaction may go through.
    #[error("timed out: {0}")]
    TimedOut(Cause),
    /// Abort, and run the batch again.
    #[error("{0}")]
    Abortable(Cause),
    /// The producer is of no more use, or the outcome is unknown.
    #[error("{0}")]
    Fatal(Cause),
    /// The group does not take offsets from us: start again from what is committed.
    #[error("not a member of the group any more: {0}")]
    NotAMember(Cause),
    /// The producer's epoch is not valid any more: another one has our transactional id, or the coordinator ended a
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

/// One worker's Kafka: a consumer in the group, a consumer for restores, a transactional producer.
pub trait Broker {
    /// Monotonic time since some fixed point.
    fn now(&self) -> Duration;

    /// What the group consumer reads beside the repartition topic: `consumed`, aliases of `aliases`, which only ever grows. The first
    /// call joins the group. Partitions of topics that are not consumed any more are revoked; their offsets stay.
    fn subscribe(&mut self, aliases: &[Arc<str>], consumed: &[Arc<str>]);

    /// The next event, waiting for at most `wait`.
    fn poll(&mut self, wait: Duration) -> Event;

    /// Committed offsets, none pending in anybody's transaction; `None` where there is none.
    fn stable_offsets(&mut self, partitions: &[Partition]) -> Result<Vec<Option<Offset>>, NotNow>;

    /// The first offset and the one after the last.
    fn log_bounds(&mut self, partition: Partition) -> Result<Range<Offset>, NotNow>;

    /// Answers `Event::Assigned`, and starts to read partitions that were assigned.
    fn assign(&mut self, starts: &[Start]);

    /// Answers `Event::Revoked` and `Event::Lost`; those of the partitions that were never read are not listed.
    /// What was paused is not paused any more when it comes back.
    fn unassign(&mut self, partitions: &[Partition]);

    /// Records of these do not come before `resume`, those that are fetched already included; events do.
    fn pause(&mut self, partitions: &[Partition]);

    /// Records of a paused partition come from this offset on, once it is resumed.
    fn seek(&mut self, partition: Partition, offset: Offset);

    /// Records of paused partitions come, from where they had come to.
    fn resume(&mut self, partitions: &[Partition]);

    /// The changelog's end as a read_uncommitted client is told it: the high watermark.
    fn changelog_end(&mut self, shard: ShardId) -> Result<Offset, NotNow>;

    /// The changelog's start, and its end as a read_committed client is told it: the last stable offset.
    fn changelog_stable_bounds(&mut self, shard: ShardId) -> Result<Range<Offset>, NotNow>;

    /// Starts to read a shard's changelog, read_committed, between its start and its stable end: what they were just now.
    /// What is known to be the log's beginning need not be read from it.
    fn start_restore(&mut self, shard: ShardId, bounds: Range<Offset>);

    /// The next record of the changelogs being read, waiting for at most `wait`.
    fn poll_restore(&mut self, wait: Duration) -> Restored;

    /// Ends the reading of a shard's changelog.
    fn stop_restore(&mut self, shard: ShardId);

    /// Whether the group takes offsets from us: assignment not lost, generation >= 0, a member id. Kafka takes offsets
    /// without these from anybody, unfenced.
    fn is_live_member(&self) -> bool;

    /// Whether the producer lost a connection or gave up a request since it was made. A request held up in the network
    /// could end a later transaction of the same epoch (KIP-890 is about this; librdkafka does not have it).
    fn producer_is_suspect(&self) -> bool;

    /// A new producer, and with it a new epoch: whatever the former one left open is ended before this returns.
    fn renew_producer(&mut self) -> Result<(), Fault>;

    fn begin(&mut self) -> Result<(), Fault>;

    /// Hands a record over; that it is written is known after `flush`.
    fn send(&mut self, destination: Destination<'_>, record: &Record) -> Result<(), Fault>;

    /// All records sent are written.
    fn flush(&mut self) -> Result<(), Fault>;

    /// The offsets to go on from (last processed + 1) become part of the transaction.
    fn send_offsets(&mut self, offsets: &[(Partition, Offset)]) -> Result<(), Fault>;

    fn commit(&mut self) -> Result<(), Fault>;

    fn abort(&mut self) -> Result<(), Fault>;

    /// Leaves the group without a commit and joins it anew, with the same topics; the producer is dropped. The worker has
    /// forgotten all that it read.
    fn restart(&mut self) -> Result<(), Fault>;
}
