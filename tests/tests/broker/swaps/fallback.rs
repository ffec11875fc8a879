//! Does a tenant keep its fallback release, though no route names that release any more?

use anyhow::Result;
use switchboard_tests::app::WAIT_LIMIT;
use switchboard_tests::host::{Host, release};
use switchboard_tests::progress;

use super::{by, deploy, ledgers, lines, send, status};

fn count(host: &Host, words: &str) -> usize {
    host.log().iter().filter(|line| line.contains(words)).count()
}

#[test]
fn a_fallback_release_is_kept_for_its_tenants_and_loaded_where_it_is_missing() -> Result<()> {
    let app = ledgers("fallback")?;
    let mut first = app.run("first", &["--instance", "host"])?;
    deploy(&app, &release("tagged_1")?, &[])?;
    send(&app, "a", 0..3)?;
    send(&app, "b", 0..3)?;
    assert_eq!(lines(&app, "a", 3)?, by("1.0.0", 0..3));
    lines(&app, "b", 3)?;
    // Neither tenant has a message while the routes name this release. So no route, and no previous route, names the
    // release that the tenants ran last.
    deploy(&app, &release("tagged_2")?, &[])?;
    deploy(&app, &release("unwilling")?, &["--no-gate"])?;
    send(&app, "a", 3..6)?;
    assert_eq!(lines(&app, "a", 6)?[3..], by("1.0.0", 3..6));
    assert_eq!(
        (count(&first, "release loaded release=tagged 1.0.0"), count(&first, "messages wait")),
        (1, 0),
        "the host has kept the release"
    );

    assert!(first.terminate(WAIT_LIMIT)?.success());
    let second = app.run("second", &["--instance", "host"])?;
    assert_eq!(count(&second, "release loaded release=tagged 1.0.0"), 0, "no route names it");
    send(&app, "b", 3..6)?;
    assert_eq!(lines(&app, "b", 6)?, by("1.0.0", 0..6), "the host loads it for the tenant that waits for it");
    second.wait_for("the reason", WAIT_LIMIT, |line| {
        line.contains("runs the fallback release release=tagged 1.0.0") && line.contains("as built")
    })?;
    assert_eq!(count(&second, "release loaded release=tagged 1.0.0"), 1);
    Ok(())
}

#[test]
fn a_release_that_cannot_take_over_the_state_of_a_fallback_release_is_refused() -> Result<()> {
    let app = ledgers("fallback-state")?;
    let _host = app.run("host", &[])?;
    deploy(&app, &release("tagged_1")?, &[])?;
    deploy(&app, &release("unwilling")?, &["--no-gate"])?;
    send(&app, "new", 0..1)?;
    assert_eq!(lines(&app, "new", 1)?, by("4.0.0", 0..1), "its state has version 2");
    assert!(app.run_command(&["rollback"], &["--wait"])?.status.success());
    send(&app, "new", 1..2)?;
    assert_eq!(lines(&app, "new", 2)?[1..], by("4.0.0", 1..2));
    progress::wait_until("the status to list the tenant's fallback release", || {
        Ok(status(&app)?["hosts"][0]["fallback"][0]["tenant"] == "new")
    })?;
    let path = release("tagged_2")?.display().to_string();
    let refused = app.run_command(&["deploy", &path], &[])?;
    let why = refused.refusal()?;
    assert!(why.contains("tagged 4.0.0 (") && why.contains("which the tenant new runs, has 2"), "{why}");
    // With a route of its own the tenant does not prevent the deployment.
    assert!(app.run_command(&["route", "set", "tagged@4.0.0"], &["--tenant", "new"])?.status.success());
    deploy(&app, &release("tagged_2")?, &[])?;
    Ok(())
}
