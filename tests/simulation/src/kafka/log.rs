use std::collections::BTreeMap;
use std::ops::Range;

use switchboard_core::record::{Offset, Record};

/// A transactional producer, as logs know it.
pub(crate) type ProducerId = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open(ProducerId),
    Committed,
    Aborted,
}

#[derive(Debug)]
struct Entry {
    offset: Offset,
    fate: Fate,
    record: Record,
}

/// A partition's log: records, and control records that only take up offsets.
#[derive(Debug, Default)]
pub(crate) struct Log {
    start: Offset,
    /// The high watermark: the offset after the last record, open transactions included.
    end: Offset,
    entries: Vec<Entry>,
    /// First offset of each transaction that has no marker here yet.
    open: BTreeMap<ProducerId, Offset>,
}

impl Log {
    /// Appends a record, of an open transaction or of none; returns its offset.
    pub(crate) fn append(&mut self, producer: Option<ProducerId>, record: Record) -> Offset {
        let (offset, fate) = (self.end, producer.map_or(Fate::Committed, Fate::Open));
        if let Some(producer) = producer {
            self.open.entry(producer).or_insert(offset);
        }
        self.entries.push(Entry { offset, fate, record });
        self.end = self.end.next();
        offset
    }

    /// Writes the marker that ends a producer's transaction.
    pub(crate) fn mark(&mut self, producer: ProducerId, commit: bool) {
        let Some(first) = self.open.remove(&producer) else { return };
        let from = self.entries.partition_point(|entry| entry.offset < first);
        for entry in &mut self.entries[from..] {
            if entry.fate == Fate::Open(producer) {
                entry.fate = if commit { Fate::Committed } else { Fate::Aborted };
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

    /// The next record at or after an offset that a read_committed reader is shown, with its offset.
    pub(crate) fn read(&self, offset: Offset) -> Option<(Offset, &Record)> {
        let from = self.entries.partition_point(|entry| entry.offset < offset);
        let stable = self.stable_end();
        let shown = self.entries[from..].iter().take_while(|entry| entry.offset < stable);
        shown.into_iter().find(|entry| entry.fate == Fate::Committed).map(|entry| (entry.offset, &entry.record))
    }

    /// All that a read_committed reader is shown.
    pub(crate) fn committed(&self) -> impl Iterator<Item = (Offset, &Record)> {
        let stable = self.stable_end();
        let shown = self.entries.iter().filter(move |entry| entry.offset < stable && entry.fate == Fate::Committed);
        shown.map(|entry| (entry.offset, &entry.record))
    }

    /// Compaction: of the stable part, aborted records go, and committed ones that a later one of the same key
    /// replaces. Tombstones stay: they are kept for days, and no schedule is that long.
    pub(crate) fn compact(&mut self) {
        let stable = self.stable_end();
        let last: BTreeMap<_, _> = self.committed().map(|(offset, record)| (record.key.clone(), offset)).collect();
        self.entries.retain(|entry| {
            entry.offset >= stable
                || entry.fate == Fate::Committed && last.get(&entry.record.key) == Some(&entry.offset)
        });
    }

    /// DeleteRecords: all before this offset.
    pub(crate) fn delete_before(&mut self, offset: Offset) {
        self.entries.retain(|entry| entry.offset >= offset);
        self.start = self.start.max(offset);
    }
}
