//! An open checkpoint: its file, and the changes that were read from the changelog but are not written yet.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use switchboard_core::record::{Offset, Timestamp};

use super::store::{CheckpointMeta, Store, StoreError};

/// The shortest time between two writes of a file.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// The memory that a pending entry takes in addition to its key and value.
const ENTRY_OVERHEAD_BYTES: usize = 100;

/// The changelog's stable end at some time. A reader that has reached it has seen all tombstones up to that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Goal {
    pub(super) end: Offset,
    pub(super) as_of: Timestamp,
}

/// An open checkpoint and its pending changes.
pub(super) struct Checkpoint {
    pub(super) store: Store,
    /// What the file says.
    pub(super) written: CheckpointMeta,
    /// What the file will say once the pending changes are written.
    pub(super) current: CheckpointMeta,
    written_at: Instant,
    pending: HashMap<Vec<u8>, Option<Vec<u8>>>,
    pub(super) pending_bytes: usize,
    pub(super) goal: Option<Goal>,
    /// When the changelog's stable end was last requested.
    pub(super) confirmed_at: Instant,
    /// From this age on the checkpoint cannot be used.
    pub(super) max_age: Duration,
}

impl Checkpoint {
    /// A checkpoint without pending changes.
    pub(super) fn new(store: Store, meta: CheckpointMeta) -> Self {
        let now = Instant::now();
        Self {
            store,
            current: meta,
            written: meta,
            written_at: now,
            pending: HashMap::new(),
            pending_bytes: 0,
            goal: None,
            confirmed_at: now,
            max_age: Duration::ZERO,
        }
    }

    /// Adds a record of the changelog to the pending changes.
    pub(super) fn take(&mut self, offset: Offset, key: Vec<u8>, value: Option<Vec<u8>>) {
        let weight = |value: Option<&Vec<u8>>| ENTRY_OVERHEAD_BYTES + value.map_or(0, Vec::len);
        let length = key.len();
        self.pending_bytes += length + weight(value.as_ref());
        if let Some(replaced) = self.pending.insert(key, value) {
            self.pending_bytes -= length + weight(replaced.as_ref());
        }
        self.current.offset = offset.next();
    }

    /// Whether there is something to write, and the last write is long enough ago.
    pub(super) fn is_due(&self) -> bool {
        self.current != self.written && self.written_at.elapsed() >= WRITE_INTERVAL
    }

    /// Writes the pending changes, if there are any.
    pub(super) fn write(&mut self) -> Result<(), StoreError> {
        if self.current == self.written {
            return Ok(());
        }
        let mut changes: Vec<_> = self.pending.iter().map(|(key, value)| (key.as_slice(), value.as_deref())).collect();
        // In key order neighbours share pages of the tree.
        changes.sort_unstable();
        let CheckpointMeta { shard, offset, .. } = self.current;
        let count = changes.len();
        self.store.write(changes, &self.current)?;
        tracing::debug!(shard = shard.get(), offset = offset.get(), count, "checkpoint written");
        self.pending = HashMap::new();
        self.pending_bytes = 0;
        self.written = self.current;
        self.written_at = Instant::now();
        Ok(())
    }
}
