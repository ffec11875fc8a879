//! Does `deploy --wait` follow the status of hosts correctly? The test writes the hosts' status records itself.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use switchboard_tests::app::{App, RunningCommand, WAIT_LIMIT};
use switchboard_tests::client::Record;

use super::{ArtifactDir, app, control, deployed, history, text};

/// Writes a host's status record, or its tombstone.
fn say(app: &App, instance: &str, status: Option<&Value>) -> Result<()> {
    app.client.produce(&[Record {
        topic: control(app),
        partition: Some(0),
        key: Some(format!("host/{instance}").into_bytes()),
        value: status.map(|status| status.to_string().into_bytes()),
        ..Record::default()
    }])?;
    Ok(())
}

fn status(instance: &str, read: i64, releases: &Value) -> Value {
    json!({
        "instance": instance, "host": "node", "started": 1, "read": read, "releases": releases,
        "tenants": [], "fallback": [], "waiting": [], "failures": [],
    })
}

/// Starts a deployment with `--wait`, and waits until it has written its change.
fn followed(app: &App, artifact: &Path) -> Result<(RunningCommand, Value, i64)> {
    let known = history(app)?.len();
    let mut command = app.start_command(&["deploy", &text(artifact)], &["--json", "--wait"])?;
    let mut reader = app.client.reader(&[&control(app)])?;
    let is_change = |record: &Record| record.key.as_deref().is_some_and(|key| key.starts_with(b"change/"));
    let changes = |records: &[Record]| records.iter().filter(|record| is_change(record)).count();
    let records = reader.until("the change", WAIT_LIMIT, |records| changes(records) > known)?;
    ensure!(command.process.ended()?.is_none(), "the command did not wait");
    let change = records.iter().rfind(|record| is_change(record)).context("no change")?;
    let value = serde_json::from_slice(change.value.as_deref().unwrap_or_default())?;
    Ok((command, value, change.offset.unwrap_or_default()))
}

#[test]
fn a_rollout_is_followed_until_all_hosts_run_it() -> Result<()> {
    let app = app("releases-wait")?;
    let dir = ArtifactDir::new()?;
    deployed(&app, &dir.ledger(1, 0)?, &[])?;
    // Two running hosts, and one that has stopped.
    for instance in ["one", "two", "gone"] {
        say(&app, instance, Some(&status(instance, 0, &json!([]))))?;
    }
    say(&app, "gone", None)?;

    let (command, change, offset) = followed(&app, &dir.ledger(2, 0)?)?;
    let digest = &change["releases"][0];
    let ready = json!([{ "digest": digest, "state": "ready" }]);
    say(&app, "one", Some(&status("one", offset + 1, &ready)))?;
    let mut two = status("two", offset + 1, &ready);
    two["tenants"] = json!([{ "release": digest, "count": 2, "names": ["a", "b"] }]);
    two["failures"] = json!([{ "release": digest, "messages": 9, "failures": 0, "rejections": 1 }]);
    say(&app, "two", Some(&two))?;
    let answer = command.end()?;
    let rollout = &answer.json()?["rollout"];
    assert_eq!(rollout["result"], "done");
    assert_eq!(rollout["hosts"].as_array().map(Vec::len), Some(2), "{rollout}");
    assert_eq!(
        (&rollout["hosts"][1]["stage"], &rollout["hosts"][1]["tenants"][0]["count"]),
        (&json!("ready"), &json!(2))
    );
    let shown = app.run_command(&["releases"], &["--json"])?.json()?;
    assert_eq!(shown["releases"][0]["hosts"]["ready"], json!(["one", "two"]));

    // A host that cannot run the release.
    let (command, change, offset) = followed(&app, &dir.ledger(3, 0)?)?;
    let failed = json!([{ "digest": change["releases"][0], "state": "failed", "reason": "no memory" }]);
    say(&app, "one", Some(&status("one", offset + 1, &failed)))?;
    let answer = command.end()?;
    assert_eq!(answer.status.code(), Some(1));
    let rollout = &serde_json::from_str::<Value>(&answer.output)?["rollout"];
    assert_eq!((&rollout["result"], &rollout["hosts"][0]["reason"]), (&json!("failed"), &json!("no memory")));

    // A rollback during the wait.
    let (command, ..) = followed(&app, &dir.ledger(4, 0)?)?;
    app.run_command(&["rollback"], &["--note", "slow", "--json"])?.json()?;
    let answer = command.end()?;
    let rollout = &serde_json::from_str::<Value>(&answer.output)?["rollout"];
    assert_eq!((answer.status.code(), &rollout["result"]), (Some(1), &json!("rolled-back")));
    let why = rollout["reason"].as_str().unwrap_or_default();
    assert!(why.starts_with("the change was rolled back: rollback by ") && why.ends_with("slow"), "{why}");

    // No host is running.
    for instance in ["one", "two"] {
        say(&app, instance, None)?;
    }
    let answer = app.run_command(&["deploy", &text(&dir.ledger(5, 0)?)], &["--wait"])?;
    assert_eq!(answer.status.code(), Some(1));
    assert!(answer.output.contains("no host is running"), "{}", answer.output);
    assert_eq!(history(&app)?.len(), 6, "the release is deployed nevertheless");
    Ok(())
}
