//! The thread that keeps checkpoints: it opens and judges them for restores, tails changelogs, and writes down what it saw.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use switchboard_core::record::{Offset, ShardId, Timestamp};

use super::checkpoint::{Checkpoint, Goal};
use super::store::{CheckpointMeta, Snapshot, Store, StoreError, Topic, WantedShard};
use super::{Changelog, ChangelogError, Polled};

/// How much may wait to be written, all shards together; librdkafka reads ahead as much again.
const PENDING_BYTES: usize = 16 << 20;
/// How much redb may keep in memory, all files together.
const CACHE_BYTES: usize = 64 << 20;
/// How often the changelogs are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Records between two looks at what is asked.
const BURST: usize = 10_000;
/// After a failure a shard's checkpoint is left alone for so long.
const RETRY: Duration = Duration::from_mins(1);
/// How long the end may take.
const FINISH: Duration = Duration::from_secs(1);
const WARN_EVERY: Duration = Duration::from_mins(5);
/// How long an answer about the topic is good for, also that there is none: the shards of an assignment are opened one after
/// the other.
const DESCRIBED: Duration = Duration::from_secs(2);
/// Half of a shorter `delete.retention.ms` is over before a copy is made.
const LEAST_OLDEST: Duration = Duration::from_secs(1);
/// At the longest, between two confirmations that a checkpoint is up to date.
const CONFIRM_EVERY: Duration = Duration::from_secs(30);

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
    /// To be opened, but not before this time.
    Unknown(Instant),
    /// There is none to be used: one is made when the shard is followed.
    Absent,
    Open(Box<Checkpoint>),
}

struct Shard {
    owner: Option<usize>,
    following: bool,
    file: File,
}

impl Shard {
    /// The checkpoint that is kept.
    fn followed(&mut self) -> Option<&mut Checkpoint> {
        match &mut self.file {
            File::Open(copy) if self.following => Some(copy),
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

/// What the changelog was when it was asked last.
struct Described {
    topic: Result<Topic, ChangelogError>,
    at: Instant,
}

pub(super) struct Checkpointer<C> {
    directory: PathBuf,
    shard_count: u32,
    changelog: C,
    /// As it was described last, or why it could not be.
    described: Option<Described>,
    shards: BTreeMap<ShardId, Shard>,
    /// When trouble was told last: all shards have it at once, and every time that they are tried again.
    warned: Option<Instant>,
}

impl<C: Changelog> Checkpointer<C> {
    pub(super) fn new(directory: PathBuf, shard_count: u32, changelog: C) -> Self {
        Self { directory, shard_count, changelog, described: None, shards: BTreeMap::new(), warned: None }
    }

    /// Goes on until nobody is left to ask, and writes what is pending then.
    pub(super) fn run(mut self, asks: &Receiver<Command>) {
        let mut pause = Duration::ZERO;
        loop {
            match asks.recv_timeout(pause) {
                Ok(ask) => {
                    self.answer(ask);
                    // Others may wait for their answers.
                    pause = Duration::ZERO;
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let more = self.read();
            pause = if self.keep() || more { Duration::ZERO } else { LOOK_EVERY };
        }
        self.finish();
    }

    /// The last look: nothing is written to the changelogs any more by this process. So the next start has nothing to read.
    fn finish(&mut self) {
        let deadline = Instant::now() + FINISH;
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

    fn answer(&mut self, ask: Command) {
        match ask {
            Command::Open { shard, bounds, answer } => {
                self.unfollow(shard);
                let snapshot = self.open(shard, &bounds).unwrap_or_else(|why| {
                    self.leave(shard, &why);
                    None
                });
                // Err: the shard is somebody else's already.
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

    /// A shard's checkpoint, if it fits the changelog; afterwards the shard's file is known.
    fn open(&mut self, shard: ShardId, bounds: &Range<Offset>) -> Result<Option<Snapshot>, KeepError> {
        let topic = self.topic()?;
        let refused = |why: &str| {
            tracing::info!("the checkpoint of shard {shard} is not used: {why}. The changelog is read in full");
        };
        if let File::Unknown(_) = self.shard(shard).file {
            match Store::open(&self.path(shard), self.cache()) {
                Ok(Some((store, place))) => {
                    self.shard(shard).file = File::Open(Box::new(Checkpoint::new(store, place)));
                }
                Ok(None) => {
                    tracing::debug!("there is no checkpoint of shard {shard}. The changelog is read in full");
                    self.shard(shard).file = File::Absent;
                }
                Err(error @ StoreError::Unusable(_)) => {
                    refused(&error.to_string());
                    self.shard(shard).file = File::Absent;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let of = WantedShard { shard, shards: self.shard_count };
        let File::Open(copy) = &self.shard(shard).file else { return Ok(None) };
        if let Some(why) = copy.written.refusal(&topic, of, bounds, now()) {
            refused(&why);
            self.shard(shard).file = File::Absent;
            return Ok(None);
        }
        Ok(Some(copy.store.snapshot()?))
    }

    /// Begins to keep the checkpoint of a shard that a worker of this process owns; false: nothing was to be done.
    fn follow(&mut self, shard: ShardId) -> bool {
        let slot = self.shard(shard);
        let due = !matches!(slot.file, File::Unknown(due) if Instant::now() < due);
        if slot.owner.is_none() || slot.following || !due {
            return false;
        }
        match self.try_follow(shard) {
            Ok(()) => self.shard(shard).following = true,
            Err(why) => self.leave(shard, &why),
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
            let (shards, topic, offset) = (self.shard_count, topic.id, bounds.start);
            let place = CheckpointMeta { shard, shards, topic, offset, as_of: now() };
            let store = Store::create(&self.path(shard), self.cache(), &place)?;
            self.shard(shard).file = File::Open(Box::new(Checkpoint::new(store, place)));
        }
        let File::Open(copy) = &mut self.shard(shard).file else { return Ok(()) };
        copy.asked_at = Instant::now();
        copy.oldest = topic.oldest();
        let offset = copy.place.offset;
        Ok(self.changelog.start(shard, offset)?)
    }

    /// Ends the reading of a shard; what was read is written.
    fn unfollow(&mut self, shard: ShardId) {
        if self.shard(shard).following {
            self.write(shard);
            self.changelog.stop(shard);
            self.shard(shard).following = false;
        }
    }

    /// A shard goes on without a checkpoint for now. Its file is closed and not trusted before it has been opened again.
    fn leave(&mut self, shard: ShardId, why: &dyn std::fmt::Display) {
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            tracing::warn!("no checkpoint of shard {shard} for now, its changelog is read in full: {why}");
            self.warned = Some(Instant::now());
        } else {
            tracing::debug!("no checkpoint of shard {shard} for now: {why}");
        }
        let slot = self.shard(shard);
        slot.file = File::Unknown(Instant::now() + RETRY);
        if std::mem::take(&mut slot.following) {
            self.changelog.stop(shard);
        }
    }

    fn topic(&mut self) -> Result<Topic, KeepError> {
        let known = self.described.as_ref().filter(|described| described.at.elapsed() < DESCRIBED);
        let topic = match known {
            Some(described) => described.topic.clone()?,
            None => {
                let topic = self.changelog.describe();
                self.described.insert(Described { topic, at: Instant::now() }).topic.clone()?
            }
        };
        if topic.oldest() < LEAST_OLDEST {
            let retention = topic.tombstones.as_millis();
            return Err(KeepError::ShortRetention(retention));
        }
        Ok(topic)
    }

    fn path(&self, shard: ShardId) -> PathBuf {
        self.directory.join(format!("shard-{shard}.redb"))
    }

    fn cache(&self) -> usize {
        let shards = usize::try_from(self.shard_count).unwrap_or(usize::MAX).max(1);
        (CACHE_BYTES / shards).clamp(256 << 10, 4 << 20)
    }

    /// Takes in what the changelogs have; true when there may be more.
    fn read(&mut self) -> bool {
        if !self.shards.values().any(|shard| shard.following) {
            return false;
        }
        let mut bytes: usize =
            self.shards.values_mut().filter_map(Shard::followed).map(|copy| copy.pending_bytes).sum();
        for _ in 0..BURST {
            match self.changelog.poll() {
                Polled::Record { shard, offset, key, value } => {
                    let Some(Shard { file: File::Open(copy), following: true, .. }) = self.shards.get_mut(&shard)
                    else {
                        continue;
                    };
                    let before = copy.pending_bytes;
                    copy.take(offset, key, value);
                    bytes = bytes + copy.pending_bytes - before;
                }
                Polled::End { .. } => {}
                Polled::Gone(why) => {
                    for shard in self.following() {
                        self.leave(shard, &why);
                    }
                }
                Polled::Nothing => return false,
            }
            if bytes >= PENDING_BYTES {
                self.write_all();
                return true;
            }
        }
        true
    }

    fn following(&self) -> Vec<ShardId> {
        self.shards.iter().filter(|(_, slot)| slot.following).map(|(shard, _)| *shard).collect()
    }

    /// What is due: writes, then one of the things for which a broker is asked. Its answer may take its time, and workers that
    /// take over shards wait for theirs meanwhile. True when there is more to do.
    fn keep(&mut self) -> bool {
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for shard in &shards {
            if self.shards.get_mut(shard).and_then(Shard::followed).is_some_and(|copy| copy.is_due()) {
                self.write(*shard);
            }
        }
        shards.into_iter().any(|shard| self.follow(shard) || self.confirm(shard))
    }

    /// Moves a checkpoint's as-of time on: the stable end is asked for, and once that has been read, the checkpoint is as of
    /// the time of the question. The end that a consumer is told of comes only when nothing is written for a while.
    ///
    /// False: nothing was to be done.
    fn confirm(&mut self, shard: ShardId) -> bool {
        self.position(shard);
        let Some(copy) = self.shards.get_mut(&shard).and_then(Shard::followed) else { return false };
        if let Some(Goal { end, as_of }) = copy.goal {
            if copy.place.offset < end {
                return false;
            }
            copy.goal = None;
            let took = now().saturating_since(copy.place.as_of);
            if took >= copy.oldest {
                tracing::info!(
                    "the checkpoint of shard {shard} is made anew: to read on took {took:.0?}, and tombstones may have been \
                     compacted away"
                );
                self.changelog.stop(shard);
                let slot = self.shard(shard);
                slot.following = false;
                slot.file = File::Absent;
                return true;
            }
            copy.place.as_of = as_of;
        }
        if copy.asked_at.elapsed() < (copy.oldest / 4).min(CONFIRM_EVERY) {
            return false;
        }
        copy.asked_at = Instant::now();
        let as_of = now();
        match self.changelog.bounds(shard) {
            Ok(bounds) => copy.goal = Some(Goal { end: bounds.end, as_of }),
            Err(why) => tracing::debug!(shard = shard.get(), "the checkpoint's age stays: {why}"),
        }
        true
    }

    /// Up to where a shard that is followed has been read. Control records count, which nobody is given.
    fn position(&mut self, shard: ShardId) -> Option<Offset> {
        let copy = self.shards.get_mut(&shard).and_then(Shard::followed)?;
        copy.place.offset =
            self.changelog.position(shard).map_or(copy.place.offset, |position| position.max(copy.place.offset));
        Some(copy.place.offset)
    }

    fn write_all(&mut self) {
        for shard in self.following() {
            self.write(shard);
        }
    }

    fn write(&mut self, shard: ShardId) {
        self.position(shard);
        let Some(copy) = self.shards.get_mut(&shard).and_then(Shard::followed) else { return };
        if let Err(error) = copy.write() {
            self.leave(shard, &error);
        }
    }
}

fn now() -> Timestamp {
    Timestamp::of_system_time(SystemTime::now())
}

#[cfg(test)]
mod tests;
