//! Does a disturbed application give the same outputs as an undisturbed one? Both process the same long stream of
//! commands for many tenants.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::json;
use switchboard_tests::app::{App, MESSENGER, WAIT_LIMIT, dead_letter_origin};
use switchboard_tests::client::Record;
use switchboard_tests::directory::Directory;
use switchboard_tests::host::Host;
use uuid::Uuid;

const TENANTS: u64 = 40;
const CHARACTERS: u64 = 6;
const COMMANDS: usize = 20_000;
const PARTITIONS: i32 = 4;
/// The flags for many small transactions.
const SMALL_BATCHES: [&str; 2] = ["--batch-records", "40"];

/// The outputs of each tenant, topic and key, in order. Without the trace context, which differs between applications.
type Streams = BTreeMap<(String, String, Option<Vec<u8>>), Vec<Record>>;

/// Two applications that consume the same topics.
struct PairedApps {
    /// Answers lookups while the hosts run.
    _directory: Directory,
    steady: App,
    disturbed: App,
}

fn tenant(number: u64) -> String {
    Uuid::from_u64_pair(0x5eed, number).to_string()
}

impl PairedApps {
    fn new(name: &str) -> Result<Self> {
        let directory = Directory::start()?;
        for (number, id) in (0..TENANTS).flat_map(|n| (1..=CHARACTERS).map(move |id| (n, id))) {
            let answer =
                json!({"data": {"type": "characters", "id": id.to_string(), "attributes": {"name": "", "worldId": 0}}});
            directory.put(&tenant(number), &id.to_string(), &answer);
        }
        // Without a final slash, as operators write it.
        let url = directory.url().trim_end_matches('/').to_owned();
        let steady = App::messenger(name, PARTITIONS)?.env("BASE_SERVICE_URL", &url);
        let disturbed = steady.rival(name, &MESSENGER[3..], PARTITIONS)?;
        Ok(Self { _directory: directory, steady, disturbed })
    }

    /// Sends the whole stream: random commands, and for each tenant a last record that is not JSON. Returns the origins
    /// of the last records.
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
            let number = next(TENANTS);
            let actor = next(CHARACTERS) + 1;
            let other = next(CHARACTERS) + 1;
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
        let positions = self.steady.client.produce(&records)?;
        Ok(positions[COMMANDS..]
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

/// Waits for the dead letters of all last records. Every other record is settled before them. Each output until then is
/// progress.
fn wait_for_end(app: &App, ends: &BTreeSet<(String, i32, i64)>) -> Result<()> {
    let dead_letters = app.dead_letters();
    let topics: Vec<_> = MESSENGER[3..].iter().map(|alias| app.topic(alias)).chain([&*dead_letters]).collect();
    // The number of records that were examined already, and of dead letters among them.
    let mut looked = 0;
    let mut letters = 0;
    app.client.reader(&topics)?.until("the end of the stream", WAIT_LIMIT, |records| {
        letters += records[looked..].iter().filter(|record| record.topic == dead_letters).count();
        looked = records.len();
        letters >= ends.len()
    })?;
    let letters = app.client.read_all(&dead_letters)?;
    let origins: BTreeSet<_> = letters.iter().filter_map(dead_letter_origin).collect();
    ensure!(origins == *ends && letters.len() == ends.len(), "dead letters: {origins:?}, expected: {ends:?}");
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

/// Waits until `count` outputs are there: the host is in the middle of its work.
fn wait_for_outputs(app: &App, count: usize) -> Result<()> {
    let topics: Vec<_> = MESSENGER[3..].iter().map(|alias| app.topic(alias)).collect();
    app.client
        .reader(&topics)?
        .until("the middle of the stream", WAIT_LIMIT, |outputs| outputs.len() >= count)
        .map(drop)
}

fn wait_for_assignment(host: &Host) -> Result<()> {
    host.wait_for("its partitions", WAIT_LIMIT, |line| line.contains("assigned")).map(drop)
}

fn assert_same(apps: &PairedApps, ends: &BTreeSet<(String, i32, i64)>) -> Result<()> {
    wait_for_end(&apps.steady, ends)?;
    wait_for_end(&apps.disturbed, ends)?;
    let steady = outputs(&apps.steady)?;
    let disturbed = outputs(&apps.disturbed)?;
    let count = |streams: &Streams| streams.values().map(Vec::len).sum::<usize>();
    // Every command has one output. One that creates a messenger or is accepted has two.
    ensure!(count(&steady) >= COMMANDS, "{} outputs", count(&steady));
    for (stream, records) in &steady {
        assert_eq!(disturbed.get(stream), Some(records), "outputs of {stream:?}");
    }
    assert_eq!(count(&disturbed), count(&steady));
    Ok(())
}

/// The host is stopped in the middle and restarted, then killed in the middle and restarted.
#[test]
fn a_restarted_host_gives_the_same_outputs() -> Result<()> {
    let apps = PairedApps::new("restart")?;
    let mut steady = apps.steady.run("steady", &[])?;
    let ends = apps.send()?;

    let arguments = [&SMALL_BATCHES[..], &["--instance", "only"]].concat();
    let mut first = apps.disturbed.run("first", &arguments)?;
    wait_for_outputs(&apps.disturbed, COMMANDS / 10)?;
    assert!(first.terminate(WAIT_LIMIT)?.success(), "SIGTERM ends it with status 0");
    let mut second = apps.disturbed.run("second", &arguments)?;
    wait_for_outputs(&apps.disturbed, COMMANDS / 2)?;
    second.kill()?;
    let mut third = apps.disturbed.run("third", &arguments)?;

    assert_same(&apps, &ends)?;
    assert!(third.terminate(WAIT_LIMIT)?.success());
    assert!(steady.terminate(WAIT_LIMIT)?.success());
    Ok(())
}

/// Two processes share the work. One is killed in the middle, and the other one continues with all of it.
fn two_processes(name: &str, protocol: &str) -> Result<()> {
    let apps = PairedApps::new(name)?;
    let mut steady = apps.steady.run("steady", &[])?;
    let arguments = [&SMALL_BATCHES[..], &["--group-protocol", protocol]].concat();
    let mut one = apps.disturbed.run("one", &arguments)?;
    let mut two = apps.disturbed.run("two", &arguments)?;
    wait_for_assignment(&one)?;
    wait_for_assignment(&two)?;
    let ends = apps.send()?;

    wait_for_outputs(&apps.disturbed, COMMANDS / 3)?;
    one.kill()?;
    assert_same(&apps, &ends)?;
    assert!(two.terminate(WAIT_LIMIT)?.success());
    assert!(steady.terminate(WAIT_LIMIT)?.success());
    Ok(())
}

#[test]
fn two_processes_in_one_group_give_the_same_outputs() -> Result<()> {
    two_processes("group", "classic")
}

/// The same with the group protocol of KIP-848.
#[test]
fn two_processes_in_one_consumer_protocol_group_give_the_same_outputs() -> Result<()> {
    two_processes("group-848", "consumer")
}
