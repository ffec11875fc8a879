//! How is a shard's changelog read, for a restore and for checkpoints?
//!
//! `ChangelogReader` reads partitions of the changelog. `Restore` uses one for a worker: first the entries of a checkpoint, then the
//! changelog from the checkpoint's offset on. [`ChangelogTail`] uses another one for the checkpointer of the process.
//!
//! This module never writes to the changelog, and never decides whether a checkpoint fits.

mod changelog_reader;
mod changelog_tail;

pub use changelog_tail::ChangelogTail;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult};
use switchboard_checkpoint::{ChangelogEvent, Checkpoints, Entries, Snapshot, StoreError};
use switchboard_core::record::{Offset, ShardId};
use switchboard_core::worker::{Cause, Restored};

use crate::clients::convert;
use changelog_reader::ChangelogReader;

/// Why a restore has to start again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error("the checkpoint of shard {shard} cannot be read: {source}")]
    Checkpoint { shard: ShardId, source: StoreError },
    #[error("the changelog cannot be read: {0}")]
    Changelog(#[from] KafkaError),
    /// Records were deleted before they were read.
    #[error("{0}")]
    Gone(String),
}

impl RestoreError {
    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Changelog(error) => convert::cause(self.to_string(), error),
            Self::Checkpoint { .. } | Self::Gone(_) => self.to_string().into(),
        }
    }
}

/// A worker's restores.
///
/// The changelog is polled only while no checkpoint is being read. So entries come before later records of the same shard, and the
/// first records are already being fetched meanwhile.
pub(crate) struct Restore {
    changelog: ChangelogReader,
    checkpoints: Option<Checkpoints>,
    worker: usize,
    /// Shards for which the checkpointer was asked for a checkpoint.
    opening: BTreeMap<ShardId, Opening>,
    /// Shards whose checkpoint is being read.
    copying: BTreeMap<ShardId, Entries>,
    /// Shards that the checkpointer knows, or will know, to be owned by this worker.
    known: BTreeSet<ShardId>,
    summary: RestoreSummary,
}

/// A request for a checkpoint.
struct Opening {
    /// The changelog's bounds.
    bounds: Range<Offset>,
    answer: Receiver<Option<Snapshot>>,
}

/// Counts what one round of restores has read: from the first shard's start until none is under way.
#[derive(Debug, Default)]
struct RestoreSummary {
    started: Option<Instant>,
    under_way: BTreeSet<ShardId>,
    restored: BTreeSet<ShardId>,
    entries: u64,
    records: u64,
}

impl Restore {
    pub(crate) fn new(
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
            summary: RestoreSummary::default(),
        })
    }

    pub(crate) fn start(&mut self, shard: ShardId, bounds: Range<Offset>) -> KafkaResult<()> {
        self.summary.begin(shard);
        match &self.checkpoints {
            Some(checkpoints) => {
                let answer = checkpoints.open(shard, bounds.clone());
                self.known.insert(shard);
                self.opening.insert(shard, Opening { bounds, answer });
                Ok(())
            }
            None => self.changelog.start(shard, bounds.start),
        }
    }

    /// The next entry or record.
    ///
    /// # Errors
    /// When entries that were already returned cannot be used: the shard has to be restored again.
    pub(crate) fn poll(&mut self, wait: Duration) -> Result<Restored, RestoreError> {
        self.take_answers()?;
        while let Some(mut entries) = self.copying.first_entry() {
            let shard = *entries.key();
            match entries.get_mut().next() {
                Some(Ok((key, value))) => {
                    self.summary.entries += 1;
                    return Ok(Restored::Record { shard, key, value: Some(value) });
                }
                Some(Err(source)) => {
                    if let Some(checkpoints) = &self.checkpoints {
                        checkpoints.condemn(shard);
                    }
                    return Err(RestoreError::Checkpoint { shard, source });
                }
                None => drop(entries.remove()),
            }
        }
        Ok(match self.changelog.poll(wait) {
            ChangelogEvent::Nothing => Restored::Nothing,
            // The restore started when the stable end had reached the high watermark that has to be restored. So whichever end
            // this is, it is not below that watermark.
            ChangelogEvent::End { shard } => {
                self.summary.restored.insert(shard);
                Restored::End { shard }
            }
            ChangelogEvent::Gone(reason) => return Err(RestoreError::Gone(reason)),
            ChangelogEvent::Record { shard, key, value, .. } => {
                self.summary.records += 1;
                Restored::Record { shard, key, value }
            }
        })
    }

    /// Starts to read the changelog of shards for which the checkpointer has answered.
    fn take_answers(&mut self) -> Result<(), RestoreError> {
        let answered = |opening: &Opening| match opening.answer.try_recv() {
            Ok(snapshot) => Some(snapshot),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(None),
        };
        let ready: Vec<_> =
            self.opening.iter().filter_map(|(shard, opening)| Some((*shard, answered(opening)?))).collect();
        for (shard, snapshot) in ready {
            let Some(Opening { bounds, .. }) = self.opening.remove(&shard) else { continue };
            let offset = match snapshot {
                Some(Snapshot { meta, entries }) => {
                    tracing::debug!(
                        shard = shard.get(),
                        offset = meta.offset.get(),
                        end = bounds.end.get(),
                        "restoring from the checkpoint"
                    );
                    self.copying.insert(shard, entries);
                    meta.offset
                }
                None => bounds.start,
            };
            self.changelog.start(shard, offset)?;
        }
        Ok(())
    }

    /// Ends the restore of a shard, complete or not.
    pub(crate) fn stop(&mut self, shard: ShardId) {
        self.opening.remove(&shard);
        self.copying.remove(&shard);
        self.changelog.stop(shard);
        if let (Some(checkpoints), true) = (&self.checkpoints, self.summary.restored.contains(&shard)) {
            checkpoints.follow(shard, self.worker);
        }
        self.summary.end(shard);
    }

    /// The worker no longer owns the shard.
    pub(crate) fn release(&mut self, shard: ShardId) {
        if self.known.remove(&shard)
            && let Some(checkpoints) = &self.checkpoints
        {
            checkpoints.release(shard, self.worker);
        }
    }

    /// The worker no longer owns any shard.
    pub(crate) fn release_all(&mut self) {
        for shard in std::mem::take(&mut self.summary.under_way) {
            self.opening.remove(&shard);
            self.copying.remove(&shard);
            self.changelog.stop(shard);
        }
        self.summary = RestoreSummary::default();
        for shard in self.known.clone() {
            self.release(shard);
        }
    }
}

impl RestoreSummary {
    fn begin(&mut self, shard: ShardId) {
        self.started.get_or_insert_with(Instant::now);
        self.under_way.insert(shard);
    }

    fn end(&mut self, shard: ShardId) {
        self.under_way.remove(&shard);
        if let (true, Some(started)) = (self.under_way.is_empty(), self.started) {
            if !self.restored.is_empty() {
                tracing::info!(
                    shards = self.restored.len(),
                    checkpoint_entries = self.entries,
                    changelog_records = self.records,
                    seconds = started.elapsed().as_secs_f64(),
                    "restore finished"
                );
            }
            *self = Self::default();
        }
    }
}
