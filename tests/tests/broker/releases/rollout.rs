//! `deploy --wait`, with hosts whose words the test writes.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use switchboard_tests::app::{App, Asked, LONG};
use switchboard_tests::client::Record;

use super::{Shelf, app, control, deployed, history, text};

/// Writes what a host would say of itself.
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

/// Begins a deployment that is followed, and waits until it has written its change.
fn followed(app: &App, artifact: &Path) -> Result<(Asked, Value, i64)> {
    let known = history(app)?.len();
    let mut asked = app.begin(&["deploy", &text(artifact)], &["--json", "--wait"])?;
    let mut reader = app.client.reader(&[&control(app)])?;
    let is_change = |record: &Record| record.key.as_deref().is_some_and(|key| key.starts_with(b"change/"));
    let changes = |records: &[Record]| records.iter().filter(|record| is_change(record)).count();
    let records = reader.until("the change", LONG, |records| changes(records) > known)?;
    ensure!(asked.process.ended()?.is_none(), "it did not wait");
    let change = records.iter().rfind(|record| is_change(record)).context("no change")?;
    let value = serde_json::from_slice(change.value.as_deref().unwrap_or_default())?;
    Ok((asked, value, change.offset.unwrap_or_default()))
}

#[test]
fn a_rollout_is_followed_until_all_hosts_run_it() -> Result<()> {
    let (app, shelf) = (app("releases-wait")?, Shelf::new()?);
    deployed(&app, &shelf.ledger(1, 0)?, &[])?;
    // Hosts that live, and one that has stopped.
    for instance in ["one", "two", "gone"] {
        say(&app, instance, Some(&status(instance, 0, &json!([]))))?;
    }
    say(&app, "gone", None)?;

    let (asked, change, offset) = followed(&app, &shelf.ledger(2, 0)?)?;
    let digest = &change["releases"][0];
    let ready = json!([{ "digest": digest, "state": "ready" }]);
    say(&app, "one", Some(&status("one", offset + 1, &ready)))?;
    let mut two = status("two", offset + 1, &ready);
    two["tenants"] = json!([{ "release": digest, "count": 2, "names": ["a", "b"] }]);
    two["failures"] = json!([{ "release": digest, "messages": 9, "failures": 0, "rejections": 1 }]);
    say(&app, "two", Some(&two))?;
    let answer = asked.end()?;
    let rollout = &answer.json()?["rollout"];
    assert_eq!(rollout["result"], "done");
    assert_eq!(rollout["hosts"].as_array().map(Vec::len), Some(2), "{rollout}");
    assert_eq!(
        (&rollout["hosts"][1]["stage"], &rollout["hosts"][1]["tenants"][0]["count"]),
        (&json!("ready"), &json!(2))
    );
    let told = app.ask(&["releases"], &["--json"])?.json()?;
    assert_eq!(told["releases"][0]["hosts"]["ready"], json!(["one", "two"]));

    // A host that cannot.
    let (asked, change, offset) = followed(&app, &shelf.ledger(3, 0)?)?;
    let failed = json!([{ "digest": change["releases"][0], "state": "failed", "reason": "no memory" }]);
    say(&app, "one", Some(&status("one", offset + 1, &failed)))?;
    let answer = asked.end()?;
    assert_eq!(answer.status.code(), Some(1));
    let rollout = &serde_json::from_str::<Value>(&answer.output)?["rollout"];
    assert_eq!((&rollout["result"], &rollout["hosts"][0]["reason"]), (&json!("failed"), &json!("no memory")));

    // One that somebody rolls back meanwhile.
    let (asked, ..) = followed(&app, &shelf.ledger(4, 0)?)?;
    app.ask(&["rollback"], &["--note", "slow", "--json"])?.json()?;
    let answer = asked.end()?;
    let rollout = &serde_json::from_str::<Value>(&answer.output)?["rollout"];
    assert_eq!((answer.status.code(), &rollout["result"]), (Some(1), &json!("rolled-back")));
    assert!(rollout["reason"].as_str().is_some_and(|why| why.starts_with("rollback by ") && why.ends_with("slow")));

    // Nobody is left.
    for instance in ["one", "two"] {
        say(&app, instance, None)?;
    }
    let answer = app.ask(&["deploy", &text(&shelf.ledger(5, 0)?)], &["--wait"])?;
    assert_eq!(answer.status.code(), Some(1));
    assert!(answer.output.contains("no host is running"), "{}", answer.output);
    assert_eq!(history(&app)?.len(), 6, "it is deployed all the same");
    Ok(())
}
