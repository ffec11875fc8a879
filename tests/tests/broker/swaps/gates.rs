//! Does the health gate roll back on rejections, and does it retry a rollback that it could not write?

use std::ops::ControlFlow;

use anyhow::{Context as _, Result};
use switchboard_tests::app::{App, WAIT_LIMIT};
use switchboard_tests::host::{Host, release};
use switchboard_tests::kafka::Kafka;
use switchboard_tests::native::{Operation, Resource, allow};
use switchboard_tests::progress;

use super::{ALIASES, deploy, ledgers, lines, send, send_to, status};

/// Sends messages. The plugin rejects a quarter of them.
fn send_mixed(app: &App, tenant: &str, ids: std::ops::Range<u32>) -> Result<()> {
    ids.step_by(4).try_for_each(|id| {
        send_to(app, "IN", tenant, id..id + 1, "refuse x")?;
        send(app, tenant, id + 1..id + 4)
    })
}

/// Waits until the host has counted this number of rejections by a release.
fn counted(app: &App, release: &str, rejections: u64) -> Result<()> {
    // Each counted rejection is progress.
    progress::wait_for(&format!("{rejections} rejections of {release}"), || {
        let failures = status(app)?["hosts"][0]["failures"].clone();
        let mut counts = failures.as_array().into_iter().flatten();
        let is_counted = counts.any(|count| count["release"] == release && count["rejections"] == rejections);
        Ok(if is_counted { ControlFlow::Break(()) } else { ControlFlow::Continue(failures) })
    })
}

fn rolled_back(host: &Host) -> Vec<String> {
    host.log().into_iter().filter(|line| line.contains("the health gate has failed; rolling back")).collect()
}

#[test]
fn a_release_is_rolled_back_only_when_it_rejects_more_than_the_one_before() -> Result<()> {
    let app = ledgers("rejections")?;
    let host = app.run("host", &[])?;
    let first = deploy(&app, &release("tagged_1")?, &["--no-gate"])?;
    send_mixed(&app, "a", 0..160)?;
    lines(&app, "a", 120)?;
    counted(&app, &first, 40)?;
    let second = deploy(&app, &release("tagged_2")?, &["--gate", "3/1000"])?;
    send_mixed(&app, "a", 160..320)?;
    assert!(lines(&app, "a", 240)?[120..].iter().all(|line| line.2 == "2.0.0"));
    counted(&app, &second, 40)?;
    assert_eq!(rolled_back(&host), [""; 0]);

    // The host checks all gates together: when it has checked this one, it has checked the other one too.
    deploy(&app, &release("rejecting")?, &["--gate", "3/1000", "--tenant", "b"])?;
    send(&app, "b", 0..150)?;
    host.wait_for("the rollback", WAIT_LIMIT, |line| {
        line.contains("tagged 6.0.0") && line.contains("release rolled back")
    })?;
    assert!(rolled_back(&host).iter().all(|line| line.contains("tagged 6.0.0")), "{:#?}", rolled_back(&host));
    let shown = app.run_command(&["releases"], &["--history", "--json"])?.json()?;
    let last = shown["history"].as_array().and_then(|history| history.last()).context("no history")?;
    assert_eq!((&last["kind"], &last["routes"][0]["route"]), (&"automatic-rollback".into(), &"tenant/b".into()));
    assert!(last["note"].as_str().unwrap_or_default().contains("more rejections than usual"), "{last}");
    Ok(())
}

#[test]
fn a_rollback_that_could_not_be_written_is_retried() -> Result<()> {
    let (kafka, login) = Kafka::guarded()?;
    let login: Vec<_> = login.iter().map(String::as_str).collect();
    let app = App::on(&kafka, "gate-acl", &ALIASES, 1)?.arg("--tenant-header", "TENANT=text").arg("--members", "1");
    // Without a plugin the number of shards is not known by itself.
    assert!(app.run("creator", &["--shards", "16"])?.terminate(WAIT_LIMIT)?.success());
    let topic = |topic: &str| format!("{}-{topic}", app.name);
    let grant = |resource: Resource<'_>, operation| allow(kafka.bootstrap(), "User:switchboard", resource, operation);
    for name in [
        "IN",
        "IN2",
        "LINES",
        "AUDIT",
        "switchboard-repartition",
        "switchboard-changelog",
        "switchboard-dead-letters",
        "switchboard-control",
    ] {
        for operation in [Operation::Read, Operation::Write, Operation::Delete, Operation::DescribeConfigs] {
            grant(Resource::Topic(&topic(name)), operation)?;
        }
    }
    grant(Resource::Group(&app.name), Operation::Read)?;
    // The workers' transactional ids, but not the one that changes routes.
    grant(Resource::TransactionalIds(&topic("switchboard-host-")), Operation::Write)?;
    let host = app.run("host", &[&login[..], &["--instance", "host"]].concat())?;
    deploy(&app, &release("tagged_1")?, &[])?;
    deploy(&app, &release("trapping")?, &["--gate", "3/1000"])?;
    send(&app, "a", 0..60)?;
    host.wait_for("the attempt", WAIT_LIMIT, |line| line.contains("the rollback failed; retrying"))?;
    let routed_version = || -> Result<_> {
        let shown = app.run_command(&["route", "show"], &["--json"])?.json()?;
        Ok(shown["routes"][0]["version"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(routed_version()?, "3.0.0");
    grant(Resource::TransactionalIds(&topic("switchboard-control")), Operation::Write)?;
    host.wait_for("the rollback", WAIT_LIMIT, |line| line.contains("release rolled back"))?;
    assert_eq!(routed_version()?, "1.0.0");
    Ok(())
}
