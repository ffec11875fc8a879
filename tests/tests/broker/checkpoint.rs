//! Does a restart read only the changelog after the checkpoint, and does the changelog win when a checkpoint is wrong?

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use redb::{Database, ReadableTable as _, TableDefinition};
use switchboard_tests::app::{App, WAIT_LIMIT, answers};
use switchboard_tests::client::Record;
use switchboard_tests::host::Host;
use switchboard_tests::progress;

/// An application with one shard, and the directory of its checkpoints.
struct Checkpointed {
    app: App,
    directory: tempfile::TempDir,
    /// The number of outputs so far.
    outputs: usize,
}

/// The numbers that a host logs after a restore. One of the entries is the host's own: the tenant's last run.
#[derive(Debug, PartialEq, Eq)]
struct Restored {
    entries: usize,
    records: usize,
}

impl Checkpointed {
    fn new(prefix: &str) -> Result<Self> {
        let app = App::hostile(prefix, &["IN", "OUT"], 1)?;
        let app = app
            .arg("--shards", "1")
            .arg("--members", "1")
            .arg("--instance", "one")
            .env("RUST_LOG", "switchboard=debug");
        Ok(Self { app, directory: tempfile::tempdir()?, outputs: 0 })
    }

    fn state_dir(&self) -> String {
        self.directory.path().display().to_string()
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join(&self.app.name).join("one/shard-0.redb")
    }

    fn changelog(&self) -> String {
        format!("{}-switchboard-changelog", self.app.name)
    }

    /// Starts a host that keeps checkpoints. Returns what it has restored.
    fn start(&self, name: &str) -> Result<(Host, Restored)> {
        let host = self.app.run(name, &["--state-dir", &self.state_dir()])?;
        let line = host.wait_for("its shard", WAIT_LIMIT, |line| line.contains("restore finished shards=1 "))?;
        let number = |field: &str| -> Result<usize> {
            let (_, rest) = line.split_once(field).with_context(|| format!("no {field:?} in {line}"))?;
            Ok(rest.split(' ').next().context("no word")?.parse()?)
        };
        let restored = Restored { entries: number(" checkpoint_entries=")?, records: number(" changelog_records=")? };
        Ok((host, restored))
    }

    /// Sends messages with these words for the tenant `a`, and waits until they are processed.
    fn send(&mut self, words: &[String]) -> Result<()> {
        let records: Vec<_> = words.iter().map(|word| self.app.word("a", word)).collect();
        self.app.client.produce(&records)?;
        self.outputs += words.len();
        self.app.wait_for("OUT", self.outputs).map(drop)
    }

    /// The keys of the tenant `a`, as its plugin sees them.
    fn keys(&mut self) -> Result<BTreeSet<String>> {
        self.send(&["list ".to_owned()])?;
        let outputs = self.app.client.read_all(self.app.topic("OUT"))?;
        let list = answers(&outputs, "a").last().copied().context("no answer")?.to_owned();
        Ok(list.trim_matches(['[', ']']).split(", ").map(|key| key.trim_matches('"').to_owned()).collect())
    }

    /// Whether the file contains these bytes.
    fn file_has(&self, text: &[u8]) -> Result<bool> {
        Ok(fs::read(self.file())?.windows(text.len()).any(|window| window == text))
    }
}

fn set(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("state key-{number}=1")).collect()
}

fn keys(numbers: std::ops::Range<usize>) -> BTreeSet<String> {
    numbers.map(|number| format!("key-{number}")).collect()
}

#[test]
fn a_restart_reads_only_the_changelog_after_the_checkpoint() -> Result<()> {
    let mut test = Checkpointed::new("restart")?;
    let (mut host, restored) = test.start("first")?;
    assert_eq!(restored, Restored { entries: 0, records: 0 });
    test.send(&set(0..300))?;
    test.send(&["state key-0".to_owned()])?;
    assert!(host.terminate(WAIT_LIMIT)?.success());

    let (mut host, restored) = test.start("after a stop")?;
    assert_eq!(restored, Restored { entries: 300, records: 0 });
    test.send(&set(300..400))?;
    host.wait_for("a checkpoint", WAIT_LIMIT, |line| line.contains("checkpoint written"))?;
    test.send(&set(400..410))?;
    host.kill()?;

    let (mut host, Restored { entries, records }) = test.start("after a kill")?;
    assert!(entries > 299 && records < 110 && entries + records >= 409, "{entries} entries, {records} records");
    assert_eq!(test.keys()?, keys(1..410));
    assert!(host.terminate(WAIT_LIMIT)?.success());
    let mut host = test.app.run("without a state directory", &[])?;
    let line = host.wait_for("its shard", WAIT_LIMIT, |line| line.contains("restore finished shards=1 "))?;
    assert!(line.contains(" checkpoint_entries=0 "), "{line}");
    assert_eq!(test.keys()?, keys(1..410));
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}

#[test]
fn a_lost_or_damaged_checkpoint_costs_only_a_full_restore() -> Result<()> {
    let mut test = Checkpointed::new("damaged")?;
    let (mut host, _) = test.start("first")?;
    test.send(&set(0..300))?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    let good = fs::read(test.file())?;

    let garbage: Vec<u8> = (0..100_000_usize).map(|index| (index * 37 + index / 11).to_le_bytes()[0]).collect();
    let scrambled = |from: usize, to: usize| {
        let mut bad = good.clone();
        bad[from..to].iter_mut().for_each(|byte| *byte ^= 0x55);
        bad
    };
    let damages = [
        ("lost", None),
        ("empty", Some(vec![])),
        ("garbage", Some(garbage)),
        ("truncated", Some(good[..good.len() / 2].to_vec())),
        ("a damaged head", Some(scrambled(0, 100))),
        ("a damaged body", Some(scrambled(good.len() / 4, good.len() / 4 * 3))),
    ];
    for (damage, bytes) in damages {
        match bytes {
            Some(bytes) => fs::write(test.file(), bytes)?,
            None => fs::remove_dir_all(test.directory.path())?,
        }
        let (mut host, restored) = test.start(damage)?;
        assert_eq!((restored.entries, restored.records >= 300), (0, true), "{damage}: {restored:?}");
        let reason = if damage == "lost" { "there is no checkpoint" } else { "reason=it is unusable" };
        let reasons = host.log().into_iter().filter(|line| line.contains(reason)).count();
        assert_eq!(reasons, 1, "{damage}: {:#?}", host.log());
        assert_eq!(test.keys()?, keys(0..300), "{damage}");
        assert!(host.terminate(WAIT_LIMIT)?.success());
        let (mut host, restored) = test.start("after it")?;
        assert_eq!(restored, Restored { entries: 301, records: 0 }, "{damage}: the checkpoint was replaced");
        assert!(host.terminate(WAIT_LIMIT)?.success());
    }
    Ok(())
}

#[test]
fn a_checkpoint_of_a_recreated_changelog_is_not_used() -> Result<()> {
    let mut test = Checkpointed::new("recreated")?;
    let (mut host, _) = test.start("first")?;
    test.send(&set(0..50))?;
    assert!(host.terminate(WAIT_LIMIT)?.success());

    // The new changelog has more records than before, so the checkpoint's offset would fit.
    let changelog = test.changelog();
    test.app.client.delete_topics(&[&changelog])?;
    test.app.client.create_topic(&changelog, 1, &[("cleanup.policy", "compact")])?;
    test.app.client.alter_topic(&changelog, &[("cleanup.policy", "compact"), ("delete.retention.ms", WEEK_MS)])?;
    let entries = (1000..1200).map(|number| entry(&changelog, &format!("a\0key-{number}")));
    test.app.client.produce(&entries.collect::<Vec<_>>())?;

    let (mut host, restored) = test.start("second")?;
    assert_eq!(restored, Restored { entries: 0, records: 200 });
    assert!(
        host.log()
            .iter()
            .any(|line| line.contains("the checkpoint is not used") && line.contains("created again since"))
    );
    assert_eq!(test.keys()?, keys(1000..1200));
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}

const WEEK_MS: &str = "604800000";

fn entry(changelog: &str, key: &str) -> Record {
    Record {
        topic: changelog.to_owned(),
        partition: Some(0),
        key: Some(key.into()),
        value: Some("1".into()),
        ..Record::default()
    }
}

/// Compaction removes tombstones without moving the log's start. An old checkpoint would bring a deleted key back, and
/// the log would not show it.
#[test]
fn a_key_whose_tombstone_was_compacted_away_does_not_come_back() -> Result<()> {
    let mut test = Checkpointed::new("tombstone")?;
    let (mut host, _) = test.start("before the delete")?;
    test.send(&["state deleted=1 kept=1".to_owned()])?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    assert!(test.file_has(b"a\0deleted")?);
    let stale = fs::read(test.file())?;

    let mut host = test.app.run("deletes", &[])?;
    test.send(&["state deleted".to_owned()])?;
    assert!(host.terminate(WAIT_LIMIT)?.success());

    // As if `delete.retention.ms` had passed.
    let changelog = test.changelog();
    let compact = ("cleanup.policy", "compact");
    let hurry = [("delete.retention.ms", "1"), ("min.cleanable.dirty.ratio", "0.001"), ("segment.ms", "50")];
    test.app.client.alter_topic(&changelog, &[&[compact], &hurry[..]].concat())?;
    let deleted = Some(b"a\0deleted".to_vec());
    progress::wait_until("the tombstone to be compacted away", || {
        // Kafka does not compact the active segment. These records make it roll.
        test.app.client.produce(&[entry(&changelog, "other\0key")])?;
        Ok(test.app.client.read_all(&changelog)?.iter().all(|record| record.key != deleted))
    })?;
    test.app.client.alter_topic(&changelog, &[compact, ("delete.retention.ms", WEEK_MS)])?;

    // By its timestamp the checkpoint is young. With a real `delete.retention.ms` of a week the tombstone would still
    // exist.
    let (mut host, Restored { entries, .. }) = test.start("trusts it")?;
    assert_eq!(entries, 3);
    let seen = test.keys()?;
    assert!(seen.contains("deleted"), "the key does not come back, so this test is obsolete: {seen:?}");
    assert!(host.terminate(WAIT_LIMIT)?.success());

    for (days, used) in [(3, true), (4, false)] {
        fs::write(test.file(), &stale)?;
        make_older(&test.file(), days * 86_400_000)?;
        let (mut host, restored) = test.start(&format!("{days} days later"))?;
        assert_eq!(restored.entries > 0, used, "{restored:?}");
        let is_rejected =
            host.log().iter().any(|line| line.contains("the checkpoint is not used") && line.contains(" old, "));
        assert_eq!(is_rejected, !used);
        assert_eq!(test.keys()?.contains("deleted"), used);
        assert!(host.terminate(WAIT_LIMIT)?.success());
        assert_eq!(test.file_has(b"a\0deleted")?, used, "a rejected file is replaced with the changelog's state");
    }
    Ok(())
}

/// Changes the checkpoint as if the host had stopped this much earlier.
fn make_older(file: &Path, by_ms: u64) -> Result<()> {
    const ABOUT: TableDefinition<u32, (i32, u32, u128, i64, u64)> = TableDefinition::new("about");
    let database = Database::open(file)?;
    let transaction = database.begin_write()?;
    {
        let mut about = transaction.open_table(ABOUT)?;
        let (shard, shards, topic, offset, as_of) = about.get(1)?.context("not a checkpoint")?.value();
        about.insert(1, (shard, shards, topic, offset, as_of - by_ms))?;
    }
    Ok(transaction.commit()?)
}

#[test]
fn an_unusable_state_directory_is_an_error_at_the_start() -> Result<()> {
    let test = Checkpointed::new("unusable")?;
    let file = test.directory.path().join("file");
    fs::write(&file, "")?;
    let (status, log) = test.app.start("unusable", &["--state-dir", &file.display().to_string()])?.end(WAIT_LIMIT)?;
    assert_eq!(status.code(), Some(1));
    let last = log.last().context("no log")?;
    assert!(last.starts_with("switchboard: checkpoints cannot be kept in ") && last.contains("--state-dir"), "{last}");
    Ok(())
}

#[test]
fn a_disk_that_refuses_writes_is_a_warning_and_the_host_continues_without_checkpoints() -> Result<()> {
    let mut test = Checkpointed::new("full")?;
    // `ulimit -f` limits the size of files. It refuses writes as a full disk does.
    let limited = "trap '' XFSZ; ulimit -f 256; exec \"$0\" \"$@\"";
    let state_dir = test.state_dir();
    let mut host = test.app.start_by(&["sh", "-c", limited], "full", &["--state-dir", &state_dir])?;
    host.wait_for("its shard", WAIT_LIMIT, |line| line.contains("restore finished shards=1 "))?;
    let value = "x".repeat(10_000);
    test.send(&(0..200).map(|number| format!("state key-{number}={value}")).collect::<Vec<_>>())?;
    host.wait_for("the warning", WAIT_LIMIT, |line| line.contains(" WARN ") && line.contains("no checkpoint for now"))?;
    test.send(&["state key-0".to_owned()])?;
    assert_eq!(test.keys()?, keys(1..200));
    assert!(host.terminate(WAIT_LIMIT)?.success());

    let (mut host, _) = test.start("with room again")?;
    assert_eq!(test.keys()?, keys(1..200));
    assert!(host.terminate(WAIT_LIMIT)?.success());
    let (mut host, restored) = test.start("after it")?;
    assert_eq!(restored, Restored { entries: 200, records: 0 });
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}
