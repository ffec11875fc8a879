//! A partition's log, as read_committed readers see it.

use std::collections::BTreeMap;
use std::ops::Range;

use switchboard_core::record::{Offset, Record};

/// A transactional producer, as logs know it.
pub(crate) type ProducerId = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Open(ProducerId),
    Committed,
    Aborted,
}

#[derive(Debug)]
struct Entry {
    offset: Offset,
    status: Status,
    record: Record,
}

/// A partition's log: records, and control records that only take up offsets.
#[derive(Debug, Default)]
pub(crate) struct Log {
    start: Offset,
    /// The high watermark: the offset after the last record, open transactions included.
    end: Offset,
    entries: Vec<Entry>,
    /// The first offset of each transaction without a marker here.
    open: BTreeMap<ProducerId, Offset>,
}

impl Log {
    /// Appends a record, of a transaction or of none. Returns its offset.
    pub(crate) fn append(&mut self, producer: Option<ProducerId>, record: Record) -> Offset {
        let (offset, status) = (self.end, producer.map_or(Status::Committed, Status::Open));
        if let Some(producer) = producer {
            self.open.entry(producer).or_insert(offset);
        }
        self.entries.push(Entry { offset, status, record });
        self.end = self.end.next();
        offset
    }

    /// Writes the marker that ends a producer's transaction.
    pub(crate) fn mark(&mut self, producer: ProducerId, commit: bool) {
        let Some(first) = self.open.remove(&producer) else { return };
        let from = self.entries.partition_point(|entry| entry.offset < first);
        for entry in &mut self.entries[from..] {
            if entry.status == Status::Open(producer) {
                entry.status = if commit { Status::Committed } else { Status::Aborted };
            }
        }
        self.end = self.end.next();
    }

    pub(crate) fn high_watermark(&self) -> Offset {
        self.end
    }

    /// The last stable offset: nothing before it belongs to an open transaction.
    pub(crate) fn stable_end(&self) -> Offset {
        self.open.values().copied().min().unwrap_or(self.end)
    }

    pub(crate) fn stable_bounds(&self) -> Range<Offset> {
        self.start..self.stable_end()
    }

    /// The next record for a read_committed reader at or after an offset.
    pub(crate) fn read(&self, offset: Offset) -> Option<(Offset, &Record)> {
        let from = self.entries.partition_point(|entry| entry.offset < offset);
        let stable = self.stable_end();
        let shown = self.entries[from..].iter().take_while(|entry| entry.offset < stable);
        shown.into_iter().find(|entry| entry.status == Status::Committed).map(|entry| (entry.offset, &entry.record))
    }

    /// All records that a read_committed reader sees.
    pub(crate) fn committed(&self) -> impl Iterator<Item = (Offset, &Record)> {
        let stable = self.stable_end();
        let shown = self.entries.iter().filter(move |entry| entry.offset < stable && entry.status == Status::Committed);
        shown.map(|entry| (entry.offset, &entry.record))
    }

    /// All records at or after an offset, whatever becomes of their transactions.
    pub(crate) fn from(&self, offset: Offset) -> impl Iterator<Item = (Offset, &Record)> {
        let from = self.entries.partition_point(|entry| entry.offset < offset);
        self.entries[from..].iter().map(|entry| (entry.offset, &entry.record))
    }

    /// Compaction: removes aborted records from the stable part, and committed ones with a later record of the same key.
    /// Tombstones stay: brokers keep them for a day, and no schedule is that long.
    pub(crate) fn compact(&mut self) {
        let stable = self.stable_end();
        let last: BTreeMap<_, _> = self.committed().map(|(offset, record)| (record.key.clone(), offset)).collect();
        self.entries.retain(|entry| {
            entry.offset >= stable
                || entry.status == Status::Committed && last.get(&entry.record.key) == Some(&entry.offset)
        });
    }

    /// DeleteRecords: removes all records before this offset.
    pub(crate) fn delete_before(&mut self, offset: Offset) {
        self.entries.retain(|entry| entry.offset >= offset);
        self.start = self.start.max(offset);
    }
}
