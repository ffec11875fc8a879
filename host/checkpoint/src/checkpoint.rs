use std::collections::HashMap;
use std::time::{Duration, Instant};

use switchboard_core::record::{Offset, Timestamp};

use super::store::{CheckpointMeta, Store, StoreError};

/// Between two writes of a file.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// What an entry takes in memory beside its key and value.
const ENTRY_BYTES: usize = 100;

/// The changelog's stable end at some time: once it is reached, all tombstones up to that time have been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Goal {
    pub(super) end: Offset,
    pub(super) as_of: Timestamp,
}

/// An open checkpoint and what comes next in it.
pub(super) struct Checkpoint {
    pub(super) store: Store,
    /// What the file is as of, and what it is with the pending changes.
    pub(super) written: CheckpointMeta,
    pub(super) place: CheckpointMeta,
    written_at: Instant,
    pending: HashMap<Vec<u8>, Option<Vec<u8>>>,
    pub(super) pending_bytes: usize,
    pub(super) goal: Option<Goal>,
    pub(super) asked_at: Instant,
    /// At this age it is too old.
    pub(super) oldest: Duration,
}

impl Checkpoint {
    pub(super) fn new(store: Store, place: CheckpointMeta) -> Self {
        let now = Instant::now();
        let pending = HashMap::new();
        Self {
            store,
            place,
            written: place,
            written_at: now,
            pending,
            pending_bytes: 0,
            goal: None,
            asked_at: now,
            oldest: Duration::ZERO,
        }
    }

    pub(super) fn take(&mut self, offset: Offset, key: Vec<u8>, value: Option<Vec<u8>>) {
        let weight = |value: Option<&Vec<u8>>| ENTRY_BYTES + value.map_or(0, Vec::len);
        let length = key.len();
        self.pending_bytes += length + weight(value.as_ref());
        if let Some(replaced) = self.pending.insert(key, value) {
            self.pending_bytes -= length + weight(replaced.as_ref());
        }
        self.place.offset = offset.next();
    }

    pub(super) fn is_due(&self) -> bool {
        self.place != self.written && self.written_at.elapsed() >= WRITE_EVERY
    }

    pub(super) fn write(&mut self) -> Result<(), StoreError> {
        if self.place == self.written {
            return Ok(());
        }
        let mut changes: Vec<_> = self.pending.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        // In the tree's order neighbours share their pages.
        changes.sort_unstable();
        let CheckpointMeta { shard, offset, .. } = self.place;
        let count = changes.len();
        self.store.write(changes, &self.place)?;
        tracing::debug!(shard = shard.get(), offset = offset.get(), count, "checkpoint written");
        self.pending = HashMap::new();
        self.pending_bytes = 0;
        self.written = self.place;
        self.written_at = Instant::now();
        Ok(())
    }
}
