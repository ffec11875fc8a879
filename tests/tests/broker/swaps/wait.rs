//! Does `--wait` report what real hosts do with a change, and end accordingly?

use anyhow::{Context as _, Result};
use serde_json::Value;
use switchboard_tests::app::{App, CommandOutput, RunningCommand};
use switchboard_tests::host::release;
use switchboard_tests::progress;

use super::{by, deploy, ledgers, lines, send};

/// Waits for the end of a command, and meanwhile sends messages of a tenant. `sent` counts them.
fn meanwhile(app: &App, mut command: RunningCommand, tenant: &str, sent: &mut u32) -> Result<CommandOutput> {
    progress::wait_until("the end of the command", || {
        send(app, tenant, *sent..*sent + 1)?;
        *sent += 1;
        Ok(command.process.ended()?.is_some())
    })?;
    command.end()
}

fn start_deploy(app: &App, artifact: &str, arguments: &[&str]) -> Result<RunningCommand> {
    app.start_command(&["deploy", &release(artifact)?.display().to_string()], &[&["--json"], arguments].concat())
}

fn rollout(answer: &CommandOutput) -> Result<Value> {
    Ok(serde_json::from_str::<Value>(&answer.output).with_context(|| format!("{answer:?}"))?["rollout"].clone())
}

#[test]
fn a_problem_ends_a_wait_with_the_reason_before_its_time_out() -> Result<()> {
    let app = ledgers("wait")?;
    let _host = app.run("host", &["--instance", "host"])?;
    deploy(&app, &release("tagged_1")?, &[])?;
    let mut sent = 3;
    send(&app, "a", 0..sent)?;
    assert_eq!(lines(&app, "a", 3)?, by("1.0.0", 0..3));

    // The release cannot take over the tenant's state. The command's time-out is longer than the test's own limit.
    let command = start_deploy(&app, "unwilling", &["--wait=1h", "--no-gate"])?;
    let answer = meanwhile(&app, command, "a", &mut sent)?;
    let shown = rollout(&answer)?;
    assert_eq!((answer.status.code(), &shown["result"]), (Some(1), &"failed".into()), "{shown:#}");
    let troubles = shown["troubles"].to_string();
    assert!(
        troubles.contains("host: a runs the fallback release tagged 1.0.0 ") && troubles.contains("as built"),
        "{troubles}"
    );
    assert_eq!(shown["hosts"][0]["fallback"][0]["tenant"], "a");

    // After a rollback no tenant runs a fallback release. Then the same release again, with the output for people.
    let back = app.run_command(&["rollback"], &["--wait", "--json"])?;
    assert_eq!((back.status.code(), &rollout(&back)?["result"]), (Some(0), &"done".into()), "{back:?}");
    let command = app.start_command(&["route", "set", "tagged@4.0.0"], &["--wait=1h", "--no-gate"])?;
    let answer = meanwhile(&app, command, "a", &mut sent)?;
    assert_eq!(answer.status.code(), Some(1), "{answer:?}");
    let says = |words: &[&str]| answer.output.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(
        says(&["host: a runs the fallback release tagged 1.0.0 ", "as built"]) && says(&["problem found"]),
        "{answer:?}"
    );
    let back = app.run_command(&["rollback"], &["--wait=1", "--json"])?;
    assert_eq!(back.status.code(), Some(0), "{back:?}");
    let count = usize::try_from(sent)?;
    assert_eq!(lines(&app, "a", count)?, by("1.0.0", 0..sent), "the tenant's lines continue");

    // A message that fails.
    let command = start_deploy(&app, "trapping", &["--wait=1h", "--no-gate", "--tenant", "b"])?;
    let answer = meanwhile(&app, command, "b", &mut 0)?;
    let shown = rollout(&answer)?;
    assert_eq!((answer.status.code(), &shown["result"]), (Some(1), &"failed".into()), "{shown:#}");
    let troubles = shown["troubles"].to_string();
    assert!(troubles.contains("failures of tagged 3.0.0 ") && troubles.contains("trap: "), "{troubles}");
    Ok(())
}

#[test]
fn a_wait_succeeds_when_all_hosts_run_the_release_and_lists_their_tenants() -> Result<()> {
    let app = ledgers("wait-good")?;
    let _one = app.run("one", &["--instance", "one"])?;
    let _two = app.run("two", &["--instance", "two"])?;
    deploy(&app, &release("tagged_1")?, &[])?;
    let mut sent = 0;
    let command = start_deploy(&app, "tagged_2", &["--wait=3"])?;
    let answer = meanwhile(&app, command, "a", &mut sent)?;
    let shown = rollout(&answer)?;
    assert_eq!((answer.status.code(), &shown["result"]), (Some(0), &"done".into()), "{shown:#}");
    assert_eq!((&shown["troubles"], shown["hosts"].as_array().map(Vec::len)), (&Value::Array(vec![]), Some(2)));
    let tenants: Vec<_> = (0..2).map(|host| shown["hosts"][host]["tenants"].to_string()).collect();
    assert!(tenants.iter().any(|shown| shown.contains(r#""names":["a"]"#)), "{tenants:?}");
    assert_eq!(lines(&app, "a", usize::try_from(sent)?)?.len(), usize::try_from(sent)?);
    Ok(())
}
