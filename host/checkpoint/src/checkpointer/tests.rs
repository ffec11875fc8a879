use std::collections::VecDeque;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::*;

const SHARD: ShardId = ShardId::new(0).unwrap();

/// The changelog of one shard: its record at the place n has the offset n.
#[derive(Default)]
struct Log {
    records: Vec<(&'static str, Option<&'static str>)>,
    /// The stable end, where it is not that of the records: control records.
    end: Offset,
    topic: Option<Topic>,
    reading: Option<Offset>,
    troubles: VecDeque<Polled>,
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
    fn describe(&mut self) -> Result<Topic, ChangelogError> {
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

    fn poll(&mut self) -> Polled {
        let mut log = self.log();
        if let Some(trouble) = log.troubles.pop_front() {
            return trouble;
        }
        let Some(offset) = log.reading else { return Polled::Nothing };
        let record = usize::try_from(offset.get()).ok().and_then(|place| log.records.get(place).copied());
        let Some((key, value)) = record else {
            log.reading = Some(offset.max(log.end));
            return Polled::Nothing;
        };
        log.reading = Some(offset.next());
        Polled::Record { shard: SHARD, offset, key: key.into(), value: value.map(Into::into) }
    }
}

struct Rig {
    directory: tempfile::TempDir,
    fake: Fake,
    checkpointer: Checkpointer<Fake>,
}

impl Rig {
    fn new(tombstones: Duration) -> Self {
        let fake = Fake::default();
        fake.log().topic = Some(Topic { id: 7, tombstones });
        let directory = tempfile::tempdir().unwrap();
        let checkpointer = Checkpointer::new(directory.path().to_owned(), 4, fake.clone());
        Self { directory, fake, checkpointer }
    }

    /// As after a restart of the process.
    fn restart(&mut self) {
        self.checkpointer.finish();
        let directory = self.directory.path().to_owned();
        // The files are closed first.
        self.checkpointer = Checkpointer::new(PathBuf::new(), 4, self.fake.clone());
        self.checkpointer = Checkpointer::new(directory, 4, self.fake.clone());
    }

    /// What a worker is given that takes the shard over: the offset to go on from and the entries, if there is a checkpoint.
    fn open(&mut self) -> Option<(i64, Vec<String>)> {
        let (answer, answered) = mpsc::channel();
        let bounds = Offset::ZERO..self.fake.log().end;
        self.checkpointer.answer(Command::Open { shard: SHARD, bounds, answer });
        let Snapshot { place, entries } = answered.try_recv().expect("an answer")?;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let entries = entries.map(|entry| entry.map(|(key, value)| format!("{}={}", text(key), text(value))).unwrap());
        Some((place.offset.get(), entries.collect()))
    }

    fn follow(&mut self, worker: usize) {
        self.checkpointer.answer(Command::Follow { shard: SHARD, worker });
        self.checkpointer.keep();
    }

    fn release(&mut self, worker: usize) {
        self.checkpointer.answer(Command::Release { shard: SHARD, worker });
    }

    /// Until the condition holds.
    fn run(&mut self, what: &str, condition: impl Fn(&mut Checkpointer<Fake>) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(&mut self.checkpointer) {
            assert!(Instant::now() < deadline, "no {what}");
            self.checkpointer.read();
            self.checkpointer.keep();
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

fn place(checkpointer: &mut Checkpointer<Fake>) -> Option<CheckpointMeta> {
    checkpointer.shards.get_mut(&SHARD)?.followed().map(|copy| copy.written)
}

const WEEK: Duration = Duration::from_hours(168);

fn owned(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|entry| (*entry).to_owned()).collect()
}

#[test]
fn a_restart_has_what_was_read_and_goes_on_after_it() {
    let mut rig = Rig::new(WEEK);
    for (key, value) in [("a", Some("1")), ("b", Some("1")), ("a", Some("2")), ("b", None)] {
        rig.fake.add(key, value);
    }
    assert_eq!(rig.open(), None, "there is none yet");
    rig.follow(0);
    rig.run("checkpoint", |checkpointer| place(checkpointer).is_some_and(|place| place.offset.get() == 4));
    rig.fake.add("c", Some("1"));
    // A commit's control record.
    rig.fake.log().end = 6.into();
    rig.restart();
    assert_eq!(rig.open(), Some((6, owned(&["a=2", "c=1"]))), "the end of a process leaves nothing to be read");
    rig.follow(1);
    assert_eq!(rig.calls(), ["start 0", "start 6"]);
}

#[test]
fn what_cannot_be_used_is_replaced() {
    let mut rig = Rig::new(WEEK);
    rig.fake.add("a", Some("1"));
    for round in 0..4 {
        match round {
            0 => std::fs::write(rig.path(), "garbage").unwrap(),
            1 => rig.fake.log().topic = Some(Topic { id: 8, tombstones: WEEK }),
            2 => rig.checkpointer.shard_count = 8,
            _ => {
                let place = CheckpointMeta { shard: SHARD, shards: 4, topic: 8, offset: 3.into(), as_of: now() };
                drop(Store::create(&rig.path(), 1 << 20, &place).unwrap());
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
fn a_condemned_checkpoint_is_made_anew() {
    let mut rig = Rig::new(WEEK);
    rig.fake.add("a", Some("1"));
    rig.open();
    rig.follow(0);
    rig.checkpointer.read();
    rig.checkpointer.answer(Command::Condemn { shard: SHARD });
    assert_eq!(rig.open(), None);
    rig.follow(0);
    rig.restart();
    assert_eq!(rig.open(), Some((1, owned(&["a=1"]))));
}

#[test]
fn only_the_owner_ends_the_keeping() {
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
fn a_checkpoint_is_as_old_as_the_last_time_that_all_was_read() {
    let mut rig = Rig::new(Duration::from_secs(8));
    let read_to = |rig: &mut Rig, time: Timestamp| {
        rig.run("younger checkpoint", |checkpointer| place(checkpointer).is_some_and(|place| place.as_of >= time));
    };
    rig.fake.add("a", Some("1"));
    rig.open();
    rig.follow(0);
    let began = place(&mut rig.checkpointer).unwrap().as_of;
    // Nothing new comes, and still it is confirmed.
    read_to(&mut rig, began.saturating_add(Duration::from_millis(500)));

    // The end is not reached any more: it stays as old as it is.
    rig.fake.log().end = 100.into();
    rig.fake.log().reading = None;
    rig.run("question", |checkpointer| {
        checkpointer.shards.get_mut(&SHARD).unwrap().followed().unwrap().goal.is_some_and(|goal| goal.end.get() == 100)
    });
    let as_of = |rig: &mut Rig| rig.checkpointer.shards.get_mut(&SHARD).unwrap().followed().unwrap().place.as_of;
    let before = as_of(&mut rig);
    for _ in 0..10 {
        rig.checkpointer.read();
        rig.checkpointer.keep();
    }
    assert_eq!(as_of(&mut rig), before);
}

/// Half of the time that tombstones are kept is for the age of a checkpoint, the other for reading on from it.
#[test]
fn a_checkpoint_that_was_read_on_too_slowly_is_made_anew() {
    let mut rig = Rig::new(Duration::from_secs(4));
    rig.fake.add("deleted", Some("1"));
    let place = CheckpointMeta {
        shard: SHARD,
        shards: 4,
        topic: 7,
        offset: 1.into(),
        as_of: now().saturating_sub(Duration::from_millis(1600)),
    };
    let store = Store::create(&rig.path(), 1 << 20, &place).unwrap();
    store.write([(&b"deleted"[..], Some(&b"1"[..]))], &place).unwrap();
    drop(store);
    // The tombstone was here, and has been compacted away.
    rig.fake.log().records[0] = ("b", Some("1"));
    rig.fake.log().end = 2.into();
    assert_eq!(rig.open(), Some((1, owned(&["deleted=1"]))));
    rig.follow(0);
    rig.run("new copy", |checkpointer| checkpointer.changelog.log().calls.len() == 3);
    assert_eq!(rig.calls(), ["start 1", "stop", "start 0"]);
    rig.restart();
    assert_eq!(rig.open(), Some((2, owned(&["b=1"]))));
}

#[test]
fn trouble_leaves_the_host_without_a_checkpoint_and_the_file_alone() {
    let mut rig = Rig::new(WEEK);
    rig.fake.add("a", Some("1"));
    // An I/O error: it is no file.
    std::fs::create_dir(rig.path()).unwrap();
    assert_eq!(rig.open(), None);
    rig.follow(0);
    rig.checkpointer.keep();
    assert_eq!((rig.calls(), rig.path().is_dir()), (vec![], true));
    std::fs::remove_dir(rig.path()).unwrap();

    // Another process has it.
    let place = CheckpointMeta { shard: SHARD, shards: 4, topic: 7, offset: 1.into(), as_of: now() };
    let store = Store::create(&rig.path(), 1 << 20, &place).unwrap();
    assert_eq!(rig.open(), None);
    rig.follow(0);
    assert_eq!(rig.calls(), [""; 0]);
    drop(store);
    assert_eq!(rig.open(), Some((1, vec![])));

    // Nobody knows what the topic is.
    rig.fake.log().topic = None;
    rig.restart();
    assert_eq!(rig.open(), None);
    // Its tombstones are gone before anything is copied.
    rig.fake.log().topic = Some(Topic { id: 7, tombstones: Duration::ZERO });
    rig.restart();
    assert_eq!(rig.open(), None);
    rig.restart();
    rig.fake.log().topic = Some(Topic { id: 7, tombstones: WEEK });
    assert_eq!(rig.open(), Some((1, vec![])));
}

#[test]
fn records_that_are_gone_end_the_keeping_for_a_while() {
    let mut rig = Rig::new(WEEK);
    rig.fake.add("a", Some("1"));
    rig.open();
    rig.follow(0);
    rig.fake.log().troubles.push_back(Polled::Gone("deleted".into()));
    rig.checkpointer.read();
    rig.checkpointer.keep();
    assert_eq!(rig.calls(), ["start 0", "stop"]);
    assert_eq!(rig.open(), Some((0, vec![])), "as much as was written, which is judged anew");
}
