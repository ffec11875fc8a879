//! Does the metadata of committed offsets keep settled records from being processed again, and does a host say what to do about
//! metadata that was removed or that it cannot read?

use anyhow::{Context as _, Result, ensure};
use switchboard_tests::app::{App, WAIT_LIMIT, answers, dead_letter_origin};
use switchboard_tests::client::Record;
use switchboard_tests::host::Host;
use switchboard_tests::progress;

/// The tenant with a message that does not end.
const SLOW: &str = "slow";
/// The tenants whose messages follow it.
const OTHERS: [&str; 4] = ["a", "b", "c", "d"];
/// The number of messages of each of them.
const EACH: usize = 5;
/// Limits that no message reaches.
const NO_LIMITS: [&str; 4] = ["--max-fuel", "1000000000000000", "--max-cpu-time-ms", "3600000"];

/// An application with one partition and one shard. The last committed offset of the partition is that of a message of
/// [`SLOW`] that did not end, followed by one `count` of the same tenant. The messages after it, of the other tenants, are
/// settled.
struct Stuck {
    app: App,
    /// The offset of the message that did not end.
    offset: i64,
    /// The host that runs it.
    host: Host,
}

impl Stuck {
    fn new(prefix: &str, flags: &[&str]) -> Result<Self> {
        // The message that does not end keeps one thread.
        let app = App::hostile(prefix, &["IN", "OUT"], 1)?.arg("--shards", "1").arg("--threads", "2");
        let host = app.run("stuck", &[&NO_LIMITS[..], flags].concat())?;
        app.client.produce(&[app.word(SLOW, "count")])?;
        app.wait_for("OUT", 1)?;
        // From here on records go directly to their shard, so the source's offset waits for the slow message.
        host.wait_for("its direct path", WAIT_LIMIT, |line| line.contains("direct paths open=1"))?;
        let slow = [app.word(SLOW, "loop"), app.word(SLOW, "count")];
        let (_, offset) = app.client.produce(&[&slow[..], &others(&app, EACH)].concat())?[0];
        app.wait_for("OUT", 1 + OTHERS.len() * EACH)?;
        let stuck = Self { app, offset, host };
        let settled = format!("v=1,n={},", OTHERS.len() * EACH);
        progress::wait_until("an offset that lists all messages of the others", || {
            let (offset, metadata) = stuck.committed()?;
            ensure!(offset <= stuck.offset, "the offset {offset} is beyond a message that is not settled");
            Ok(offset == stuck.offset && metadata.starts_with(&settled))
        })?;
        Ok(stuck)
    }

    /// The partition's committed offset and its metadata.
    fn committed(&self) -> Result<(i64, String)> {
        let committed = self.app.client.committed_with_metadata(&self.app.name, self.app.topic("IN"))?;
        committed.into_iter().next().flatten().context("the partition has no offset")
    }
}

/// `count`, this many times for each of the others in turn.
fn others(app: &App, each: usize) -> Vec<Record> {
    std::iter::repeat_n(OTHERS, each).flatten().map(|tenant| app.word(tenant, "count")).collect()
}

/// Checks that each of the others has counted to `each` and the slow tenant to `slow`, once each and in order.
fn assert_counted(app: &App, each: usize, slow: usize) -> Result<()> {
    let outputs = app.client.read_all(app.topic("OUT"))?;
    let counts = |to: usize| (1..=to).map(|count| count.to_string()).collect::<Vec<_>>();
    for tenant in OTHERS {
        assert_eq!(answers(&outputs, tenant), counts(each), "{tenant}");
    }
    assert_eq!(answers(&outputs, SLOW), counts(slow));
    assert_eq!(outputs.len(), OTHERS.len() * each + slow);
    Ok(())
}

#[test]
fn after_a_kill_only_the_records_that_were_not_settled_are_processed() -> Result<()> {
    let instance = ["--instance", "one"];
    let mut stuck = Stuck::new("settled", &instance)?;
    stuck.host.kill()?;
    let Stuck { app, offset, .. } = &stuck;
    // With the usual limits the message that does not end becomes a dead letter.
    let mut next = app.run("next", &instance)?;
    let letters = app.wait_for_dead_letters(1)?;
    assert_eq!(dead_letter_origin(&letters[0]), Some(("IN".to_owned(), 0, *offset)));
    // More of the same: what was processed again would be counted before.
    app.client.produce(&others(app, 1))?;
    app.wait_for("OUT", OTHERS.len() * (EACH + 1) + 2)?;
    assert!(next.terminate(WAIT_LIMIT)?.success());
    assert_counted(app, EACH + 1, 2)?;
    assert_eq!(app.client.read_all(&app.dead_letters())?.len(), 1);
    let records = app.client.ends(app.topic("IN"), true)?[0];
    assert_eq!(stuck.committed()?, (records, "v=1,n=0".to_owned()));
    Ok(())
}

/// A message that does not end does not keep the host from stopping either.
#[test]
fn an_offset_that_was_reset_is_read_on_from_with_a_warning() -> Result<()> {
    let mut stuck = Stuck::new("reset", &[])?;
    assert!(stuck.host.terminate(WAIT_LIMIT)?.success());
    let Stuck { app, offset, .. } = &stuck;
    // An operator skips the message.
    let next = offset + 1;
    app.client.set_offset(&app.name, app.topic("IN"), 0, next)?;
    let mut host = app.run("after", &[])?;
    let line = host.wait_for("a warning", WAIT_LIMIT, |line| line.contains("has no metadata"))?;
    for word in [" WARN ", &format!("offset={next}"), "settled before are handled again"] {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
    // The list of settled records was in the metadata, so they are processed again.
    app.wait_for("OUT", OTHERS.len() * 2 * EACH + 2)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    assert_counted(app, 2 * EACH, 2)?;
    assert_eq!(app.client.read_all(&app.dead_letters())?, []);
    let records = app.client.ends(app.topic("IN"), true)?[0];
    assert_eq!(stuck.committed()?, (records, "v=1,n=0".to_owned()));
    Ok(())
}

#[test]
fn metadata_that_cannot_be_read_halts_its_partition_until_the_offset_is_set_again() -> Result<()> {
    let app = App::hostile("unreadable", &["IN"], 2)?.topic_with("OUT", &[])?;
    let send = || {
        let record =
            |partition: i32| Record { partition: Some(partition), ..app.word(&format!("tenant-{partition}"), "count") };
        app.client.produce(&[record(0), record(1)])
    };
    let count_of = |outputs: &[Record], tenant: &str| answers(outputs, tenant).len();
    let mut host = app.run("before", &[])?;
    send()?;
    app.wait_for("OUT", 2)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());

    let unreadable = [
        ("a note of another tool", "it is not Switchboard's: \"a note of another tool\""),
        ("v=2,n=1,runs=AgEB", "it has version 2, and this host knows version 1"),
    ];
    for ((metadata, why), processed) in unreadable.into_iter().zip(1..) {
        let offset = i64::try_from(processed)?;
        app.client.set_offset_with(&app.name, app.topic("IN"), 0, offset, metadata)?;
        send()?;
        let mut host = app.run("halted", &[])?;
        let line = host.wait_for("the halted partition", WAIT_LIMIT, |line| line.contains("partition halted"))?;
        let committed = format!("committed offset {offset} ");
        for word in
            ["ERROR", &committed, why, "run that version", "set the group's offset of this partition", "restart"]
        {
            assert!(line.contains(word), "{word:?} is not in: {line}");
        }
        let outputs = app.wait_for("OUT", 2 * processed + 1)?;
        assert_eq!((count_of(&outputs, "tenant-0"), count_of(&outputs, "tenant-1")), (processed, processed + 1));
        assert!(host.terminate(WAIT_LIMIT)?.success());
        let kept = app.client.committed_with_metadata(&app.name, app.topic("IN"))?[0].clone();
        assert_eq!(kept, Some((offset, metadata.to_owned())));

        app.client.set_offset(&app.name, app.topic("IN"), 0, offset)?;
        let mut host = app.run("set", &[])?;
        app.wait_for("OUT", 2 * (processed + 1))?;
        assert!(host.terminate(WAIT_LIMIT)?.success());
        let outputs = app.client.read_all(app.topic("OUT"))?;
        for tenant in ["tenant-0", "tenant-1"] {
            let expected: Vec<_> = (1..=processed + 1).map(|count| count.to_string()).collect();
            assert_eq!(answers(&outputs, tenant), expected, "{tenant}");
        }
    }
    Ok(())
}
