//! `--wait` with real hosts: what becomes of a change decides how the command ends.

use anyhow::{Context as _, Result};
use serde_json::Value;
use switchboard_tests::app::{Answer, App, Asked};
use switchboard_tests::host::release;
use switchboard_tests::progress;

use super::{by, deploy, ledgers, lines, send};

/// Runs a command to its end while messages of a tenant come; `sent` counts them.
fn meanwhile(app: &App, mut asked: Asked, tenant: &str, sent: &mut u32) -> Result<Answer> {
    progress::wait_until("the end of the command", || {
        send(app, tenant, *sent..*sent + 1)?;
        *sent += 1;
        Ok(asked.process.ended()?.is_some())
    })?;
    asked.end()
}

fn begin(app: &App, artifact: &str, arguments: &[&str]) -> Result<Asked> {
    app.begin(&["deploy", &release(artifact)?.display().to_string()], &[&["--json"], arguments].concat())
}

fn rollout(answer: &Answer) -> Result<Value> {
    Ok(serde_json::from_str::<Value>(&answer.output).with_context(|| format!("{answer:?}"))?["rollout"].clone())
}

#[test]
fn trouble_ends_a_wait_with_the_reason_long_before_its_time() -> Result<()> {
    let app = ledgers("wait")?;
    let _host = app.run("host", &["--instance", "host"])?;
    deploy(&app, &release("tagged_1")?, &[])?;
    let mut sent = 3;
    send(&app, "a", 0..sent)?;
    assert_eq!(lines(&app, "a", 3)?, by("1.0.0", 0..3));

    // A tenant whose state it cannot take over. A command that does not end in time fails the test, so its own is longer.
    let asked = begin(&app, "unwilling", &["--wait=1h", "--no-gate"])?;
    let answer = meanwhile(&app, asked, "a", &mut sent)?;
    let told = rollout(&answer)?;
    assert_eq!((answer.status.code(), &told["result"]), (Some(1), &"failed".into()), "{told:#}");
    let troubles = told["troubles"].to_string();
    assert!(
        troubles.contains("host: a runs the fallback release tagged 1.0.0 ") && troubles.contains("as built"),
        "{troubles}"
    );
    assert_eq!(told["hosts"][0]["fallback"][0]["tenant"], "a");

    // Back: nobody stays any more. And the same release again, for people.
    let back = app.ask(&["rollback"], &["--wait", "--json"])?;
    assert_eq!((back.status.code(), &rollout(&back)?["result"]), (Some(0), &"done".into()), "{back:?}");
    let asked = app.begin(&["route", "set", "tagged@4.0.0"], &["--wait=1h", "--no-gate"])?;
    let answer = meanwhile(&app, asked, "a", &mut sent)?;
    assert_eq!(answer.status.code(), Some(1), "{answer:?}");
    let says = |words: &[&str]| answer.output.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(
        says(&["host: a runs the fallback release tagged 1.0.0 ", "as built"]) && says(&["problem found"]),
        "{answer:?}"
    );
    let back = app.ask(&["rollback"], &["--wait=1", "--json"])?;
    assert_eq!(back.status.code(), Some(0), "{back:?}");
    let count = usize::try_from(sent)?;
    assert_eq!(lines(&app, "a", count)?, by("1.0.0", 0..sent), "the tenant did not notice");

    // A message that fails.
    let asked = begin(&app, "trapping", &["--wait=1h", "--no-gate", "--tenant", "b"])?;
    let answer = meanwhile(&app, asked, "b", &mut 0)?;
    let told = rollout(&answer)?;
    assert_eq!((answer.status.code(), &told["result"]), (Some(1), &"failed".into()), "{told:#}");
    let troubles = told["troubles"].to_string();
    assert!(troubles.contains("failures of tagged 3.0.0 ") && troubles.contains("trap: "), "{troubles}");
    Ok(())
}

#[test]
fn a_wait_ends_well_where_all_goes_well_and_says_who_runs_it() -> Result<()> {
    let app = ledgers("wait-good")?;
    let (_one, _two) = (app.run("one", &["--instance", "one"])?, app.run("two", &["--instance", "two"])?);
    deploy(&app, &release("tagged_1")?, &[])?;
    let mut sent = 0;
    let asked = begin(&app, "tagged_2", &["--wait=3"])?;
    let answer = meanwhile(&app, asked, "a", &mut sent)?;
    let told = rollout(&answer)?;
    assert_eq!((answer.status.code(), &told["result"]), (Some(0), &"done".into()), "{told:#}");
    assert_eq!((&told["troubles"], told["hosts"].as_array().map(Vec::len)), (&Value::Array(vec![]), Some(2)));
    let tenants: Vec<_> = (0..2).map(|host| told["hosts"][host]["tenants"].to_string()).collect();
    assert!(tenants.iter().any(|told| told.contains(r#""names":["a"]"#)), "{tenants:?}");
    assert_eq!(lines(&app, "a", usize::try_from(sent)?)?.len(), usize::try_from(sent)?);
    Ok(())
}
