//! A long stream of commands for many tenants, run by an undisturbed host and by one that is not left in peace: both
//! must give the same outputs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::json;
use switchboard_tests::app::{App, LONG, MESSENGER, source};
use switchboard_tests::client::Record;
use switchboard_tests::directory::Directory;
use switchboard_tests::host::Host;
use uuid::Uuid;

const TENANTS: u64 = 40;
const CHARACTERS: u64 = 6;
const COMMANDS: usize = 20_000;
const PARTITIONS: i32 = 4;
/// Each command counts where many small transactions are wanted.
const SMALL: [&str; 2] = ["--batch-records", "40"];

/// Outputs of one tenant and topic with one key, in order; the trace context left out, which differs by application.
type Streams = BTreeMap<(String, String, Option<Vec<u8>>), Vec<Record>>;

struct Stage {
    /// Holds the answers while the hosts run.
    _directory: Directory,
    steady: App,
    disturbed: App,
}

fn tenant(number: u64) -> String {
    Uuid::from_u64_pair(0x5eed, number).to_string()
}

impl Stage {
    fn new(name: &str) -> Result<Self> {
        let directory = Directory::start()?;
        for (number, id) in (0..TENANTS).flat_map(|n| (1..=CHARACTERS).map(move |id| (n, id))) {
            let answer =
                json!({"data": {"type": "characters", "id": id.to_string(), "attributes": {"name": "", "worldId": 0}}});
            directory.put(&tenant(number), &id.to_string(), &answer);
        }
        // Without a slash at its end, as operators write it.
        let url = directory.url().trim_end_matches('/').to_owned();
        let steady = App::messenger(name, PARTITIONS)?.env("BASE_SERVICE_URL", &url);
        let disturbed = steady.rival(name, &MESSENGER[3..], PARTITIONS)?;
        Ok(Self { _directory: directory, steady, disturbed })
    }

    /// Sends the whole stream: random commands, and for each tenant a last record that is no JSON.
    fn send(&self) -> Result<BTreeSet<(String, i32, i64)>> {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut records = Vec::with_capacity(COMMANDS);
        for _ in 0..COMMANDS {
            let (number, actor, other) = (next(TENANTS), next(CHARACTERS) + 1, next(CHARACTERS) + 1);
            let room = 1_000_000_000 + next(4);
            let (kind, body) = match next(4) {
                0 => ("CREATE", json!({})),
                1 => ("JOIN", json!({"messengerId": room})),
                2 => ("LEAVE", json!({"messengerId": room})),
                _ => ("REQUEST_INVITE", json!({"characterId": other})),
            };
            records.push(self.record(number, json!({"actorId": actor, "type": kind, "body": body}).to_string()));
        }
        records.extend((0..TENANTS).map(|number| self.record(number, "the end".to_owned())));
        let places = self.steady.client.produce(&records)?;
        Ok(places[COMMANDS..]
            .iter()
            .map(|(partition, offset)| (MESSENGER[0].to_owned(), *partition, *offset))
            .collect())
    }

    fn record(&self, number: u64, value: String) -> Record {
        Record {
            topic: self.steady.topic(MESSENGER[0]).to_owned(),
            partition: Some(i32::try_from(number).expect("few") % PARTITIONS),
            value: Some(value.into_bytes()),
            headers: vec![
                ("TENANT_ID".to_owned(), Some(tenant(number).into_bytes())),
                ("REGION".to_owned(), Some(b"GMS".to_vec())),
                ("MAJOR_VERSION".to_owned(), Some(vec![0, 83])),
                ("MINOR_VERSION".to_owned(), Some(vec![0, 1])),
            ],
            ..Record::default()
        }
    }
}

/// Waits until the dead letters of all last records are there; every other record is settled before. Each output on the way is
/// progress.
fn wait_for_end(app: &App, ends: &BTreeSet<(String, i32, i64)>) -> Result<()> {
    let dead_letters = app.dead_letters();
    let topics: Vec<_> = MESSENGER[3..].iter().map(|token| app.topic(token)).chain([&*dead_letters]).collect();
    // How many records were looked at already, and how many of them are dead letters.
    let (mut looked, mut letters) = (0, 0);
    app.client.reader(&topics)?.until("the end of the stream", LONG, |records| {
        letters += records[looked..].iter().filter(|record| record.topic == dead_letters).count();
        looked = records.len();
        letters >= ends.len()
    })?;
    let letters = app.client.read_all(&dead_letters)?;
    let places: BTreeSet<_> = letters.iter().filter_map(source).collect();
    ensure!(places == *ends && letters.len() == ends.len(), "dead letters: {places:?}, expected: {ends:?}");
    Ok(())
}

fn outputs(app: &App) -> Result<Streams> {
    let mut streams = Streams::new();
    for alias in &MESSENGER[3..] {
        for mut record in app.client.read_all(app.topic(alias))? {
            record.headers.retain(|(name, _)| name != "traceparent");
            let id = record.headers.iter().find(|(name, _)| name == "TENANT_ID").and_then(|(_, value)| value.clone());
            let stream = (String::from_utf8(id.unwrap_or_default())?, (*alias).to_owned(), record.key.clone());
            let Record { key, value, headers, .. } = record;
            streams.entry(stream).or_default().push(Record { key, value, headers, ..Record::default() });
        }
    }
    Ok(streams)
}

/// Waits until that many outputs are there: the host is in the middle of its work.
fn wait_for_outputs(app: &App, count: usize) -> Result<()> {
    let topics: Vec<_> = MESSENGER[3..].iter().map(|alias| app.topic(alias)).collect();
    app.client.reader(&topics)?.until("the middle of the stream", LONG, |outputs| outputs.len() >= count).map(drop)
}

fn wait_for_assignment(host: &Host) -> Result<()> {
    host.wait_for("its partitions", LONG, |line| line.contains("assigned")).map(drop)
}

fn assert_same(stage: &Stage, ends: &BTreeSet<(String, i32, i64)>) -> Result<()> {
    wait_for_end(&stage.steady, ends)?;
    wait_for_end(&stage.disturbed, ends)?;
    let (steady, disturbed) = (outputs(&stage.steady)?, outputs(&stage.disturbed)?);
    let count = |streams: &Streams| streams.values().map(Vec::len).sum::<usize>();
    // Every command is answered by one output, an accepted or creating one by two.
    ensure!(count(&steady) >= COMMANDS, "{} outputs", count(&steady));
    for (stream, records) in &steady {
        assert_eq!(disturbed.get(stream), Some(records), "outputs of {stream:?}");
    }
    assert_eq!(count(&disturbed), count(&steady));
    Ok(())
}

/// Stopped in the middle and started again; then killed in the middle and started again.
#[test]
fn a_restarted_host_gives_the_same_outputs() -> Result<()> {
    let stage = Stage::new("restart")?;
    let mut steady = stage.steady.run("steady", &[])?;
    let ends = stage.send()?;

    let arguments = [&SMALL[..], &["--instance", "only"]].concat();
    let mut first = stage.disturbed.run("first", &arguments)?;
    wait_for_outputs(&stage.disturbed, COMMANDS / 10)?;
    assert!(first.terminate(LONG)?.success(), "SIGTERM ends it with status 0");
    let mut second = stage.disturbed.run("second", &arguments)?;
    wait_for_outputs(&stage.disturbed, COMMANDS / 2)?;
    second.kill()?;
    let mut third = stage.disturbed.run("third", &arguments)?;

    assert_same(&stage, &ends)?;
    assert!(third.terminate(LONG)?.success());
    assert!(steady.terminate(LONG)?.success());
    Ok(())
}

/// Two processes share the work; one is killed in the middle, and the other one goes on with all of it.
fn two_processes(name: &str, protocol: &str) -> Result<()> {
    let stage = Stage::new(name)?;
    let mut steady = stage.steady.run("steady", &[])?;
    let arguments = [&SMALL[..], &["--group-protocol", protocol]].concat();
    let mut one = stage.disturbed.run("one", &arguments)?;
    let mut two = stage.disturbed.run("two", &arguments)?;
    wait_for_assignment(&one)?;
    wait_for_assignment(&two)?;
    let ends = stage.send()?;

    wait_for_outputs(&stage.disturbed, COMMANDS / 3)?;
    one.kill()?;
    assert_same(&stage, &ends)?;
    assert!(two.terminate(LONG)?.success());
    assert!(steady.terminate(LONG)?.success());
    Ok(())
}

#[test]
fn two_processes_in_one_group_give_the_same_outputs() -> Result<()> {
    two_processes("group", "classic")
}

/// The same as members by KIP-848.
#[test]
fn two_processes_in_one_consumer_protocol_group_give_the_same_outputs() -> Result<()> {
    two_processes("group-848", "consumer")
}
