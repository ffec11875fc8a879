//! Do tenants change their release while hosts run, without loss and without a restart? The tests use the real
//! commands.

mod fallback;
mod gates;
mod wait;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;
use switchboard_tests::app::{App, WAIT_LIMIT, header};
use switchboard_tests::client::Record;
use switchboard_tests::host::{hostile, messenger, release};
use switchboard_tests::progress;

/// The workers of each host.
const WORKERS: usize = 2;
const ALIASES: [&str; 4] = ["IN", "IN2", "LINES", "AUDIT"];

/// An application for releases of the ledger. Its hosts have no plugin until one is deployed.
fn ledgers(prefix: &str) -> Result<App> {
    let app =
        App::new(prefix, &ALIASES, 2)?.arg("--tenant-header", "TENANT=text").arg("--members", &WORKERS.to_string());
    // Many shards, so that a tenant that waits seldom holds up another one.
    Ok(app.arg("--shards", "16"))
}

/// Sends messages with these ids for a tenant.
fn send(app: &App, tenant: &str, ids: std::ops::Range<u32>) -> Result<()> {
    send_to(app, "IN", tenant, ids, "note")
}

fn send_to(app: &App, alias: &str, tenant: &str, ids: std::ops::Range<u32>, word: &str) -> Result<()> {
    let record = |id: u32| Record {
        topic: app.topic(alias).to_owned(),
        key: Some(tenant.into()),
        value: Some(format!("{id} {word}").into()),
        headers: vec![("TENANT".to_owned(), Some(tenant.into()))],
        ..Record::default()
    };
    app.client.produce(&ids.map(record).collect::<Vec<_>>()).map(drop)
}

/// A tenant's lines: the message's id, its number, and the release that made the line.
fn lines(app: &App, tenant: &str, count: usize) -> Result<Vec<(u32, u32, String)>> {
    let own = |record: &Record| header(record, "TENANT") == Some(tenant);
    let mut reader = app.client.reader(&[app.topic("LINES")])?;
    let what = format!("{count} lines of {tenant}");
    let all =
        reader.until(&what, WAIT_LIMIT, |records| records.iter().filter(|record| own(record)).count() >= count)?;
    let line = |record: &Record| {
        let text = std::str::from_utf8(record.value.as_deref()?).ok()?;
        let mut words = text.split(' ');
        let id = words.next()?.parse().ok()?;
        let number = words.next()?.parse().ok()?;
        Some((id, number, header(record, "RELEASE").unwrap_or("none").to_owned()))
    };
    all.iter().filter(|record| own(record)).map(|record| line(record).context("not a line")).collect()
}

/// The expected lines of these ids by one release, numbered from the id.
fn by(release: &str, ids: std::ops::Range<u32>) -> Vec<(u32, u32, String)> {
    ids.map(|id| (id, id + 1, release.to_owned())).collect()
}

/// Deploys a release, waits until all hosts run it, and returns its digest.
fn deploy(app: &App, artifact: &Path, arguments: &[&str]) -> Result<String> {
    let path = artifact.display().to_string();
    let answer = app.run_command(&["deploy", &path], &[&["--json", "--wait"], arguments].concat())?;
    anyhow::ensure!(answer.status.success(), "{answer:?}");
    Ok(answer.json()?["releases"][0].as_str().context("no digest")?.to_owned())
}

fn status(app: &App) -> Result<Value> {
    app.run_command(&["releases"], &["--json"])?.json()
}

#[test]
fn a_host_without_a_plugin_runs_what_is_deployed_and_later_hosts_have_the_same_routes() -> Result<()> {
    let app = ledgers("swaps")?;
    let mut first = app.run("first", &["--instance", "first"])?;
    send(&app, "a", 0..10)?;
    send(&app, "b", 0..10)?;
    deploy(&app, &release("tagged_1")?, &[])?;
    assert_eq!(lines(&app, "a", 10)?, by("1.0.0", 0..10), "messages from before the deployment are not lost");
    assert_eq!(lines(&app, "b", 10)?, by("1.0.0", 0..10));
    deploy(&app, &release("tagged_2")?, &["--tenant", "a"])?;
    send(&app, "a", 10..20)?;
    send(&app, "b", 10..20)?;
    assert_eq!(lines(&app, "a", 20)?[10..], by("2.0.0", 10..20));
    assert_eq!(lines(&app, "b", 20)?[10..], by("1.0.0", 10..20), "the other tenants keep their release");
    let rebalances = first.log().iter().filter(|line| line.contains("shards revoked")).count();

    let _second = app.run("second", &["--instance", "second"])?;
    assert!(first.terminate(WAIT_LIMIT)?.success());
    send(&app, "a", 20..30)?;
    send(&app, "b", 20..30)?;
    assert_eq!(lines(&app, "a", 30)?[20..], by("2.0.0", 20..30), "numbered from the state that the first host left");
    assert_eq!(lines(&app, "b", 30)?[20..], by("1.0.0", 20..30));
    // Its two workers joined one after the other.
    assert!(rebalances <= 2, "a swap is no rebalance: {rebalances}");

    assert!(app.run_command(&["rollback"], &["--json"])?.status.success());
    send_until(&app, 30, "1.0.0")?;
    assert_eq!(app.client.read_all(&app.dead_letters())?, []);
    Ok(())
}

#[test]
fn topics_of_a_new_release_are_consumed_and_topics_without_a_release_keep_their_offsets() -> Result<()> {
    let app = ledgers("aliases")?;
    let host = app.run("host", &[])?;
    deploy(&app, &release("tagged_1")?, &[])?;
    send_to(&app, "IN2", "a", 0..3, "note")?;
    deploy(&app, &release("further_topic")?, &["--tenant", "a"])?;
    assert_eq!(lines(&app, "a", 3)?, by("5.0.0", 0..3), "from the start of the topic");
    let (_, findings) = app.doctor(&[])?;
    let has = |words: [&str; 2]| findings.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(has(["  ok ", "route tenant/a: tagged 5.0.0"]) && has(["  ok ", app.topic("IN2")]), "{findings:#?}");
    send_to(&app, "IN2", "b", 0..3, "note")?;
    send(&app, "b", 100..101)?;
    assert_eq!(lines(&app, "b", 1)?, [(100, 1, "1.0.0".to_owned())], "its release does not consume the topic");
    let answer = app.run_command(&["route", "clear"], &["--tenant", "a"])?;
    assert!(answer.status.success(), "{answer:?}");
    progress::wait_until("workers that no longer read the topic", || {
        let log = host.log();
        let owned = log.iter().rev().filter(|line| line.contains("partitions owns=")).take(WORKERS);
        Ok(owned.filter(|line| !line.contains("IN2")).count() == WORKERS)
    })?;
    send(&app, "a", 3..6)?;
    assert_eq!(lines(&app, "a", 6)?[3..], by("1.0.0", 3..6));
    let committed = app.client.committed(&app.name, app.topic("IN2"))?;
    assert!(committed.iter().flatten().sum::<i64>() > 0, "{committed:?}");
    Ok(())
}

#[test]
fn a_release_that_fails_too_often_is_rolled_back_automatically() -> Result<()> {
    let app = ledgers("gate")?;
    let host = app.run("host", &[])?;
    deploy(&app, &release("tagged_1")?, &[])?;
    send(&app, "a", 0..5)?;
    lines(&app, "a", 5)?;
    deploy(&app, &release("trapping")?, &["--gate", "5/1000"])?;
    send(&app, "a", 5..65)?;
    host.wait_for("the rollback", WAIT_LIMIT, |line| line.contains("release rolled back"))?;
    let answer = app.run_command(&["releases"], &["--history", "--json"])?.json()?;
    let last = answer["history"].as_array().and_then(|history| history.last()).context("no history")?;
    assert_eq!(last["kind"], "automatic-rollback", "{last}");
    assert!(last["note"].as_str().unwrap_or_default().contains(" failures among its first "), "{last}");
    let letters = app.client.read_all(&app.dead_letters())?;
    assert!(letters.len() >= 5 && letters.iter().all(|letter| header(letter, "switchboard-class") == Some("trap")));
    let settled = 65 - letters.len();
    lines(&app, "a", settled)?;
    let mut id = 65;
    let all = || app.client.read_all(app.topic("LINES"));
    progress::wait_until("the tenant to run the previous release", || {
        send(&app, "a", id..id + 1)?;
        id += 1;
        Ok(all()?.last().and_then(|line| header(line, "RELEASE")) == Some("1.0.0"))
    })?;
    let numbers: Vec<_> = lines(&app, "a", all()?.len())?.into_iter().map(|line| line.1).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "the state continues: {numbers:?}");
    Ok(())
}

#[test]
fn tenants_of_a_refused_release_run_the_fallback_release_or_wait_as_configured() -> Result<()> {
    for (how, answered) in [("keep", 6), ("stop", 3)] {
        let app = ledgers(how)?;
        let host = app.run(how, &["--on-release-failure", how, "--allow-topic", "LINES", "--allow-topic", "AUDIT"])?;
        deploy(&app, &release("tagged_1")?, &[])?;
        send(&app, "a", 0..3)?;
        assert_eq!(lines(&app, "a", 3)?, by("1.0.0", 0..3));
        // The release produces to OUT, which this host does not allow.
        let path = hostile()?.display().to_string();
        let answer = app.run_command(&["deploy", &path], &["--json", "--wait", "--tenant", "a"])?;
        assert_eq!(answer.status.code(), Some(1), "{answer:?}");
        let shown: Value = serde_json::from_str(&answer.output)?;
        let shown = shown["rollout"]["hosts"][0].to_string();
        assert!(shown.contains("failed") && shown.contains("OUT"), "the reason is missing: {shown}");
        host.wait_for("the reason", WAIT_LIMIT, |line| {
            line.contains("cannot run the release release=hostile") && line.contains("OUT")
        })?;
        send(&app, "a", 3..6)?;
        let expected = if how == "keep" { "runs the fallback release release=tagged 1.0.0" } else { "messages wait" };
        host.wait_for(expected, WAIT_LIMIT, |line| line.contains(expected) && line.contains("OUT"))?;
        assert_eq!(lines(&app, "a", answered)?.len(), answered);
        let list = if how == "keep" { "fallback" } else { "waiting" };
        progress::wait_until(&format!("the status to say that the tenant is {list}"), || {
            Ok(status(&app)?["hosts"][0][list][0]["tenant"] == "a")
        })?;
        assert!(app.run_command(&["rollback"], &[])?.status.success());
        assert_eq!(lines(&app, "a", 6)?, by("1.0.0", 0..6), "{how}: nothing is lost");
    }
    Ok(())
}

#[test]
fn a_failed_migration_leaves_no_state_behind_and_the_tenant_runs_the_fallback_release() -> Result<()> {
    let app = ledgers("unwilling")?;
    let host = app.run("host", &[])?;
    deploy(&app, &release("tagged_1")?, &[])?;
    send(&app, "a", 0..3)?;
    lines(&app, "a", 3)?;
    deploy(&app, &release("unwilling")?, &["--no-gate"])?;
    send(&app, "a", 3..6)?;
    assert_eq!(lines(&app, "a", 6)?, by("1.0.0", 0..6), "its numbers continue");
    host.wait_for("the reason", WAIT_LIMIT, |line| {
        line.contains("runs the fallback release release=tagged 1.0.0") && line.contains("as built")
    })?;
    send(&app, "new", 0..1)?;
    assert_eq!(lines(&app, "new", 1)?, by("4.0.0", 0..1), "a tenant without state needs no migration");
    assert_eq!(app.client.read_all(&app.dead_letters())?, []);
    // A topic that only the new release consumes.
    send_to(&app, "IN2", "a", 6..9, "note")?;
    send_to(&app, "IN2", "new", 1..4, "note")?;
    assert_eq!(lines(&app, "new", 4)?[1..], by("4.0.0", 1..4));
    let mut reader = app.client.reader(&[&app.dead_letters()])?;
    let letters = reader.until("the dead letters", WAIT_LIMIT, |all| all.len() >= 3)?;
    let shown = |letter: &Record| {
        let reason = header(letter, "switchboard-reason").unwrap_or_default();
        let is_told =
            ["IN2", "runs the fallback release tagged 1.0.0", "as built"].iter().all(|part| reason.contains(part));
        let header = |name| header(letter, name).map(str::to_owned);
        (header("TENANT"), header("switchboard-class"), header("switchboard-topic"), is_told)
    };
    let text = |text: &str| Some(text.to_owned());
    let expected = (text("a"), text("release"), text("IN2"), true);
    assert_eq!(letters.iter().map(shown).collect::<Vec<_>>(), vec![expected; 3], "{letters:?}");
    send(&app, "a", 6..9)?;
    assert_eq!(lines(&app, "a", 9)?, by("1.0.0", 0..9), "the tenant continues");
    Ok(())
}

#[test]
fn the_messenger_changes_to_a_second_state_version_and_back() -> Result<()> {
    let app = App::messenger("rooms", 1)?;
    let _host = app.run("host", &[])?;
    let rooms = |outputs: &[Record]| -> Vec<String> {
        outputs.iter().map(|output| header(output, "ROOM").unwrap_or("none").to_owned()).collect()
    };
    let tenant = tenant_headers();
    let create = |who: u32| Record {
        topic: app.topic("COMMAND_TOPIC_MESSENGER").to_owned(),
        key: Some(who.to_le_bytes().to_vec()),
        value: Some(format!(r#"{{"actorId":{who},"type":"CREATE"}}"#).into()),
        headers: tenant.clone(),
        ..Record::default()
    };
    let status = |count| app.wait_for("EVENT_TOPIC_MESSENGER_STATUS", count);
    // Only known characters can create a messenger. The test waits for the logins, because two topics have no common
    // order.
    let login = |who: u32| Record {
        topic: app.topic("EVENT_TOPIC_CHARACTER_STATUS").to_owned(),
        value: Some(format!(r#"{{"worldId":0,"characterId":{who},"type":"LOGIN","body":{{"channelId":1}}}}"#).into()),
        ..create(who)
    };
    app.client.produce(&[login(1), login(2), login(3)])?;
    app.wait_until_processed("EVENT_TOPIC_CHARACTER_STATUS")?;
    app.client.produce(&[create(1)])?;
    assert_eq!(rooms(&status(1)?), ["none"]);
    deploy(&app, &release("messenger_2")?, &[])?;
    // The first messenger is older than the release with rooms.
    let leave = Record { value: Some(leave(&status(1)?[0])?.into()), ..create(1) };
    app.client.produce(&[create(2), leave])?;
    let names = rooms(&status(3)?);
    assert!(names[1] != "none" && names[2] != "none", "{names:?}");
    let refused = app.run_command(&["deploy", &messenger()?.display().to_string()], &["--json"])?;
    assert!(!refused.status.success() && refused.log.contains("state version"), "{refused:?}");
    deploy(&app, &release("messenger_back")?, &[])?;
    app.client.produce(&[create(3)])?;
    assert_eq!(rooms(&status(4)?)[3], "none");
    Ok(())
}

/// The command LEAVE for the messenger of a CREATED event.
fn leave(created: &Record) -> Result<String> {
    let value: Value = serde_json::from_slice(created.value.as_deref().context("no value")?)?;
    Ok(format!(r#"{{"actorId":1,"type":"LEAVE","body":{{"messengerId":{}}}}}"#, value["messengerId"]))
}

fn tenant_headers() -> Vec<(String, Option<Vec<u8>>)> {
    let header = |name: &str, value: &[u8]| (name.to_owned(), Some(value.to_vec()));
    vec![
        header("TENANT_ID", b"083839c6-c47c-42a6-9585-76492795d123"),
        header("REGION", b"GMS"),
        header("MAJOR_VERSION", &83_u16.to_be_bytes()),
        header("MINOR_VERSION", &1_u16.to_be_bytes()),
    ]
}

#[test]
fn a_watched_plugin_file_is_reloaded_and_a_bad_one_changes_nothing() -> Result<()> {
    let app = ledgers("watch")?;
    let directory = tempfile::tempdir()?;
    let plugin = directory.path().join("plugin.wasm");
    std::fs::copy(release("tagged_1")?, &plugin)?;
    let host = app.run("host", &["--plugin", &plugin.display().to_string(), "--watch"])?;
    send(&app, "a", 0..3)?;
    assert_eq!(lines(&app, "a", 3)?, by("1.0.0", 0..3));
    std::fs::write(&plugin, b"not a component")?;
    host.wait_for("the refusal", WAIT_LIMIT, |line| {
        line.contains("the plugin loaded before stays") && line.contains("not WebAssembly")
    })?;
    send(&app, "a", 3..6)?;
    assert_eq!(lines(&app, "a", 6)?[3..], by("1.0.0", 3..6));
    std::fs::copy(release("tagged_2")?, &plugin)?;
    host.wait_for("the new plugin", WAIT_LIMIT, |line| line.contains("new plugin loaded release=tagged 2.0.0"))?;
    send_until(&app, 6, "2.0.0")?;
    // A route takes precedence over the file.
    deploy(&app, &release("tagged_1")?, &["--tenant", "b"])?;
    send(&app, "b", 0..1)?;
    assert_eq!(lines(&app, "b", 1)?, by("1.0.0", 0..1));
    Ok(())
}

/// Sends messages of the tenant `a`, one after the other from this id on, until a release answers.
fn send_until(app: &App, mut id: u32, wanted: &str) -> Result<()> {
    progress::wait_until(&format!("a line of release {wanted}"), || {
        send(app, "a", id..id + 1)?;
        id += 1;
        Ok(lines(app, "a", usize::try_from(id)?)?.last().is_some_and(|line| line.2 == wanted))
    })
}

#[test]
fn with_trusted_keys_only_signed_artifacts_run() -> Result<()> {
    let keys = minisign();
    let app = ledgers("trust")?.arg("--trusted-key", &keys.public);
    let host = app.run("host", &[])?;
    let directory = tempfile::tempdir()?;
    let plugin = directory.path().join("tagged.wasm");
    std::fs::copy(release("tagged_1")?, &plugin)?;
    let path = plugin.display().to_string();
    let unsigned = app.run_command(&["deploy", &path], &["--json"])?;
    assert!(!unsigned.status.success() && unsigned.log.contains("not signed"), "{unsigned:?}");
    assert!(host.log().iter().all(|line| !line.contains("no trusted-keys")));
    keys.sign(&plugin)?;
    deploy(&app, &plugin, &[])?;
    send(&app, "a", 0..1)?;
    assert_eq!(lines(&app, "a", 1)?, by("1.0.0", 0..1), "the host got the signature with the artifact");
    Ok(())
}

struct Keys {
    public: String,
    pair: minisign::KeyPair,
}

fn minisign() -> Keys {
    let pair = minisign::KeyPair::generate_unencrypted_keypair().expect("random numbers");
    Keys { public: pair.pk.to_base64(), pair }
}

impl Keys {
    fn sign(&self, path: &Path) -> Result<PathBuf> {
        let data = std::io::Cursor::new(std::fs::read(path)?);
        let signature = minisign::sign(Some(&self.pair.pk), &self.pair.sk, data, None, None)?;
        let signature_path = path.with_added_extension("minisig");
        std::fs::write(&signature_path, signature.into_string())?;
        Ok(signature_path)
    }
}
