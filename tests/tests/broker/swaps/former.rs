//! Releases that no route names any more, and tenants that cannot leave them.

use anyhow::Result;
use switchboard_tests::app::LONG;
use switchboard_tests::host::{Host, release};
use switchboard_tests::progress;

use super::{by, deploy, ledgers, lines, send, status};

fn count(host: &Host, words: &str) -> usize {
    host.log().iter().filter(|line| line.contains(words)).count()
}

#[test]
fn what_tenants_ran_before_is_kept_for_them_and_loaded_again_where_it_is_not() -> Result<()> {
    let app = ledgers("former")?;
    let mut first = app.run("first", &["--instance", "host"])?;
    deploy(&app, &release("tagged_1")?, &[])?;
    send(&app, "a", 0..3)?;
    send(&app, "b", 0..3)?;
    assert_eq!(lines(&app, "a", 3)?, by("1.0.0", 0..3));
    lines(&app, "b", 3)?;
    // It has no message while this one is routed, so no route names what it ran, nor went back to it.
    deploy(&app, &release("tagged_2")?, &[])?;
    deploy(&app, &release("unwilling")?, &["--no-gate"])?;
    send(&app, "a", 3..6)?;
    assert_eq!(lines(&app, "a", 6)?[3..], by("1.0.0", 3..6));
    assert_eq!(
        (count(&first, "release loaded release=tagged 1.0.0"), count(&first, "messages wait")),
        (1, 0),
        "it was kept"
    );

    assert!(first.terminate(LONG)?.success());
    let second = app.run("second", &["--instance", "host"])?;
    assert_eq!(count(&second, "release loaded release=tagged 1.0.0"), 0, "no route names it");
    send(&app, "b", 3..6)?;
    assert_eq!(lines(&app, "b", 6)?, by("1.0.0", 0..6), "and it is loaded for the tenant that waits for it");
    second.wait_for("the reason", LONG, |line| {
        line.contains("runs the fallback release tagged 1.0.0") && line.contains("as built")
    })?;
    assert_eq!(count(&second, "release loaded release=tagged 1.0.0"), 1);
    Ok(())
}

#[test]
fn what_cannot_take_over_the_state_of_a_tenant_that_stays_is_refused() -> Result<()> {
    let app = ledgers("former-state")?;
    let _host = app.run("host", &[])?;
    deploy(&app, &release("tagged_1")?, &[])?;
    deploy(&app, &release("unwilling")?, &["--no-gate"])?;
    send(&app, "new", 0..1)?;
    assert_eq!(lines(&app, "new", 1)?, by("4.0.0", 0..1), "its state has version 2");
    assert!(app.ask(&["rollback"], &["--wait"])?.status.success());
    send(&app, "new", 1..2)?;
    assert_eq!(lines(&app, "new", 2)?[1..], by("4.0.0", 1..2));
    progress::wait_until("the status to say that the tenant stays", || {
        Ok(status(&app)?["hosts"][0]["fallback"][0]["tenant"] == "new")
    })?;
    let path = release("tagged_2")?.display().to_string();
    let refused = app.ask(&["deploy", &path], &[])?;
    let why = refused.refusal()?;
    assert!(why.contains("tagged 4.0.0 (") && why.contains("which the tenant new runs, has 2"), "{why}");
    // With a route of its own it is in nobody's way.
    assert!(app.ask(&["route", "set", "tagged@4.0.0"], &["--tenant", "new"])?.status.success());
    deploy(&app, &release("tagged_2")?, &[])?;
    Ok(())
}
