use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult};
use switchboard_core::record::{Offset, ShardId};
use switchboard_core::worker::{Cause, Restored};

use super::changelog::ChangelogReader;
use super::convert;
use switchboard_checkpoint::{Checkpoints, Entries, Polled, Snapshot, StoreError};

/// Why a restore has to begin again.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    #[error("the checkpoint of shard {shard} cannot be read after all: {error}")]
    Checkpoint {
        shard: ShardId,
        #[source]
        error: StoreError,
    },
    #[error("reading the changelog: {0}")]
    Changelog(#[from] KafkaError),
    /// Records that were to be read are not there any more.
    #[error("{0}")]
    Gone(String),
}

impl RestoreError {
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Changelog(error) => convert::cause(self.to_string(), error),
            Self::Checkpoint { .. } | Self::Gone(_) => self.to_string().into(),
        }
    }
}

/// A worker's restores: first what a checkpoint has, then the changelog from there on.
///
/// The changelog is read only while no checkpoint is: so a shard's own order holds, and its first records are already on their
/// way meanwhile.
pub(super) struct Restore {
    changelog: ChangelogReader,
    checkpoints: Option<Checkpoints>,
    worker: usize,
    /// Shards whose checkpoint is being looked at -> the changelog's bounds.
    opening: BTreeMap<ShardId, (Range<Offset>, Receiver<Option<Snapshot>>)>,
    copying: BTreeMap<ShardId, Entries>,
    /// Shards that the checkpointer knows to be ours, or will.
    known: BTreeSet<ShardId>,
    tally: Tally,
}

/// What one round of restores has come to: from the first shard's start until no more are under way.
#[derive(Debug, Default)]
struct Tally {
    started: Option<Instant>,
    under_way: BTreeSet<ShardId>,
    restored: BTreeSet<ShardId>,
    entries: u64,
    records: u64,
}

impl Restore {
    pub(super) fn new(
        config: &ClientConfig,
        changelog: String,
        checkpoints: Option<Checkpoints>,
        worker: usize,
    ) -> KafkaResult<Self> {
        let changelog = ChangelogReader::new(config, changelog)?;
        changelog.find_leaders();
        Ok(Self {
            changelog,
            checkpoints,
            worker,
            opening: BTreeMap::new(),
            copying: BTreeMap::new(),
            known: BTreeSet::new(),
            tally: Tally::default(),
        })
    }

    pub(super) fn start(&mut self, shard: ShardId, bounds: Range<Offset>) -> KafkaResult<()> {
        self.tally.begin(shard);
        match &self.checkpoints {
            Some(checkpoints) => {
                let answer = checkpoints.open(shard, bounds.clone());
                self.known.insert(shard);
                self.opening.insert(shard, (bounds, answer));
                Ok(())
            }
            None => self.changelog.start(shard, bounds.start),
        }
    }

    /// The next record or entry.
    ///
    /// # Errors
    /// When what has been given out of a shard is not to be used: it has to be restored anew.
    pub(super) fn poll(&mut self, wait: Duration) -> Result<Restored, RestoreError> {
        self.take_answers()?;
        while let Some(mut copy) = self.copying.first_entry() {
            let shard = *copy.key();
            match copy.get_mut().next() {
                Some(Ok((key, value))) => {
                    self.tally.entries += 1;
                    return Ok(Restored::Record { shard, key, value: Some(value) });
                }
                Some(Err(error)) => {
                    if let Some(checkpoints) = &self.checkpoints {
                        checkpoints.condemn(shard);
                    }
                    return Err(RestoreError::Checkpoint { shard, error });
                }
                None => drop(copy.remove()),
            }
        }
        Ok(match self.changelog.poll(wait) {
            Polled::Nothing => Restored::Nothing,
            // Reading began after the stable end had come up to the high watermark that is to be reached, so whichever
            // end this is, it is not before that.
            Polled::End { shard } => {
                self.tally.restored.insert(shard);
                Restored::End { shard }
            }
            Polled::Gone(why) => return Err(RestoreError::Gone(why)),
            Polled::Record { shard, key, value, .. } => {
                self.tally.records += 1;
                Restored::Record { shard, key, value }
            }
        })
    }

    fn take_answers(&mut self) -> Result<(), RestoreError> {
        let answered = |answer: &Receiver<_>| match answer.try_recv() {
            Ok(snapshot) => Some(snapshot),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(None),
        };
        let ready: Vec<_> =
            self.opening.iter().filter_map(|(shard, (_, answer))| Some((*shard, answered(answer)?))).collect();
        for (shard, snapshot) in ready {
            let Some((bounds, _)) = self.opening.remove(&shard) else { continue };
            let offset = match snapshot {
                Some(Snapshot { place, entries }) => {
                    tracing::debug!(
                        shard = shard.get(),
                        offset = place.offset.get(),
                        end = bounds.end.get(),
                        "restoring from the checkpoint"
                    );
                    self.copying.insert(shard, entries);
                    place.offset
                }
                None => bounds.start,
            };
            self.changelog.start(shard, offset)?;
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, shard: ShardId) {
        self.opening.remove(&shard);
        self.copying.remove(&shard);
        self.changelog.stop(shard);
        if let (Some(checkpoints), true) = (&self.checkpoints, self.tally.restored.contains(&shard)) {
            checkpoints.follow(shard, self.worker);
        }
        self.tally.end(shard);
    }

    /// The shard is not ours any more.
    pub(super) fn release(&mut self, shard: ShardId) {
        if self.known.remove(&shard)
            && let Some(checkpoints) = &self.checkpoints
        {
            checkpoints.release(shard, self.worker);
        }
    }

    /// Nothing is ours any more.
    pub(super) fn release_all(&mut self) {
        for shard in std::mem::take(&mut self.tally.under_way) {
            self.opening.remove(&shard);
            self.copying.remove(&shard);
            self.changelog.stop(shard);
        }
        self.tally = Tally::default();
        for shard in self.known.clone() {
            self.release(shard);
        }
    }
}

impl Tally {
    fn begin(&mut self, shard: ShardId) {
        self.started.get_or_insert_with(Instant::now);
        self.under_way.insert(shard);
    }

    fn end(&mut self, shard: ShardId) {
        self.under_way.remove(&shard);
        if let (true, Some(started)) = (self.under_way.is_empty(), self.started) {
            let (shards, Self { entries, records, .. }) = (self.restored.len(), &self);
            if shards > 0 {
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!(
                    "restored {shards} shards: {entries} entries from checkpoints, {records} records from the changelog, in \
                     {seconds:.2} s"
                );
            }
            *self = Self::default();
        }
    }
}
