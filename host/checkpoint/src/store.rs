//! One shard's checkpoint file: a redb database whose transactions write entries and the next offset together.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, DatabaseError, OwnedRange, ReadableDatabase as _, StorageError, TableDefinition};
use switchboard_core::record::{Offset, OutOfRange, ShardId, Timestamp};

/// The changelog's key -> its value.
const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
/// The file's metadata under the version of its format: shard, number of shards, topic id, offset, as-of time.
const METADATA: TableDefinition<u32, About> = TableDefinition::new("about");
const FORMAT_VERSION: u32 = 1;

type About = (i32, u32, u128, i64, u64);

/// Which changelog a checkpoint belongs to, and how far it has read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointMeta {
    /// The shard.
    pub shard: ShardId,
    /// The application's number of shards.
    pub shard_count: u32,
    /// Kafka's id of the changelog topic (KIP-516). A topic that is deleted and created again has another one.
    pub topic_id: u128,
    /// The next offset to read. The entries are those that a read_committed reader has after reading up to here.
    pub offset: Offset,
    /// When such a reader had last read everything. Tombstones of the entries in this checkpoint were all written later.
    pub as_of: Timestamp,
}

/// Which shard a checkpoint is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WantedShard {
    pub(super) shard: ShardId,
    /// The application's number of shards.
    pub(super) shard_count: u32,
}

/// The changelog topic as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangelogTopic {
    /// Kafka's id of the topic (KIP-516).
    pub id: u128,
    /// The topic's `delete.retention.ms`: compaction keeps a tombstone for at least this time.
    pub tombstone_retention: Duration,
}

impl ChangelogTopic {
    /// The age from which on a checkpoint is too old: half of the time that tombstones are kept. The other half is left for
    /// reading the changelog from the checkpoint's offset to its end.
    pub(super) fn max_checkpoint_age(&self) -> Duration {
        self.tombstone_retention / 2
    }
}

/// Why a checkpoint cannot stand for the beginning of the changelog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    #[error("it is of shard {shard} of {shard_count}")]
    Shard { shard: ShardId, shard_count: u32 },
    #[error("it is of a topic that was deleted; the changelog was created again since")]
    Topic,
    #[error("its offset {offset} is below the changelog's start {start}")]
    BelowStart { offset: Offset, start: Offset },
    #[error("its offset {offset} is beyond the changelog's end {end}")]
    BeyondEnd { offset: Offset, end: Offset },
    #[error("it is from the future")]
    Future,
    #[error(
        "it is {age:.0?} old, and tombstones written since may have been compacted away (delete.retention.ms={retention_ms})"
    )]
    TooOld { age: Duration, retention_ms: u128 },
}

impl CheckpointMeta {
    /// Checks that the checkpoint may stand for the beginning of the changelog.
    pub(super) fn check(
        &self,
        topic: &ChangelogTopic,
        wanted: WantedShard,
        bounds: &Range<Offset>,
        now: Timestamp,
    ) -> Result<(), Mismatch> {
        let Range { start, end } = *bounds;
        let Self { shard, shard_count, offset, .. } = *self;
        if (WantedShard { shard, shard_count }) != wanted {
            return Err(Mismatch::Shard { shard, shard_count });
        }
        if self.topic_id != topic.id {
            return Err(Mismatch::Topic);
        }
        if offset < start {
            return Err(Mismatch::BelowStart { offset, start });
        }
        if offset > end {
            return Err(Mismatch::BeyondEnd { offset, end });
        }
        let age = now.checked_since(self.as_of).ok_or(Mismatch::Future)?;
        if age >= topic.max_checkpoint_age() {
            return Err(Mismatch::TooOld { age, retention_ms: topic.tombstone_retention.as_millis() });
        }
        Ok(())
    }
}

/// Why a checkpoint file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is damaged or is no checkpoint. Replace it.
    #[error("it is unusable: {0}")]
    Unusable(String),
    /// Another process has the file open. Leave it alone.
    #[error("another process has {0} open: give each its own --instance or --state-dir")]
    Locked(PathBuf),
    /// The disk failed. Do not use the file before it has been opened and checked again.
    #[error("{path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why the database failed.
        source: Box<redb::Error>,
    },
}

/// An open file.
pub(super) struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens a file and checks every page's checksum: redb itself trusts what it reads. `None`: the file does not exist.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Option<(Self, CheckpointMeta)>, StoreError> {
        let opened = redb::Builder::new().set_cache_size(cache_bytes).set_check_integrity_on_open(true).open(path);
        let database = match opened {
            Ok(database) => database,
            Err(DatabaseError::Storage(StorageError::Io(error))) => {
                return match error.kind() {
                    io::ErrorKind::NotFound => Ok(None),
                    // This is how redb reports a file that it did not write.
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                        Err(StoreError::Unusable(error.to_string()))
                    }
                    _ => Err(failed(path)(error)),
                };
            }
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::Locked(path.to_owned())),
            Err(error) => return Err(StoreError::Unusable(error.to_string())),
        };
        let store = Self { database, path: path.to_owned() };
        let meta = store.snapshot()?.meta;
        Ok(Some((store, meta)))
    }

    /// Creates an empty file, in place of whatever is there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn create(path: &Path, cache_bytes: usize, meta: &CheckpointMeta) -> Result<Self, StoreError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(path)(error)),
            _ => {}
        }
        let database = redb::Builder::new().set_cache_size(cache_bytes).create(path).map_err(failed(path))?;
        let store = Self { database, path: path.to_owned() };
        store.write([], meta)?;
        Ok(store)
    }

    /// Writes changes (`None` deletes) and the metadata after them, in one transaction.
    ///
    /// # Errors
    /// When the disk refuses. The file is unchanged then. Do not use it before it has been opened again.
    pub(super) fn write<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
        meta: &CheckpointMeta,
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
                transaction.open_table(METADATA)?.insert(FORMAT_VERSION, to_about(meta))?;
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error: redb::Error| failed(&self.path)(error))
    }

    /// Entries and metadata as they are now. Later writes do not change the snapshot.
    ///
    /// # Errors
    /// When the file is no checkpoint, or the disk fails.
    pub(super) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let read = || {
            let transaction = self.database.begin_read()?;
            let about = transaction.open_table(METADATA)?;
            let about = about.get_owned(FORMAT_VERSION)?.map(|about| about.value());
            let entries = transaction.open_table(ENTRIES)?.range_owned::<&[u8]>(..)?;
            Ok((about, Entries { entries, path: self.path.clone() }))
        };
        match read() {
            Ok((Some(about), entries)) => {
                let meta = from_about(about).map_err(|error| StoreError::Unusable(error.to_string()))?;
                Ok(Snapshot { meta, entries })
            }
            Ok((None, _)) => Err(StoreError::Unusable(format!("it does not have the format {FORMAT_VERSION}"))),
            Err(redb::Error::Io(error)) => Err(failed(&self.path)(error)),
            Err(error) => Err(StoreError::Unusable(error.to_string())),
        }
    }
}

/// What a restore starts with: entries, and the offset from which to read the changelog.
pub struct Snapshot {
    /// Which changelog the entries are from, and up to which offset.
    pub meta: CheckpointMeta,
    /// The entries.
    pub entries: Entries,
}

/// A checkpoint's entries in key order. The file stays open until this is dropped.
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

fn to_about(meta: &CheckpointMeta) -> About {
    let CheckpointMeta { shard, shard_count, topic_id, offset, as_of } = *meta;
    (shard.get(), shard_count, topic_id, offset.get(), u64::try_from(as_of.as_millis()).unwrap_or_default())
}

/// The inverse of `to_about`.
fn from_about((shard, shard_count, topic_id, offset, as_of): About) -> Result<CheckpointMeta, OutOfRange> {
    let (shard, offset) = (shard.try_into()?, offset.try_into()?);
    let as_of = Timestamp::from_millis(i64::try_from(as_of).unwrap_or(i64::MAX));
    Ok(CheckpointMeta { shard, shard_count, topic_id, offset, as_of })
}

fn failed<E: Into<redb::Error>>(path: &Path) -> impl Fn(E) -> StoreError + '_ {
    |error| StoreError::Database { path: path.to_owned(), source: Box::new(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: usize = 1 << 20;
    const META: CheckpointMeta = CheckpointMeta {
        shard: ShardId::new(3).unwrap(),
        shard_count: 4,
        topic_id: 7,
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

    /// A directory, the path of a file in it, and the file's 300 entries.
    fn filled() -> (tempfile::TempDir, PathBuf, Vec<(String, String)>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shard-3.redb");
        let store = Store::create(&path, CACHE, &META).unwrap();
        let keys: Vec<_> = (0..300).map(|number| format!("tenant\0key-{number:03}")).collect();
        store.write(keys.iter().map(|key| (key.as_bytes(), Some([b'v'; 200].as_slice()))), &META).unwrap();
        let entries = entries(&store);
        drop(store);
        (directory, path, entries)
    }

    #[test]
    fn written_entries_survive_reopening_and_deleted_keys_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        assert!(Store::open(&path, CACHE).unwrap().is_none());
        let store = Store::create(&path, CACHE, &META).unwrap();
        store.write([(&b"a"[..], Some(&b"1"[..])), (b"b", Some(b"2")), (b"c", Some(b""))], &META).unwrap();
        let later = CheckpointMeta { offset: 60.into(), as_of: Timestamp::from_millis(2000), ..META };
        let before = store.snapshot().unwrap();
        store.write([(&b"a"[..], None), (b"b", Some(&b"3"[..])), (b"x", None)], &later).unwrap();
        assert_eq!((before.meta, before.entries.count()), (META, 3), "a snapshot does not change");
        drop(store);
        let (store, meta) = Store::open(&path, CACHE).unwrap().unwrap();
        assert_eq!(meta, later);
        assert_eq!(entries(&store), owned(&[("b", "3"), ("c", "")]));
        drop(store);
        assert_eq!(entries(&Store::create(&path, CACHE, &META).unwrap()), [], "a file that was created again is empty");
    }

    #[test]
    fn an_open_file_is_locked() {
        let (_directory, path, _) = filled();
        let _store = Store::open(&path, CACHE).unwrap();
        assert!(matches!(Store::open(&path, CACHE), Err(StoreError::Locked(_))));
    }

    #[test]
    fn the_file_of_a_killed_writer_has_its_last_transaction() {
        let (directory, path, entries_before) = filled();
        let (store, _) = Store::open(&path, CACHE).unwrap().unwrap();
        let later = CheckpointMeta { offset: 99.into(), ..META };
        store.write([(&b"tenant\0key-000"[..], None)], &later).unwrap();
        // A kill leaves the file like this: not closed.
        let copy = directory.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        let (store, meta) = Store::open(&copy, CACHE).unwrap().unwrap();
        assert_eq!(meta, later);
        assert_eq!(entries(&store), entries_before[1..]);
    }

    #[test]
    fn a_file_that_is_no_checkpoint_is_unusable() {
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
        let store = Store::create(&path, CACHE, &META).unwrap();
        let transaction = store.database.begin_write().unwrap();
        transaction.open_table(METADATA).unwrap().retain(|_, _| false).unwrap();
        transaction.open_table(METADATA).unwrap().insert(FORMAT_VERSION + 1, (3, 4, 7, 50, 1000)).unwrap();
        transaction.commit().unwrap();
        drop(store);
        unusable("another format");
    }

    /// Damage of every kind all over the file is found, or hits unused bytes. It never causes a panic or other entries.
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
                Ok(Some((store, meta))) => {
                    assert_eq!(meta, META);
                    assert_eq!(entries(&store), whole);
                    store.write([(&b"new"[..], Some(&b"entry"[..]))], &META).unwrap();
                }
                Err(StoreError::Unusable(_)) => found += 1,
                other => panic!("{:?}", other.map(|_| ())),
            }
        }
        assert!(found > 200, "{found} of 600 damaged files were found");
    }

    #[test]
    fn a_checkpoint_that_does_not_fit_the_changelog_is_refused() {
        let topic = ChangelogTopic { id: 7, tombstone_retention: Duration::from_secs(20) };
        let check = |meta: CheckpointMeta, bounds: Range<u32>, now: i64| {
            let wanted = WantedShard { shard: 3.into(), shard_count: 4 };
            meta.check(&topic, wanted, &(bounds.start.into()..bounds.end.into()), Timestamp::from_millis(now))
        };
        let expect = |result: Result<(), Mismatch>, words: &str| {
            let mismatch = result.unwrap_err().to_string();
            assert!(mismatch.contains(words), "{mismatch}");
        };
        assert_eq!(check(META, 50..50, 1000), Ok(()));
        assert_eq!(check(META, 0..51, 10_999), Ok(()));
        expect(check(META, 51..60, 1000), "below");
        expect(check(META, 0..49, 1000), "beyond");
        expect(check(META, 0..51, 11_000), "10s old");
        expect(check(META, 0..51, 999), "future");
        expect(check(CheckpointMeta { topic_id: 8, ..META }, 0..51, 1000), "created again");
        expect(check(CheckpointMeta { shard: 2.into(), ..META }, 0..51, 1000), "shard 2");
        expect(check(CheckpointMeta { shard_count: 8, ..META }, 0..51, 1000), "of 8");
    }
}
