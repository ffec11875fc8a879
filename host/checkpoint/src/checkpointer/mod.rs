//! The checkpointer: the thread that reads changelogs and writes them to checkpoints, and opens checkpoints for restores.
//!
//! A shard's file is in one of three states:
//!
//! ```text
//! Unknown ──open──► Absent ──follow──► Open
//!    ▲         └──────────────────────►  │
//!    └───────────── suspend ─────────────┘
//! ```
//!
//! * `Unknown`: the file has not been opened, or there was trouble with it. It is opened when it is needed, after a pause.
//! * `Absent`: there is no file to use. A new one is created when a worker owns the shard.
//! * `Open`: the file fits the changelog. It is written while a worker of this process owns the shard.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use switchboard_core::record::{Offset, ShardId, Timestamp};

use super::checkpoint::{Checkpoint, Goal};
use super::store::{ChangelogTopic, CheckpointMeta, Snapshot, Store, StoreError, WantedShard};
use super::{Changelog, ChangelogError, ChangelogEvent, ThrottledWarn};

/// How many bytes of all shards together may wait to be written. librdkafka reads as much again ahead.
const MAX_PENDING_BYTES: usize = 16 << 20;
/// How much memory redb may use as cache, all files together.
const CACHE_BYTES: usize = 64 << 20;
/// How often the changelogs are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Records read between two looks at the commands.
const MAX_POLLED_RECORDS: usize = 10_000;
/// How long a shard's checkpoint is left alone after a failure.
const CHECKPOINT_RETRY_PAUSE: Duration = Duration::from_mins(1);
/// How long the last read before the end may take.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the failure of checkpoints is a warning. All shards fail together, and again at each retry.
const CHECKPOINT_WARN_INTERVAL: Duration = Duration::from_mins(5);
/// How long a description of the topic, or its failure, is reused: the shards of an assignment are opened one after the other.
const DESCRIPTION_TTL: Duration = Duration::from_secs(2);
/// A checkpoint that may not be older than this would be too old before it is written.
const MIN_USABLE_AGE: Duration = Duration::from_secs(1);
/// The longest time between two confirmations that a checkpoint is up to date.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(30);

/// See the methods of `Checkpoints`.
#[derive(Debug)]
pub(super) enum Command {
    Open { shard: ShardId, bounds: Range<Offset>, answer: Sender<Option<Snapshot>> },
    Follow { shard: ShardId, worker: usize },
    Release { shard: ShardId, worker: usize },
    Condemn { shard: ShardId },
}

/// A shard's file.
enum File {
    /// Not opened yet. It is not opened before this time.
    Unknown(Instant),
    /// There is no file to use. A new one is created when the shard is followed.
    Absent,
    Open(Box<Checkpoint>),
}

struct Shard {
    owner: Option<usize>,
    /// Whether the changelog is read into the checkpoint.
    following: bool,
    file: File,
}

impl Shard {
    /// The checkpoint into which the changelog is read.
    fn followed(&mut self) -> Option<&mut Checkpoint> {
        match &mut self.file {
            File::Open(checkpoint) if self.following => Some(checkpoint),
            _ => None,
        }
    }
}

/// Why no checkpoint of a shard is kept for now.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Changelog(#[from] ChangelogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the changelog's delete.retention.ms={0} is too short for checkpoints")]
    ShortRetention(u128),
}

/// The last description of the changelog, or why there was none.
struct Description {
    topic: Result<ChangelogTopic, ChangelogError>,
    at: Instant,
}

pub(super) struct Checkpointer<C> {
    directory: PathBuf,
    shard_count: u32,
    changelog: C,
    description: Option<Description>,
    shards: BTreeMap<ShardId, Shard>,
    trouble: ThrottledWarn,
}

impl<C: Changelog> Checkpointer<C> {
    pub(super) fn new(directory: PathBuf, shard_count: u32, changelog: C) -> Self {
        let trouble = ThrottledWarn::every(CHECKPOINT_WARN_INTERVAL);
        Self { directory, shard_count, changelog, description: None, shards: BTreeMap::new(), trouble }
    }

    /// Runs until no worker is left that could send a command, then writes what is pending.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let mut pause = Duration::ZERO;
        loop {
            match commands.recv_timeout(pause) {
                Ok(command) => {
                    self.execute(command);
                    // Other workers may be waiting for answers.
                    pause = Duration::ZERO;
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let more = self.read();
            pause = if self.run_due() || more { Duration::ZERO } else { POLL_INTERVAL };
        }
        self.finish();
    }

    /// Reads the changelogs to their ends and writes everything. This process no longer writes to the changelogs, so the next
    /// start has nothing left to read.
    fn finish(&mut self) {
        let deadline = Instant::now() + FINISH_TIMEOUT;
        let mut goals = BTreeMap::new();
        for shard in self.following() {
            if Instant::now() < deadline
                && let Ok(bounds) = self.changelog.bounds(shard)
            {
                goals.insert(shard, bounds.end);
            }
        }
        while Instant::now() < deadline {
            self.read();
            goals.retain(|shard, goal| self.position(*shard).is_some_and(|position| position < *goal));
            if goals.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.write_all();
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Open { shard, bounds, answer } => {
                self.unfollow(shard);
                let snapshot = self.open(shard, &bounds).unwrap_or_else(|error| {
                    self.suspend(shard, &error);
                    None
                });
                // Err: the worker has lost the shard meanwhile.
                let _ = answer.send(snapshot);
            }
            Command::Follow { shard, worker } => {
                self.shard(shard).owner = Some(worker);
            }
            Command::Release { shard, worker } => {
                let slot = self.shard(shard);
                if slot.owner == Some(worker) {
                    slot.owner = None;
                    self.unfollow(shard);
                }
            }
            Command::Condemn { shard } => {
                self.unfollow(shard);
                self.shard(shard).file = File::Absent;
            }
        }
    }

    fn shard(&mut self, shard: ShardId) -> &mut Shard {
        let new = || Shard { owner: None, following: false, file: File::Unknown(Instant::now()) };
        self.shards.entry(shard).or_insert_with(new)
    }

    /// A shard's checkpoint, if it fits the changelog. Afterwards the state of the shard's file is known.
    fn open(&mut self, shard: ShardId, bounds: &Range<Offset>) -> Result<Option<Snapshot>, KeepError> {
        let topic = self.topic()?;
        let not_used = |reason: &dyn std::fmt::Display| {
            tracing::info!(
                shard = shard.get(),
                %reason,
                "the checkpoint is not used; the changelog is read in full"
            );
        };
        if let File::Unknown(_) = self.shard(shard).file {
            match Store::open(&self.path(shard), self.cache_bytes()) {
                Ok(Some((store, meta))) => {
                    self.shard(shard).file = File::Open(Box::new(Checkpoint::new(store, meta)));
                }
                Ok(None) => {
                    tracing::debug!(shard = shard.get(), "there is no checkpoint; the changelog is read in full");
                    self.shard(shard).file = File::Absent;
                }
                Err(error @ StoreError::Unusable(_)) => {
                    not_used(&error);
                    self.shard(shard).file = File::Absent;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let wanted = WantedShard { shard, shard_count: self.shard_count };
        let File::Open(checkpoint) = &self.shard(shard).file else { return Ok(None) };
        if let Err(mismatch) = checkpoint.written.check(&topic, wanted, bounds, now()) {
            not_used(&mismatch);
            self.shard(shard).file = File::Absent;
            return Ok(None);
        }
        Ok(Some(checkpoint.store.snapshot()?))
    }

    /// Starts to keep the checkpoint of a shard that a worker of this process owns. False: there was nothing to do.
    fn follow(&mut self, shard: ShardId) -> bool {
        let slot = self.shard(shard);
        let due = !matches!(slot.file, File::Unknown(due) if Instant::now() < due);
        if slot.owner.is_none() || slot.following || !due {
            return false;
        }
        match self.try_follow(shard) {
            Ok(()) => self.shard(shard).following = true,
            Err(error) => self.suspend(shard, &error),
        }
        true
    }

    fn try_follow(&mut self, shard: ShardId) -> Result<(), KeepError> {
        let topic = self.topic()?;
        if matches!(self.shard(shard).file, File::Unknown(_)) {
            let bounds = self.changelog.bounds(shard)?;
            self.open(shard, &bounds)?;
        }
        if matches!(self.shard(shard).file, File::Absent) {
            let bounds = self.changelog.bounds(shard)?;
            let (shard_count, topic_id, offset) = (self.shard_count, topic.id, bounds.start);
            let meta = CheckpointMeta { shard, shard_count, topic_id, offset, as_of: now() };
            let store = Store::create(&self.path(shard), self.cache_bytes(), &meta)?;
            self.shard(shard).file = File::Open(Box::new(Checkpoint::new(store, meta)));
        }
        let File::Open(checkpoint) = &mut self.shard(shard).file else { return Ok(()) };
        checkpoint.confirmed_at = Instant::now();
        checkpoint.max_age = topic.max_checkpoint_age();
        let offset = checkpoint.current.offset;
        Ok(self.changelog.start(shard, offset)?)
    }

    /// Stops reading a shard's changelog, and writes what was read.
    fn unfollow(&mut self, shard: ShardId) {
        if self.shard(shard).following {
            self.write(shard);
            self.changelog.stop(shard);
            self.shard(shard).following = false;
        }
    }

    /// Leaves a shard without a checkpoint for now. Its file is closed, and checked again before it is used again.
    fn suspend(&mut self, shard: ShardId, reason: &dyn std::fmt::Display) {
        let warned = self.trouble.report("no checkpoint", || {
            tracing::warn!(
                shard = shard.get(),
                %reason,
                "no checkpoint for now; the changelog is read in full; trying again in a minute"
            );
        });
        if !warned {
            tracing::debug!(shard = shard.get(), %reason, "no checkpoint for now");
        }
        let slot = self.shard(shard);
        slot.file = File::Unknown(Instant::now() + CHECKPOINT_RETRY_PAUSE);
        if std::mem::take(&mut slot.following) {
            self.changelog.stop(shard);
        }
    }

    fn topic(&mut self) -> Result<ChangelogTopic, KeepError> {
        let known = self.description.as_ref().filter(|description| description.at.elapsed() < DESCRIPTION_TTL);
        let topic = match known {
            Some(description) => description.topic.clone()?,
            None => {
                let topic = self.changelog.describe();
                self.description.insert(Description { topic, at: Instant::now() }).topic.clone()?
            }
        };
        if topic.max_checkpoint_age() < MIN_USABLE_AGE {
            return Err(KeepError::ShortRetention(topic.tombstone_retention.as_millis()));
        }
        Ok(topic)
    }

    fn path(&self, shard: ShardId) -> PathBuf {
        self.directory.join(format!("shard-{shard}.redb"))
    }

    /// One file's part of the cache.
    fn cache_bytes(&self) -> usize {
        let shard_count = usize::try_from(self.shard_count).unwrap_or(usize::MAX).max(1);
        (CACHE_BYTES / shard_count).clamp(256 << 10, 4 << 20)
    }

    /// Reads the changelogs. True when there may be more to read.
    fn read(&mut self) -> bool {
        if !self.shards.values().any(|shard| shard.following) {
            return false;
        }
        let followed = self.shards.values_mut().filter_map(Shard::followed);
        let mut bytes: usize = followed.map(|checkpoint| checkpoint.pending_bytes).sum();
        for _ in 0..MAX_POLLED_RECORDS {
            match self.changelog.poll() {
                ChangelogEvent::Record { shard, offset, key, value } => {
                    let Some(checkpoint) = self.shards.get_mut(&shard).and_then(Shard::followed) else { continue };
                    let before = checkpoint.pending_bytes;
                    checkpoint.take(offset, key, value);
                    bytes = bytes + checkpoint.pending_bytes - before;
                }
                ChangelogEvent::End { .. } => {}
                ChangelogEvent::Gone(reason) => {
                    for shard in self.following() {
                        self.suspend(shard, &reason);
                    }
                }
                ChangelogEvent::Nothing => return false,
            }
            if bytes >= MAX_PENDING_BYTES {
                self.write_all();
                return true;
            }
        }
        true
    }

    fn following(&self) -> Vec<ShardId> {
        self.shards.iter().filter(|(_, slot)| slot.following).map(|(shard, _)| *shard).collect()
    }

    /// Does what is due: all writes, then at most one thing that asks a broker. A broker's answer may take long, and workers
    /// that take over shards wait meanwhile. True when there is more to do.
    fn run_due(&mut self) -> bool {
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for shard in &shards {
            if self.shards.get_mut(shard).and_then(Shard::followed).is_some_and(|checkpoint| checkpoint.is_due()) {
                self.write(*shard);
            }
        }
        shards.into_iter().any(|shard| self.follow(shard) || self.confirm(shard))
    }

    /// Moves a checkpoint's as-of time forward. It asks for the changelog's stable end; once the checkpoint has reached this
    /// end, it is as of the time of the request. The end-of-partition event of a consumer does not suffice: it comes only when
    /// nothing is written for a while.
    ///
    /// False: there was nothing to do.
    fn confirm(&mut self, shard: ShardId) -> bool {
        self.position(shard);
        let Some(checkpoint) = self.shards.get_mut(&shard).and_then(Shard::followed) else { return false };
        if let Some(Goal { end, as_of }) = checkpoint.goal {
            if checkpoint.current.offset < end {
                return false;
            }
            checkpoint.goal = None;
            let took = now().saturating_since(checkpoint.current.as_of);
            if took >= checkpoint.max_age {
                tracing::info!(
                    shard = shard.get(),
                    ?took,
                    "the checkpoint is replaced: catching up took so long that tombstones may have been compacted away"
                );
                self.changelog.stop(shard);
                let slot = self.shard(shard);
                slot.following = false;
                slot.file = File::Absent;
                return true;
            }
            checkpoint.current.as_of = as_of;
        }
        if checkpoint.confirmed_at.elapsed() < (checkpoint.max_age / 4).min(CONFIRM_INTERVAL) {
            return false;
        }
        checkpoint.confirmed_at = Instant::now();
        let as_of = now();
        match self.changelog.bounds(shard) {
            Ok(bounds) => checkpoint.goal = Some(Goal { end: bounds.end, as_of }),
            Err(error) => tracing::debug!(shard = shard.get(), %error, "the checkpoint cannot be confirmed"),
        }
        true
    }

    /// The offset up to which a followed shard has been read. Control records count, although `poll` never returns them.
    fn position(&mut self, shard: ShardId) -> Option<Offset> {
        let checkpoint = self.shards.get_mut(&shard).and_then(Shard::followed)?;
        let current = &mut checkpoint.current.offset;
        *current = self.changelog.position(shard).map_or(*current, |position| position.max(*current));
        Some(*current)
    }

    fn write_all(&mut self) {
        for shard in self.following() {
            self.write(shard);
        }
    }

    fn write(&mut self, shard: ShardId) {
        self.position(shard);
        let Some(checkpoint) = self.shards.get_mut(&shard).and_then(Shard::followed) else { return };
        if let Err(error) = checkpoint.write() {
            self.suspend(shard, &error);
        }
    }
}

fn now() -> Timestamp {
    Timestamp::of_system_time(SystemTime::now())
}

#[cfg(test)]
mod tests;
