//! One shard's checkpoint: a file of redb, whose transactions keep entries and the offset to go on from together.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, DatabaseError, OwnedRange, ReadableDatabase as _, StorageError, TableDefinition};
use switchboard_core::record::{Offset, OutOfRange, ShardId, Timestamp};

/// The changelog's key -> its value.
const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
/// What the file is about, under the version of this format: shard, shards, topic id, offset, as-of time.
const ABOUT: TableDefinition<u32, About> = TableDefinition::new("about");
const FORMAT: u32 = 1;

type About = (i32, u32, u128, i64, u64);

/// A checkpoint's place in its changelog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointMeta {
    pub shard: ShardId,
    /// Number of shards of the application.
    pub shards: u32,
    /// Kafka's id of the changelog's incarnation (KIP-516).
    pub topic: u128,
    /// All entries are as a read_committed reader has them who has read up to here: where to go on reading.
    pub offset: Offset,
    /// When such a reader had last read all that there was: tombstones of the entries that are in here were all written
    /// later.
    pub as_of: Timestamp,
}

/// Which shard a checkpoint is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WantedShard {
    pub(super) shard: ShardId,
    /// Number of shards of the application.
    pub(super) shards: u32,
}

/// The changelog as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    pub id: u128,
    /// Its `delete.retention.ms`: how long compaction keeps a tombstone at least.
    pub tombstones: Duration,
}

impl Topic {
    /// From this age on a checkpoint is too old: half of the time that tombstones are kept, so that the other half is left
    /// for reading on from it.
    pub(super) fn oldest(&self) -> Duration {
        self.tombstones / 2
    }
}

impl CheckpointMeta {
    /// Why a checkpoint may not stand for the changelog's beginning, if so.
    pub(super) fn refusal(
        &self,
        topic: &Topic,
        of: WantedShard,
        bounds: &Range<Offset>,
        now: Timestamp,
    ) -> Option<String> {
        let Range { start, end } = bounds;
        if (WantedShard { shard: self.shard, shards: self.shards }) != of {
            return Some(format!("it is of shard {} of {}", self.shard, self.shards));
        }
        if self.topic != topic.id {
            return Some("the changelog was deleted and made anew since".into());
        }
        if self.offset < *start {
            return Some(format!("its offset {} is below the changelog's start {start}", self.offset));
        }
        if self.offset > *end {
            return Some(format!("its offset {} is beyond the changelog's end {end}", self.offset));
        }
        match now.checked_since(self.as_of) {
            None => Some("it is from the future".into()),
            Some(age) if age >= topic.oldest() => Some(format!(
                "it is {age:.0?} old, and entries deleted since may have been compacted away (delete.retention.ms={})",
                topic.tombstones.as_millis()
            )),
            Some(_) => None,
        }
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// To be replaced.
    #[error("it is unusable: {0}")]
    Unusable(String),
    /// To be left alone.
    #[error("another process has {0} open: give each its own --instance or --state-dir")]
    Locked(PathBuf),
    /// The disk does not do what it should.
    #[error("{0}: {1}")]
    Storage(PathBuf, String),
}

/// An open file.
pub(super) struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens a file and checks it as a whole, every page's checksum: redb itself trusts what it reads. `None`: there is none.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(super) fn open(path: &Path, cache: usize) -> Result<Option<(Self, CheckpointMeta)>, StoreError> {
        let opened = redb::Builder::new().set_cache_size(cache).set_check_integrity_on_open(true).open(path);
        let database = match opened {
            Ok(database) => database,
            Err(DatabaseError::Storage(StorageError::Io(error))) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            // So redb tells of what is no file of its own.
            Err(DatabaseError::Storage(StorageError::Io(error)))
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                return Err(StoreError::Unusable(error.to_string()));
            }
            Err(DatabaseError::Storage(StorageError::Io(error))) => return Err(failed(path)(error)),
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::Locked(path.to_owned())),
            Err(error) => return Err(StoreError::Unusable(error.to_string())),
        };
        let store = Self { database, path: path.to_owned() };
        let place = store.snapshot()?.place;
        Ok(Some((store, place)))
    }

    /// Makes an empty file in the place of whatever is there.
    ///
    /// # Errors
    /// When the disk does not let it.
    pub(super) fn create(path: &Path, cache: usize, place: &CheckpointMeta) -> Result<Self, StoreError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(path)(error)),
            _ => {}
        }
        let database = redb::Builder::new().set_cache_size(cache).create(path).map_err(failed(path))?;
        let store = Self { database, path: path.to_owned() };
        store.write([], place)?;
        Ok(store)
    }

    /// Changes (`None` deletes) and the place that they lead to, in one transaction.
    ///
    /// # Errors
    /// When the disk does not let it; the file is as it was, and not to be used before it is opened again.
    pub(super) fn write<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
        place: &CheckpointMeta,
    ) -> Result<(), StoreError> {
        let write = || {
            let transaction = self.database.begin_write()?;
            {
                let mut entries = transaction.open_table(ENTRIES)?;
                for (key, value) in changes {
                    match value {
                        Some(value) => entries.insert(key, value)?,
                        None => entries.remove(key)?,
                    };
                }
                transaction.open_table(ABOUT)?.insert(FORMAT, about(place))?;
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error: redb::Error| failed(&self.path)(error))
    }

    /// Entries and place as they are now, whatever is written meanwhile.
    ///
    /// # Errors
    /// When it is no checkpoint, or the disk does not let it.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let read = || {
            let transaction = self.database.begin_read()?;
            let about = transaction.open_table(ABOUT)?;
            let place = about.get_owned(FORMAT)?.map(|place| place.value());
            let entries = transaction.open_table(ENTRIES)?.range_owned::<&[u8]>(..)?;
            Ok((place, Entries { entries, path: self.path.clone() }))
        };
        match read() {
            Ok((Some(about), entries)) => {
                let place = place(about).map_err(|error| StoreError::Unusable(error.to_string()))?;
                Ok(Snapshot { place, entries })
            }
            Ok((None, _)) => Err(StoreError::Unusable(format!("it is not of the format {FORMAT}"))),
            Err(redb::Error::Io(error)) => Err(failed(&self.path)(error)),
            Err(error) => Err(StoreError::Unusable(error.to_string())),
        }
    }
}

/// A checkpoint to restore from: what it has, and where the changelog is to be read on.
pub struct Snapshot {
    pub place: CheckpointMeta,
    pub entries: Entries,
}

/// A checkpoint's entries in their keys' order. The file stays open as long as this is there.
pub struct Entries {
    entries: OwnedRange<&'static [u8], &'static [u8]>,
    path: PathBuf,
}

impl Iterator for Entries {
    type Item = Result<(Vec<u8>, Vec<u8>), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entries.next()?;
        Some(match entry {
            Ok((key, value)) => Ok((key.value().to_vec(), value.value().to_vec())),
            Err(error) => Err(failed(&self.path)(error)),
        })
    }
}

fn about(place: &CheckpointMeta) -> About {
    let CheckpointMeta { shard, shards, topic, offset, as_of } = *place;
    (shard.get(), shards, topic, offset.get(), u64::try_from(as_of.as_millis()).unwrap_or_default())
}

/// The inverse of `about`.
fn place((shard, shards, topic, offset, as_of): About) -> Result<CheckpointMeta, OutOfRange> {
    let (shard, offset) = (shard.try_into()?, offset.try_into()?);
    let as_of = Timestamp::from_millis(i64::try_from(as_of).unwrap_or(i64::MAX));
    Ok(CheckpointMeta { shard, shards, topic, offset, as_of })
}

fn failed<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> StoreError + '_ {
    |error| StoreError::Storage(path.to_owned(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: usize = 1 << 20;
    const PLACE: CheckpointMeta = CheckpointMeta {
        shard: ShardId::new(3).unwrap(),
        shards: 4,
        topic: 7,
        offset: Offset::new(50).unwrap(),
        as_of: Timestamp::from_millis(1000),
    };

    fn entries(store: &Store) -> Vec<(String, String)> {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let entries = store.snapshot().unwrap().entries.map(Result::unwrap);
        entries.map(|(key, value)| (text(key), text(value))).collect()
    }

    fn owned(entries: &[(&str, &str)]) -> Vec<(String, String)> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// A file with 300 entries, a directory of its own, and its path.
    fn filled() -> (tempfile::TempDir, PathBuf, Vec<(String, String)>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shard-3.redb");
        let store = Store::create(&path, CACHE, &PLACE).unwrap();
        let keys: Vec<_> = (0..300).map(|number| format!("tenant\0key-{number:03}")).collect();
        store.write(keys.iter().map(|key| (key.as_bytes(), Some([b'v'; 200].as_slice()))), &PLACE).unwrap();
        let entries = entries(&store);
        drop(store);
        (directory, path, entries)
    }

    #[test]
    fn what_is_written_is_there_after_it_is_opened_again_and_deleted_keys_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        assert!(Store::open(&path, CACHE).unwrap().is_none());
        let store = Store::create(&path, CACHE, &PLACE).unwrap();
        store.write([(&b"a"[..], Some(&b"1"[..])), (b"b", Some(b"2")), (b"c", Some(b""))], &PLACE).unwrap();
        let later = CheckpointMeta { offset: 60.into(), as_of: Timestamp::from_millis(2000), ..PLACE };
        let before = store.snapshot().unwrap();
        store.write([(&b"a"[..], None), (b"b", Some(&b"3"[..])), (b"x", None)], &later).unwrap();
        assert_eq!((before.place, before.entries.count()), (PLACE, 3), "a reader keeps what it began with");
        drop(store);
        let (store, place) = Store::open(&path, CACHE).unwrap().unwrap();
        assert_eq!(place, later);
        assert_eq!(entries(&store), owned(&[("b", "3"), ("c", "")]));
        drop(store);
        assert_eq!(entries(&Store::create(&path, CACHE, &PLACE).unwrap()), [], "a file made anew is empty");
    }

    #[test]
    fn an_open_file_is_nobody_elses() {
        let (_directory, path, _) = filled();
        let _store = Store::open(&path, CACHE).unwrap();
        assert!(matches!(Store::open(&path, CACHE), Err(StoreError::Locked(_))));
    }

    #[test]
    fn a_killed_writers_file_is_as_its_last_transaction_left_it() {
        let (directory, path, entries_before) = filled();
        let (store, _) = Store::open(&path, CACHE).unwrap().unwrap();
        let later = CheckpointMeta { offset: 99.into(), ..PLACE };
        store.write([(&b"tenant\0key-000"[..], None)], &later).unwrap();
        // As a kill leaves it: not closed.
        let copy = directory.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        let (store, place) = Store::open(&copy, CACHE).unwrap().unwrap();
        assert_eq!(place, later);
        assert_eq!(entries(&store), entries_before[1..]);
    }

    #[test]
    fn what_is_no_checkpoint_is_unusable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let unusable = |what: &str| {
            assert!(matches!(Store::open(&path, CACHE), Err(StoreError::Unusable(_))), "{what}");
        };
        fs::write(&path, "").unwrap();
        unusable("empty");
        fs::write(&path, "not a database").unwrap();
        unusable("short text");
        fs::write(&path, vec![0; 100_000]).unwrap();
        unusable("zeros");
        fs::remove_file(&path).unwrap();
        drop(Database::create(&path).unwrap());
        unusable("a database without tables");
        let store = Store::create(&path, CACHE, &PLACE).unwrap();
        let transaction = store.database.begin_write().unwrap();
        transaction.open_table(ABOUT).unwrap().retain(|_, _| false).unwrap();
        transaction.open_table(ABOUT).unwrap().insert(FORMAT + 1, (3, 4, 7, 50, 1000)).unwrap();
        transaction.commit().unwrap();
        drop(store);
        unusable("another format");
    }

    /// Every kind of damage, all over the file: it is found, or it is where nothing is. Never a panic, never other entries.
    #[test]
    fn damage_is_found_when_the_file_is_opened() {
        let (_directory, path, whole) = filled();
        let good = fs::read(&path).unwrap();
        let mut random = 88_172_645_463_325_252_u64;
        let mut next = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % below as u64).unwrap()
        };
        let mut found = 0;
        for round in 0..600 {
            let mut bad = good.clone();
            let place = next(good.len());
            match round % 4 {
                0 => bad[place] ^= 1 << next(8),
                1 => bad[place % 4096] ^= 1 << next(8),
                2 => bad.truncate(place),
                _ => bad[place..(place + 4096).min(good.len())]
                    .iter_mut()
                    .for_each(|byte| *byte = u8::try_from(next(256)).unwrap()),
            }
            fs::write(&path, &bad).unwrap();
            match Store::open(&path, CACHE) {
                Ok(Some((store, place))) => {
                    assert_eq!(place, PLACE);
                    assert_eq!(entries(&store), whole);
                    store.write([(&b"new"[..], Some(&b"entry"[..]))], &PLACE).unwrap();
                }
                Err(StoreError::Unusable(_)) => found += 1,
                other => panic!("{:?}", other.map(|_| ())),
            }
        }
        assert!(found > 200, "{found} of 600 damaged files found out");
    }

    #[test]
    fn a_checkpoint_is_refused_that_does_not_fit_the_changelog() {
        let topic = Topic { id: 7, tombstones: Duration::from_secs(20) };
        let refusal = |place: CheckpointMeta, bounds: Range<u32>, now: i64| {
            let of = WantedShard { shard: 3.into(), shards: 4 };
            place.refusal(&topic, of, &(bounds.start.into()..bounds.end.into()), Timestamp::from_millis(now))
        };
        let expect = |refusal: Option<String>, words: &str| {
            let refusal = refusal.unwrap();
            assert!(refusal.contains(words), "{refusal}");
        };
        assert_eq!(refusal(PLACE, 50..50, 1000), None);
        assert_eq!(refusal(PLACE, 0..51, 10_999), None);
        expect(refusal(PLACE, 51..60, 1000), "below");
        expect(refusal(PLACE, 0..49, 1000), "beyond");
        expect(refusal(PLACE, 0..51, 11_000), "10s old");
        expect(refusal(PLACE, 0..51, 999), "future");
        expect(refusal(CheckpointMeta { topic: 8, ..PLACE }, 0..51, 1000), "made anew");
        expect(refusal(CheckpointMeta { shard: 2.into(), ..PLACE }, 0..51, 1000), "shard 2");
        expect(refusal(CheckpointMeta { shards: 8, ..PLACE }, 0..51, 1000), "of 8");
    }
}
