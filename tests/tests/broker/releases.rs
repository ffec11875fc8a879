//! Do the commands deploy, show, route, roll back and prune releases, also when they run at once or are killed?

mod refusals;
mod rollout;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde_json::{Value, json};
use switchboard_core::registry::CHUNK_BYTES;
use switchboard_tests::app::{App, CommandOutput, RunningCommand};
use switchboard_tests::client::Record;
use switchboard_tests::host::{hostile, ledger};
use switchboard_tests::progress::Stall;
use tempfile::TempDir;

/// Artifacts to deploy.
struct ArtifactDir(TempDir);

impl ArtifactDir {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    }

    /// The ledger with a custom section of `padding` bytes: the same plugin with another digest.
    fn ledger(&self, number: u8, padding: usize) -> Result<PathBuf> {
        let mut bytes = std::fs::read(ledger()?)?;
        let mut length = padding + 2;
        bytes.push(0);
        while length >= 0x80 {
            bytes.push(u8::try_from(length & 0x7f)? | 0x80);
            length >>= 7;
        }
        bytes.extend([u8::try_from(length)?, 1, b'0' + number]);
        bytes.resize(bytes.len() + padding, number);
        self.put(&format!("ledger-{number}.wasm"), &bytes)
    }
}

fn app(prefix: &str) -> Result<App> {
    Ok(App::new(prefix, &[], 1)?.arg("--tenant-header", "TENANT=text"))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn deploy(app: &App, artifact: &Path, arguments: &[&str]) -> Result<CommandOutput> {
    app.run_command(&["deploy", &text(artifact)], &[&["--json"], arguments].concat())
}

/// Deploys a release, and returns its digest.
fn deployed(app: &App, artifact: &Path, arguments: &[&str]) -> Result<String> {
    let change = deploy(app, artifact, arguments)?.json()?;
    Ok(change["releases"][0].as_str().context("no digest")?.to_owned())
}

/// The release of each route, sorted by route.
fn routes(app: &App) -> Result<Vec<(String, String)>> {
    let shown = app.run_command(&["route", "show"], &["--json"])?.json()?;
    let routes = shown["routes"].as_array().context("no routes")?.iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(routes.map(|route| (text(&route["route"]), text(&route["release"]))).collect())
}

fn named(routes: &[(&str, &str)]) -> Vec<(String, String)> {
    routes.iter().map(|(route, release)| ((*route).to_owned(), (*release).to_owned())).collect()
}

fn history(app: &App) -> Result<Vec<Value>> {
    let shown = app.run_command(&["releases"], &["--history", "--json"])?.json()?;
    Ok(shown["history"].as_array().context("no history")?.clone())
}

fn control(app: &App) -> String {
    format!("{}-switchboard-control", app.name)
}

/// The bytes of an artifact in the control topic, up to its first missing chunk.
fn artifact(records: &[Record], digest: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0.. {
        let key = format!("artifact/{digest}/{number}");
        let found = records.iter().rev().find(|record| record.key.as_deref() == Some(key.as_bytes()));
        match found.and_then(|record| record.value.as_deref()) {
            Some(chunk) => bytes.extend_from_slice(chunk),
            None => break,
        }
    }
    bytes
}

#[test]
fn releases_are_deployed_shown_routed_rolled_back_and_pruned() -> Result<()> {
    let app = app("releases")?;
    let dir = ArtifactDir::new()?;
    let none = app.run_command(&["releases"], &["--json"])?;
    assert_eq!(none.json()?, json!({ "releases": [], "hosts": [] }));
    assert!(none.log.contains("does not exist"), "{none:?}");
    assert!(!app.client.topics()?.contains(&control(&app)), "showing releases creates no topic");

    let first = deployed(&app, &dir.ledger(1, 0)?, &["--note", "the first"])?;
    // The artifact is larger than a chunk, and a tenant is escaped.
    let large = dir.ledger(2, 1_200_000)?;
    let second = deployed(&app, &large, &["--tenant", "b", "--tenant", "a%62", "--gate", "3/50", "--gate-time", "1m"])?;
    let third = deployed(&app, &dir.ledger(3, 0)?, &["--percent", "12.5", "--no-gate"])?;
    let all = [("default", &*first), ("percentage", &third), ("tenant/ab", &second), ("tenant/b", &second)];
    assert_eq!(routes(&app)?, named(&all));
    assert_eq!(artifact(&app.client.read_all(&control(&app))?, &second), std::fs::read(&large)?);

    let shown = app.run_command(&["route", "show"], &["--json", "--tenant", "b"])?.json()?;
    let expected = json!({ "routes": [{
        "route": "tenant/b", "release": second, "previous": first, "name": "ledger", "version": "0.1.0",
        "gate": { "failures": 3, "messages": 50, "seconds": 60 }, "offset": shown["routes"][0]["offset"],
    }] });
    assert_eq!(shown, expected);
    let shown = app.run_command(&["releases"], &["--json"])?.json()?;
    let newest = &shown["releases"][0];
    assert_eq!((newest["digest"].as_str(), newest["complete"].as_bool()), (Some(&*third), Some(true)));
    assert_eq!(
        (&newest["routes"], &newest["state-version"], &newest["signature"]),
        (&json!(["percentage"]), &json!(1), &Value::Null)
    );
    let entries = history(&app)?;
    let what: Vec<_> = entries.iter().map(|entry| entry["kind"].as_str().unwrap_or_default()).collect();
    assert_eq!(what, ["deploy"; 3]);
    assert_eq!(entries[0]["note"], "the first");
    assert!(entries.iter().all(|entry| entry["actor"]["user"].is_string() && entry["timestamp"].as_i64() > Some(0)));

    // Two releases have this name. The first digits of a digest name one of them.
    let ambiguous = app.run_command(&["route", "set", "ledger@0.1.0"], &["--tenant", "b"])?;
    assert!(ambiguous.refusal()?.contains(" or "), "{ambiguous:?}");
    app.run_command(&["route", "set", &first[..6]], &["--tenant", "b", "--json"])?.json()?;
    app.run_command(&["route", "clear"], &["--percentage", "--json"])?.json()?;
    assert_eq!(routes(&app)?, named(&[("default", &first), ("tenant/ab", &second), ("tenant/b", &first)]));
    let back = app.run_command(&["rollback"], &["--json", "--note", "no"])?.json()?;
    assert_eq!(
        (&back["kind"], &back["routes"][0]["route"], &back["note"]),
        (&json!("rollback"), &json!("percentage"), &json!("no"))
    );
    app.run_command(&["rollback"], &["--tenant", "b", "--json"])?.json()?;
    assert_eq!(routes(&app)?, named(&all));
    let again = app.run_command(&["route", "clear"], &["--tenant", "c"])?;
    assert!(again.refusal()?.contains("no route tenant/c"), "{again:?}");

    // The default is rolled back to the first release, so that only the history names the fourth.
    let fourth = deployed(&app, &dir.ledger(4, 0)?, &[])?;
    app.run_command(&["rollback"], &["--json"])?.json()?;
    let dry_run = app.run_command(&["release", "prune"], &["--keep", "0", "--dry-run", "--json"])?.json()?;
    assert_eq!(dry_run, json!({ "removed": [fourth], "dry-run": true, "change": null }));
    let pruned = app.run_command(&["release", "prune"], &["--keep", "0", "--json"])?.json()?;
    assert_eq!((&pruned["removed"], &pruned["change"]["kind"]), (&json!([fourth]), &json!("prune")));
    let gone = app.run_command(&["route", "set", &fourth[..8]], &[])?;
    assert!(gone.refusal()?.contains("no release is"), "{gone:?}");
    assert!(artifact(&app.client.read_all(&control(&app))?, &fourth).is_empty());
    assert_eq!(
        deployed(&app, &dir.ledger(4, 0)?, &["--tenant", "c"])?,
        fourth,
        "a pruned release can be deployed again"
    );

    // The output for people.
    let tables = app.run_command(&["releases"], &[])?;
    assert!(tables.output.contains("ledger 0.1.0") && tables.output.contains(&first[..12]), "{}", tables.output);
    let tables = app.run_command(&["route", "show"], &[])?;
    assert!(tables.output.contains("for 12.5 %") && tables.output.contains("3 of 50 within 1m"), "{}", tables.output);
    Ok(())
}

#[test]
fn concurrent_deployments_are_ordered_and_none_is_partial() -> Result<()> {
    let app = app("releases-race")?;
    let dir = ArtifactDir::new()?;
    let artifacts: Vec<_> = (0..4).map(|number| dir.ledger(number, 600_000)).collect::<Result<_>>()?;
    // The topic does not exist when they start.
    let begun: Vec<_> =
        artifacts.iter().map(|path| app.start_command(&["deploy", &text(path)], &["--json"])).collect::<Result<_>>()?;
    let mut changes = Vec::new();
    for deployment in begun {
        changes.push(deployment.end()?.json()?);
    }
    let entries = history(&app)?;
    let ids = |entries: &[Value]| entries.iter().map(|entry| entry["id"].to_string()).collect::<BTreeSet<_>>();
    assert_eq!((entries.len(), ids(&entries)), (4, ids(&changes)));
    let mut before = Value::Null;
    for entry in &entries {
        let touched = &entry["routes"][0];
        assert_eq!(touched["before"], before, "each begins with the result of the one before: {entries:#?}");
        before = touched["after"].clone();
    }
    assert_eq!(routes(&app)?, named(&[("default", entries[3]["releases"][0].as_str().unwrap_or_default())]));
    let records = app.client.read_all(&control(&app))?;
    for (change, path) in changes.iter().zip(&artifacts) {
        let digest = change["releases"][0].as_str().context("no digest")?;
        assert_eq!(artifact(&records, digest), std::fs::read(path)?);
    }
    Ok(())
}

/// Starts deployments of a large artifact until one is stopped (SIGSTOP) in the middle of its transaction: before the
/// brokers have all chunks, so that it has not sent its commit. Returns it, and the number of deployments that ended
/// before.
fn stop_a_deployment(app: &App, dir: &ArtifactDir) -> Result<(RunningCommand, usize)> {
    let transactions = app.client.transactions(&control(app))?;
    let size = 15_000_000;
    let chunks = i64::try_from(size / CHUNK_BYTES)?;
    for tried in 0..20_u8 {
        let large = dir.ledger(10 + tried, size)?;
        let mut deployment = app.start_command(&["deploy", &text(&large)], &["--json"])?;
        let mut stall = Stall::new(0);
        while deployment.process.ended()?.is_none() {
            let open = transactions.open_records()?;
            stall.check(open).context("the deployment neither ends nor writes")?;
            if open > 0 {
                deployment.process.signal(Signal::STOP);
                // The process is stopped first, so this counts all its chunks.
                let written = transactions.open_records()?;
                if (1..chunks).contains(&written) {
                    return Ok((deployment, usize::from(tried)));
                }
                deployment.process.signal(Signal::CONT);
            }
        }
    }
    anyhow::bail!("no deployment could be stopped in the middle")
}

#[test]
fn a_killed_deployment_leaves_nothing_behind() -> Result<()> {
    let app = app("releases-killed")?;
    let dir = ArtifactDir::new()?;
    let first = deployed(&app, &dir.ledger(1, 0)?, &["--tenant", "a"])?;
    let (mut killed, others) = stop_a_deployment(&app, &dir)?;
    killed.process.kill()?;
    // The next deployment does not wait for the transaction's time-out, and sees no record of it.
    let second = deployed(&app, &dir.ledger(2, 0)?, &["--tenant", "b"])?;
    let entries = history(&app)?;
    assert_eq!(entries.len(), 2 + others);
    let shown = app.run_command(&["releases"], &["--json"])?.json()?;
    let releases = shown["releases"].as_array().context("no releases")?;
    assert_eq!(releases.len(), 2 + others);
    assert!(releases.iter().all(|release| release["complete"] == true), "{releases:#?}");
    let pins: Vec<_> = routes(&app)?.into_iter().filter(|(route, _)| route.starts_with("tenant/")).collect();
    assert_eq!(pins, named(&[("tenant/a", &first), ("tenant/b", &second)]));
    Ok(())
}

#[test]
fn an_overtaken_deployment_starts_over() -> Result<()> {
    let app = app("releases-fenced")?;
    let dir = ArtifactDir::new()?;
    let first = deployed(&app, &dir.ledger(1, 0)?, &[])?;
    let (overtaken, others) = stop_a_deployment(&app, &dir)?;
    let second = deployed(&app, &dir.ledger(2, 0)?, &[])?;
    assert_eq!(history(&app)?.len(), 2 + others);
    overtaken.process.signal(Signal::CONT);
    let change = overtaken.end()?.json()?;
    let last = change["releases"][0].as_str().context("no digest")?;
    let entries = history(&app)?;
    assert_eq!(
        entries.last().map(|entry| &entry["id"]),
        Some(&change["id"]),
        "its change comes after the one that overtook it"
    );
    assert_eq!(change["routes"][0]["before"]["release"], json!(second), "and is based on it");
    assert_ne!(first, second);
    assert_eq!(routes(&app)?, named(&[("default", last)]));
    Ok(())
}

#[test]
fn a_release_shows_its_plugins_manifest() -> Result<()> {
    let app = app("releases-kinds")?;
    deployed(&app, &ledger()?, &[])?;
    deployed(&app, &hostile()?, &["--tenant", "a"])?;
    let shown = app.run_command(&["releases"], &["--json"])?.json()?;
    let names: Vec<_> = shown["releases"].as_array().into_iter().flatten().map(|release| &release["name"]).collect();
    assert_eq!(names, ["hostile", "ledger"]);
    assert_eq!(
        (&shown["releases"][0]["consumes"], &shown["releases"][0]["migrates"]),
        (&json!(["IN"]), &json!([2, 7]))
    );
    app.run_command(&["route", "set", "hostile@0.1.0"], &["--tenant", "b", "--json"])?.json()?;
    Ok(())
}
