//! The checkpointer against a changelog in memory.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::*;

const SHARD: ShardId = ShardId::new(0).unwrap();

/// The changelog of one shard. The record at index n has the offset n.
#[derive(Default)]
struct Log {
    records: Vec<(&'static str, Option<&'static str>)>,
    /// The stable end. Control records make it larger than the number of records.
    end: Offset,
    topic: Option<ChangelogTopic>,
    reading: Option<Offset>,
    troubles: VecDeque<ChangelogEvent>,
    calls: Vec<String>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Log>>);

impl Fake {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }

    fn add(&self, key: &'static str, value: Option<&'static str>) {
        let mut log = self.log();
        log.records.push((key, value));
        log.end = log.records.len().try_into().unwrap();
    }
}

impl Changelog for Fake {
    fn describe(&mut self) -> Result<ChangelogTopic, ChangelogError> {
        self.log().topic.ok_or_else(|| ChangelogError::Unfit("no answer".into()))
    }

    fn bounds(&mut self, _: ShardId) -> Result<Range<Offset>, ChangelogError> {
        Ok(Offset::ZERO..self.log().end)
    }

    fn start(&mut self, _: ShardId, offset: Offset) -> Result<(), ChangelogError> {
        let mut log = self.log();
        log.calls.push(format!("start {offset}"));
        log.reading = Some(offset);
        Ok(())
    }

    fn stop(&mut self, _: ShardId) {
        let mut log = self.log();
        log.calls.push("stop".into());
        log.reading = None;
    }

    fn position(&mut self, _: ShardId) -> Option<Offset> {
        self.log().reading
    }

    fn poll(&mut self) -> ChangelogEvent {
        let mut log = self.log();
        if let Some(trouble) = log.troubles.pop_front() {
            return trouble;
        }
        let Some(offset) = log.reading else { return ChangelogEvent::Nothing };
        let record = usize::try_from(offset.get()).ok().and_then(|index| log.records.get(index).copied());
        let Some((key, value)) = record else {
            log.reading = Some(offset.max(log.end));
            return ChangelogEvent::Nothing;
        };
        log.reading = Some(offset.next());
        ChangelogEvent::Record { shard: SHARD, offset, key: key.into(), value: value.map(Into::into) }
    }
}

struct Rig {
    directory: tempfile::TempDir,
    fake: Fake,
    checkpointer: Checkpointer<Fake>,
}

impl Rig {
    fn new(tombstone_retention: Duration) -> Self {
        let fake = Fake::default();
        fake.log().topic = Some(ChangelogTopic { id: 7, tombstone_retention });
        let directory = tempfile::tempdir().unwrap();
        let checkpointer = Checkpointer::new(directory.path().to_owned(), 4, fake.clone());
        Self { directory, fake, checkpointer }
    }

    /// What a restart of the process does.
    fn restart(&mut self) {
        self.checkpointer.finish();
        let directory = self.directory.path().to_owned();
        // The files are closed first.
        self.checkpointer = Checkpointer::new(PathBuf::new(), 4, self.fake.clone());
        self.checkpointer = Checkpointer::new(directory, 4, self.fake.clone());
    }

    /// What a worker gets that takes over the shard: the next offset and the entries, if there is a checkpoint.
    fn open(&mut self) -> Option<(i64, Vec<String>)> {
        let (answer, answered) = mpsc::channel();
        let bounds = Offset::ZERO..self.fake.log().end;
        self.checkpointer.execute(Command::Open { shard: SHARD, bounds, answer });
        let Snapshot { meta, entries } = answered.try_recv().expect("an answer")?;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let entries = entries.map(|entry| entry.map(|(key, value)| format!("{}={}", text(key), text(value))).unwrap());
        Some((meta.offset.get(), entries.collect()))
    }

    fn follow(&mut self, worker: usize) {
        self.checkpointer.execute(Command::Follow { shard: SHARD, worker });
        self.checkpointer.run_due();
    }

    fn release(&mut self, worker: usize) {
        self.checkpointer.execute(Command::Release { shard: SHARD, worker });
    }

    /// Runs the checkpointer until the condition holds.
    fn run(&mut self, what: &str, condition: impl Fn(&mut Checkpointer<Fake>) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(&mut self.checkpointer) {
            assert!(Instant::now() < deadline, "no {what}");
            self.checkpointer.read();
            self.checkpointer.run_due();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn path(&self) -> PathBuf {
        self.checkpointer.path(SHARD)
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.log().calls)
    }
}

fn written(checkpointer: &mut Checkpointer<Fake>) -> Option<CheckpointMeta> {
    checkpointer.shards.get_mut(&SHARD)?.followed().map(|checkpoint| checkpoint.written)
}

const WEEK: Duration = Duration::from_hours(168);

fn owned(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|entry| (*entry).to_owned()).collect()
}

#[test]
fn a_restart_has_the_entries_and_continues_after_them() {
    let mut rig = Rig::new(WEEK);
    for (key, value) in [("a", Some("1")), ("b", Some("1")), ("a", Some("2")), ("b", None)] {
        rig.fake.add(key, value);
    }
    assert_eq!(rig.open(), None, "there is none yet");
    rig.follow(0);
    rig.run("checkpoint", |checkpointer| written(checkpointer).is_some_and(|meta| meta.offset.get() == 4));
    rig.fake.add("c", Some("1"));
    // The control record of a commit.
    rig.fake.log().end = 6.into();
    rig.restart();
    assert_eq!(rig.open(), Some((6, owned(&["a=2", "c=1"]))), "a process that ends leaves nothing to read");
    rig.follow(1);
    assert_eq!(rig.calls(), ["start 0", "start 6"]);
}

#[test]
fn an_unusable_checkpoint_is_replaced() {
    let mut rig = Rig::new(WEEK);
    rig.fake.add("a", Some("1"));
    for round in 0..4 {
        match round {
            0 => std::fs::write(rig.path(), "garbage").unwrap(),
            1 => rig.fake.log().topic = Some(ChangelogTopic { id: 8, tombstone_retention: WEEK }),
            2 => rig.checkpointer.shard_count = 8,
            _ => {
                let meta = CheckpointMeta { shard: SHARD, shard_count: 4, topic_id: 8, offset: 3.into(), as_of: now() };
                drop(Store::create(&rig.path(), 1 << 20, &meta).unwrap());
            }
        }
        assert_eq!(rig.open(), None, "round {round}");
        rig.follow(0);
        rig.restart();
        if round != 2 {
            assert_eq!(rig.open(), Some((1, owned(&["a=1"]))), "round {round}");
            rig.restart();
        }
    }
}

#[test]
fn a_condemned_checkpoint_is_replaced() {
    let mut rig = Rig::new(WEEK);
    rig.fake.add("a", Some("1"));
    rig.open();
    rig.follow(0);
    rig.checkpointer.read();
    rig.checkpointer.execute(Command::Condemn { shard: SHARD });
    assert_eq!(rig.open(), None);
    rig.follow(0);
    rig.restart();
    assert_eq!(rig.open(), Some((1, owned(&["a=1"]))));
}

#[test]
fn only_the_owner_stops_following() {
    let mut rig = Rig::new(WEEK);
    rig.open();
    rig.follow(0);
    rig.open();
    rig.follow(1);
    rig.release(0);
    rig.fake.add("a", Some("1"));
    rig.checkpointer.read();
    rig.release(1);
    assert_eq!(rig.calls(), ["start 0", "stop", "start 0", "stop"]);
    assert_eq!(rig.open(), Some((1, owned(&["a=1"]))), "what was read is written");
}

#[test]
fn a_checkpoint_is_as_old_as_the_last_complete_read() {
    let mut rig = Rig::new(Duration::from_secs(8));
    let read_to = |rig: &mut Rig, time: Timestamp| {
        rig.run("younger checkpoint", |checkpointer| written(checkpointer).is_some_and(|meta| meta.as_of >= time));
    };
    rig.fake.add("a", Some("1"));
    rig.open();
    rig.follow(0);
    let began = written(&mut rig.checkpointer).unwrap().as_of;
    // It is confirmed although nothing new is written.
    read_to(&mut rig, began.saturating_add(Duration::from_millis(500)));

    // The end is no longer reached, so the age stays.
    rig.fake.log().end = 100.into();
    rig.fake.log().reading = None;
    rig.run("question", |checkpointer| {
        checkpointer.shards.get_mut(&SHARD).unwrap().followed().unwrap().goal.is_some_and(|goal| goal.end.get() == 100)
    });
    let as_of = |rig: &mut Rig| rig.checkpointer.shards.get_mut(&SHARD).unwrap().followed().unwrap().current.as_of;
    let before = as_of(&mut rig);
    for _ in 0..10 {
        rig.checkpointer.read();
        rig.checkpointer.run_due();
    }
    assert_eq!(as_of(&mut rig), before);
}

/// Half of the tombstone retention bounds the age of a checkpoint. The other half is for reading on from it.
#[test]
fn a_checkpoint_that_catches_up_too_slowly_is_replaced() {
    let mut rig = Rig::new(Duration::from_secs(4));
    rig.fake.add("deleted", Some("1"));
    let meta = CheckpointMeta {
        shard: SHARD,
        shard_count: 4,
        topic_id: 7,
        offset: 1.into(),
        as_of: now().saturating_sub(Duration::from_millis(1600)),
    };
    let store = Store::create(&rig.path(), 1 << 20, &meta).unwrap();
    store.write([(&b"deleted"[..], Some(&b"1"[..]))], &meta).unwrap();
    drop(store);
    // The tombstone was here and has been compacted away.
    rig.fake.log().records[0] = ("b", Some("1"));
    rig.fake.log().end = 2.into();
    assert_eq!(rig.open(), Some((1, owned(&["deleted=1"]))));
    rig.follow(0);
    rig.run("new checkpoint", |checkpointer| checkpointer.changelog.log().calls.len() == 3);
    assert_eq!(rig.calls(), ["start 1", "stop", "start 0"]);
    rig.restart();
    assert_eq!(rig.open(), Some((2, owned(&["b=1"]))));
}

#[test]
fn trouble_leaves_the_host_without_a_checkpoint_and_the_file_alone() {
    let mut rig = Rig::new(WEEK);
    rig.fake.add("a", Some("1"));
    // An I/O error: a directory instead of a file.
    std::fs::create_dir(rig.path()).unwrap();
    assert_eq!(rig.open(), None);
    rig.follow(0);
    rig.checkpointer.run_due();
    assert_eq!((rig.calls(), rig.path().is_dir()), (vec![], true));
    std::fs::remove_dir(rig.path()).unwrap();

    // Another process has it open.
    let meta = CheckpointMeta { shard: SHARD, shard_count: 4, topic_id: 7, offset: 1.into(), as_of: now() };
    let store = Store::create(&rig.path(), 1 << 20, &meta).unwrap();
    assert_eq!(rig.open(), None);
    rig.follow(0);
    assert_eq!(rig.calls(), [""; 0]);
    drop(store);
    assert_eq!(rig.open(), Some((1, vec![])));

    // The topic cannot be described.
    rig.fake.log().topic = None;
    rig.restart();
    assert_eq!(rig.open(), None);
    // Tombstones are removed before a checkpoint could see them.
    rig.fake.log().topic = Some(ChangelogTopic { id: 7, tombstone_retention: Duration::ZERO });
    rig.restart();
    assert_eq!(rig.open(), None);
    rig.restart();
    rig.fake.log().topic = Some(ChangelogTopic { id: 7, tombstone_retention: WEEK });
    assert_eq!(rig.open(), Some((1, vec![])));
}

#[test]
fn records_that_were_deleted_suspend_the_checkpoint() {
    let mut rig = Rig::new(WEEK);
    rig.fake.add("a", Some("1"));
    rig.open();
    rig.follow(0);
    rig.fake.log().troubles.push_back(ChangelogEvent::Gone("deleted".into()));
    rig.checkpointer.read();
    rig.checkpointer.run_due();
    assert_eq!(rig.calls(), ["start 0", "stop"]);
    assert_eq!(rig.open(), Some((0, vec![])), "what was written is checked again and used");
}
