//! How far a partition is settled: one committed offset, and the settled records beyond it.
//!
//! Messages of different tenants finish in any order, so a settled record may follow one that is not. The committed offset is
//! that of the first unsettled record. The settled ones beyond it are listed in the offset's metadata, in the same transaction,
//! and the partition's next owner skips them.
//!
//! The metadata is a text of fields, `v=1,n=3,runs=AgED`, of at most `MOST_METADATA` bytes. Brokers refuse more than
//! `offset.metadata.max.bytes`, 4,096 by default.
//!
//! | field | value |
//! |---|---|
//! | `v` | The version of this format |
//! | `n` | The number of settled offsets beyond the committed one. With 0 it is the last field |
//! | `runs` | Lengths of runs of offsets as varints (postcard) in base64, from the committed offset on: unsettled, settled, unsettled, .. The last run is settled |
//! | `bits` | One bit for each offset from the committed one on in base64, the lowest bit of a byte first: 1 is settled |
//!
//! The shorter one of the two is written. It always fits, because a partition without room is not read on: see
//! [`Positions::has_room_for`]. A record that is deleted from the log counts as settled where that makes runs longer.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::ports::GroupOffset;
use crate::record::Offset;

/// The most bytes of an offset's metadata.
pub(super) const MOST_METADATA: usize = 4096;
/// Up to this number of offsets from the first unsettled one, `bits` takes 3,000 bytes, 4,000 in base64.
const MOST_BITS: u64 = 24_000;
/// Up to this number of unsettled records, `runs` takes less than 3,000 bytes: two of at most 5 and 2 bytes for each, as long
/// as an unsettled run is shorter than 2^14 and a settled one shorter than 2^35.
const MOST_RUNS: usize = 400;

/// Metadata of a committed offset that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MetadataError {
    #[error("it is not Switchboard's: {0:?}")]
    Foreign(String),
    #[error("it has version {0}, and this host knows version 1")]
    Version(String),
    #[error("it is damaged ({why}): {text:?}")]
    Damaged { why: &'static str, text: String },
}

/// Which records of a partition are settled.
#[derive(Debug, Default)]
pub(super) struct Positions {
    /// The offset after the last record that was read.
    read: Offset,
    /// Records that were read and are not settled.
    unsettled: BTreeSet<Offset>,
    /// Settled offsets that were not read again yet, by ascending offset: a former owner settled them.
    ahead: VecDeque<Range<Offset>>,
}

impl Positions {
    /// Nothing is settled beyond this offset.
    pub(super) fn from(start: Offset) -> Self {
        Self { read: start, ..Self::default() }
    }

    /// What a former owner committed. Empty metadata lists nothing.
    ///
    /// # Errors
    /// When the metadata cannot be read. Then nobody knows which records beyond the offset are settled.
    pub(super) fn of_former_owner(committed: &GroupOffset) -> Result<Self, MetadataError> {
        let start = committed.offset;
        let mut ahead = if committed.metadata.is_empty() { Vec::new() } else { decode(start, &committed.metadata)? };
        if mutated!("map-of-a-former-owner-ignored") {
            ahead.clear();
        }
        Ok(Self { read: start, unsettled: BTreeSet::new(), ahead: ahead.into() })
    }

    /// The offset after the last record that was read.
    pub(super) fn read_up_to(&self) -> Offset {
        self.read
    }

    /// The end of what a former owner settled; `None`: nothing beyond the offset.
    pub(super) fn known_end(&self) -> Option<Offset> {
        self.ahead.back().map(|range| range.end)
    }

    /// The record at this offset was read. Returns whether it is still to be settled.
    pub(super) fn read(&mut self, offset: Offset) -> bool {
        assert!(self.read <= offset, "offsets of a partition must increase: {offset} comes after {}", self.read);
        self.read = offset.next();
        while self.ahead.front().is_some_and(|range| range.end <= offset) {
            self.ahead.pop_front();
        }
        let is_settled = self.ahead.front().is_some_and(|range| range.contains(&offset));
        if !is_settled {
            self.unsettled.insert(offset);
        }
        !is_settled
    }

    /// The record at this offset is settled.
    pub(super) fn settle(&mut self, offset: Offset) {
        assert!(self.unsettled.remove(&offset), "the record at {offset} is settled twice");
    }

    /// The transaction that settled the record at this offset is not committed.
    pub(super) fn reopen(&mut self, offset: Offset) {
        self.unsettled.insert(offset);
    }

    /// Whether the record at this offset may be read next. Without room, what is settled beyond the committed offset might not
    /// fit into the metadata.
    pub(super) fn has_room_for(&self, offset: Offset) -> bool {
        self.has_room_within(offset, MOST_BITS, MOST_RUNS)
    }

    /// Whether there is so much room that reading can go on for a while.
    pub(super) fn has_much_room_for(&self, offset: Offset) -> bool {
        self.has_room_within(offset, MOST_BITS / 2, MOST_RUNS / 2)
    }

    fn has_room_within(&self, offset: Offset, bits: u64, runs: usize) -> bool {
        let was_read = self.known_end().is_some_and(|end| offset < end);
        was_read
            || self.unsettled.first().is_none_or(|first| offset.distance_from(*first) < bits)
            || self.unsettled.len() + self.ahead.len() < runs
    }

    /// The offset of the first record that is not settled.
    fn first_unsettled(&self) -> Offset {
        if let Some(first) = self.unsettled.first() {
            return *first;
        }
        match self.ahead.front() {
            Some(range) if range.start <= self.read => range.end,
            _ => self.read,
        }
    }

    /// What to commit for the partition.
    pub(super) fn to_commit(&self) -> GroupOffset {
        let offset = if mutated!("offset-beyond-what-is-settled") { self.read } else { self.first_unsettled() };
        GroupOffset { offset, metadata: encode(offset, &self.settled_beyond(offset)) }
    }

    /// The settled ranges beyond the first unsettled offset, by ascending offset.
    fn settled_beyond(&self, first: Offset) -> Vec<Range<Offset>> {
        let mut ranges = Vec::new();
        let mut from = first;
        for offset in &self.unsettled {
            if from < *offset {
                ranges.push(from..*offset);
            }
            from = offset.next();
        }
        if from < self.read {
            ranges.push(from..self.read);
        }
        for range in &self.ahead {
            let start = range.start.max(self.read).max(first);
            match ranges.last_mut() {
                Some(last) if last.end >= start => last.end = range.end,
                _ if start < range.end => ranges.push(start..range.end),
                _ => {}
            }
        }
        ranges
    }
}

fn encode(first: Offset, settled: &[Range<Offset>]) -> String {
    let Some(last) = settled.last() else { return "v=1,n=0".into() };
    let count: u64 = settled.iter().map(|range| range.end.distance_from(range.start)).sum();
    let mut runs = Vec::with_capacity(settled.len() * 2);
    let mut from = first;
    for range in settled {
        runs.extend([range.start.distance_from(from), range.end.distance_from(range.start)]);
        from = range.end;
    }
    let runs = postcard::to_allocvec(&runs).expect("numbers can be written to memory");
    let length = last.end.distance_from(first).div_ceil(8);
    if runs.len() as u64 <= length {
        return format!("v=1,n={count},runs={}", BASE64_STANDARD.encode(runs));
    }
    let mut bits = vec![0_u8; usize::try_from(length).expect("no longer than the runs")];
    for range in settled {
        for at in range.start.distance_from(first)..range.end.distance_from(first) {
            let at = usize::try_from(at).expect("within the bits");
            bits[at / 8] |= 1 << (at % 8);
        }
    }
    format!("v=1,n={count},bits={}", BASE64_STANDARD.encode(bits))
}

fn decode(first: Offset, text: &str) -> Result<Vec<Range<Offset>>, MetadataError> {
    let damaged = |why| MetadataError::Damaged { why, text: text.to_owned() };
    let mut fields = text.split(',');
    let version = fields.next().and_then(|field| field.strip_prefix("v="));
    let version = version.ok_or_else(|| MetadataError::Foreign(text.to_owned()))?;
    if version != "1" {
        return Err(MetadataError::Version(version.to_owned()));
    }
    let count = fields.next().and_then(|field| field.strip_prefix("n=")).and_then(|count| count.parse::<u64>().ok());
    let count = count.ok_or_else(|| damaged("it does not say how many records are settled"))?;
    let field = match fields.next() {
        None if count == 0 => return Ok(Vec::new()),
        None => return Err(damaged("it does not say which records are settled")),
        Some(field) => field,
    };
    if fields.next().is_some() {
        return Err(damaged("it has too many fields"));
    }
    let (name, value) = field.split_once('=').ok_or_else(|| damaged("a field has no value"))?;
    let bytes = BASE64_STANDARD.decode(value).map_err(|_| damaged("a value is not base64"))?;
    let runs = match name {
        "runs" => postcard::from_bytes::<Vec<u64>>(&bytes).map_err(|_| damaged("its runs end too early"))?,
        "bits" => runs_of(&bytes),
        _ => return Err(damaged("it has an unknown field")),
    };
    if runs.is_empty() || runs.len() % 2 != 0 || runs.contains(&0) {
        return Err(damaged("its runs do not alternate"));
    }
    let mut from = u64::try_from(first.get()).expect("an offset is never negative");
    let mut ranges = Vec::with_capacity(runs.len() / 2);
    for run in runs.chunks_exact(2) {
        let start = from.checked_add(run[0]);
        let end = start.and_then(|start| start.checked_add(run[1]));
        let (Some(Ok(start)), Some(Ok(stop))) = (start.map(Offset::try_from), end.map(Offset::try_from)) else {
            return Err(damaged("its runs end beyond the last offset"));
        };
        ranges.push(start..stop);
        from = end.expect("checked above");
    }
    if runs.iter().skip(1).step_by(2).sum::<u64>() != count {
        return Err(damaged("another number of records is settled than it says"));
    }
    Ok(ranges)
}

/// Lengths of runs: unsettled, settled, ..; zeros at the end do not count.
fn runs_of(bits: &[u8]) -> Vec<u64> {
    let mut runs = vec![0];
    let mut is_settled = false;
    for at in 0..bits.len() * 8 {
        let bit = bits[at / 8] >> (at % 8) & 1 == 1;
        if bit != is_settled {
            runs.push(0);
            is_settled = bit;
        }
        *runs.last_mut().expect("there is always one") += 1;
    }
    if !is_settled {
        runs.pop();
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn offset(number: u64) -> Offset {
        Offset::try_from(number).unwrap()
    }

    /// Reads these offsets and settles some of them.
    fn positions(start: u64, read: &[u64], settled: &[u64]) -> Positions {
        let mut positions = Positions::from(offset(start));
        for number in read {
            assert!(positions.read(offset(*number)));
        }
        for number in settled {
            positions.settle(offset(*number));
        }
        positions
    }

    /// The offsets that the next owner handles when it reads these.
    fn left(committed: &GroupOffset, read: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut next = Positions::of_former_owner(committed).unwrap();
        let read = read.into_iter().filter(|number| offset(*number) >= committed.offset);
        read.filter(|number| next.read(offset(*number))).collect()
    }

    #[test]
    fn what_is_settled_in_order_needs_no_map() {
        let positions = positions(5, &[5, 6, 9], &[5, 6]);
        assert_eq!(positions.to_commit(), GroupOffset { offset: offset(9), metadata: "v=1,n=0".into() });
        assert_eq!(
            Positions::from(offset(7)).to_commit(),
            GroupOffset { offset: offset(7), metadata: "v=1,n=0".into() }
        );
    }

    #[test]
    fn the_next_owner_skips_what_is_settled_beyond_the_offset() {
        let positions = positions(0, &[0, 1, 2, 4, 5, 6], &[0, 2, 5]);
        let committed = positions.to_commit();
        assert_eq!(committed.offset, offset(1));
        assert_eq!(left(&committed, 0..10), [1, 4, 6, 7, 8, 9]);
    }

    #[test]
    fn an_owner_that_read_only_a_part_again_keeps_the_rest_of_the_map() {
        let former = positions(0, &[0, 1, 2, 3, 4, 5, 6, 7], &[1, 3, 5, 7]).to_commit();
        let mut next = Positions::of_former_owner(&former).unwrap();
        assert_eq!(next.to_commit(), former, "before it read anything");
        assert!(next.read(offset(0)));
        next.settle(offset(0));
        let committed = next.to_commit();
        assert_eq!(committed.offset, offset(2));
        assert_eq!(left(&committed, 0..10), [2, 4, 6, 8, 9]);
    }

    #[test]
    fn a_record_of_an_aborted_transaction_is_open_again() {
        let mut positions = positions(0, &[0, 1, 2], &[0, 1]);
        positions.reopen(offset(0));
        assert_eq!(left(&positions.to_commit(), 0..3), [0, 2]);
    }

    #[test]
    fn a_partition_whose_map_could_become_too_long_has_no_room() {
        // One record is slow, all others are settled: two runs.
        let mut one_is_slow = Positions::from(Offset::ZERO);
        one_is_slow.read(Offset::ZERO);
        for number in 1..100_000 {
            assert!(one_is_slow.has_room_for(offset(number)));
            one_is_slow.read(offset(number));
            one_is_slow.settle(offset(number));
        }
        assert!(one_is_slow.to_commit().metadata.len() < 30);
        // Every second one is slow.
        let mut half_are_slow = Positions::from(Offset::ZERO);
        let mut number = 0;
        while half_are_slow.has_room_for(offset(number)) {
            half_are_slow.read(offset(number));
            if number % 2 == 1 {
                half_are_slow.settle(offset(number));
            }
            number += 1;
        }
        assert_eq!(number, MOST_BITS);
        let committed = half_are_slow.to_commit();
        assert!(committed.metadata.starts_with("v=1,n=12000,bits=") && committed.metadata.len() <= MOST_METADATA);
        assert_eq!(left(&committed, 0..number).len() as u64, number / 2);
    }

    #[test]
    fn a_jump_of_offsets_needs_room_too() {
        let mut positions = Positions::from(Offset::ZERO);
        for number in 0..MOST_RUNS as u64 {
            positions.read(offset(2 * number));
        }
        assert!(positions.has_room_for(offset(MOST_BITS - 1)) && !positions.has_room_for(offset(MOST_BITS)));
        positions.settle(Offset::ZERO);
        assert!(positions.has_room_for(offset(1_000_000_000)));
        positions.read(offset(1_000_000_000));
        positions.settle(offset(1_000_000_000));
        assert!(positions.to_commit().metadata.len() <= MOST_METADATA);
        assert!(Positions::from(Offset::ZERO).has_room_for(offset(1_000_000)), "nothing is unsettled before it");
    }

    #[test]
    fn metadata_of_others_is_refused() {
        let read = |metadata: &str| decode(offset(5), metadata).map_err(|error| error.to_string());
        assert_eq!(read("v=1,n=0"), Ok(vec![]));
        assert_eq!(read("v=1,n=1,runs=AgEB"), Ok(vec![offset(6)..offset(7)]));
        assert_eq!(read("v=1,n=1,bits=Ag=="), Ok(vec![offset(6)..offset(7)]));
        for (metadata, why) in [
            ("a note", "is not Switchboard's"),
            ("v=2,n=1,runs=AgEB", "version 2, and this host knows version 1"),
            ("v=1", "how many"),
            ("v=1,n=", "how many"),
            ("v=1,n=1", "which records"),
            ("v=1,n=1,runs=AgEB,topic=x", "too many fields"),
            ("v=1,n=1,runs", "no value"),
            ("v=1,n=1,rans=AgEB", "unknown field"),
            ("v=1,n=1,runs=AgE", "not base64"),
            ("v=1,n=1,runs=AgE=", "end too early"),
            ("v=1,n=1,runs=AQE=", "do not alternate"),
            ("v=1,n=1,runs=AgEA", "do not alternate"),
            ("v=1,n=0,bits=AA==", "do not alternate"),
            ("v=1,n=2,bits=Ag==", "another number"),
            ("v=1,n=1,runs=Av///////////wEB", "beyond the last offset"),
        ] {
            assert!(
                read(metadata).as_ref().is_err_and(|error| error.contains(why)),
                "{metadata}: {:?}",
                read(metadata)
            );
        }
    }

    proptest! {
        /// Whatever owners read and settle, one after the other: no record is handled twice or forgotten, and the metadata
        /// fits.
        #[test]
        fn no_record_is_settled_twice_or_forgotten(
            gaps in prop::collection::vec(any::<bool>(), 1..600),
            owners in prop::collection::vec((1_usize..600, prop::collection::vec(any::<bool>(), 600)), 1..6),
        ) {
            let log: Vec<_> = (0..).zip(gaps).filter(|(_, is_gap)| !is_gap).map(|(number, _)| number).collect();
            let mut settled = BTreeSet::new();
            let mut committed = GroupOffset { offset: Offset::ZERO, metadata: String::new() };
            for (count, choices) in owners {
                let mut positions = Positions::of_former_owner(&committed).unwrap();
                for number in log.iter().filter(|number| offset(**number) >= committed.offset).take(count) {
                    let is_open = positions.read(offset(*number));
                    prop_assert_eq!(is_open, !settled.contains(number));
                    if is_open && choices[usize::try_from(*number).unwrap()] {
                        positions.settle(offset(*number));
                        settled.insert(*number);
                    }
                }
                committed = positions.to_commit();
                prop_assert!(committed.metadata.len() <= MOST_METADATA);
                prop_assert!(log.iter().all(|number| offset(*number) >= committed.offset || settled.contains(number)));
            }
        }
    }
}
