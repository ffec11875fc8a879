//! `--wait`: follows a change until all living hosts go by it, and for as long after as was asked for.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use switchboard_core::registry::{Entry, Failures, HostProgress, Rollout, Running, Stage, Verdict, Watch};

use super::control::{print, table};
use switchboard_kafka::control_topic::ControlWriter;

/// One look at what hosts say.
const LOOK: Duration = Duration::from_millis(100);
/// How long hosts may take at least to go by a change.
const PATIENCE: Duration = Duration::from_mins(1);

/// How a rollout ended.
pub(super) struct End {
    pub(super) succeeded: bool,
    /// `{"result", "reason"?, "troubles", "hosts"}`.
    pub(super) json: serde_json::Value,
}

/// Follows a change, and `after` all hosts go by it for so long; tells how it goes on the standard error, and how it ended on the
/// standard output unless that is to be `quiet`.
pub(super) fn follow(writer: &mut ControlWriter, change: &Entry, after: Duration, quiet: bool) -> anyhow::Result<End> {
    let started = Instant::now();
    let mut watch = Watch::new(PATIENCE.max(after), after);
    // It is not drawn where there is no terminal.
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} hosts {wide_msg}")?;
    let bar = ProgressBar::new(0).with_style(style);
    loop {
        let elapsed = started.elapsed();
        // By the broker's clock, as the hosts' records are.
        let now = change.timestamp.saturating_add(elapsed);
        let control = writer.control();
        let rollout = control.rollout(change, now);
        let verdict = watch.look(&rollout, elapsed);
        show(&bar, &rollout, watch.left(elapsed));
        if let Some(verdict) = verdict {
            bar.finish_and_clear();
            let (reason, troubles) = (reason(verdict, rollout.next), control.troubles(&rollout));
            if !quiet {
                tell(&rollout, &troubles, &reason);
            }
            let mut json = json!({ "result": verdict, "troubles": troubles, "hosts": rollout.hosts });
            if verdict != Verdict::Done {
                json["reason"] = reason.into();
            }
            return Ok(End { succeeded: verdict == Verdict::Done, json });
        }
        // All that has come is taken in before it is looked at again.
        let mut more = writer.follow(LOOK)?;
        while more {
            more = writer.follow(Duration::ZERO)?;
        }
    }
}

/// Hosts as they come to go by it, and what they run.
fn show(bar: &ProgressBar, rollout: &Rollout<'_>, left: Option<Duration>) {
    let ready: Vec<_> = rollout.hosts.iter().filter(|host| host.stage == Stage::Ready).collect();
    bar.set_length(rollout.hosts.len() as u64);
    bar.set_position(ready.len() as u64);
    let hosts = ready.iter().map(|host| format!("{} ({} tenants)", host.instance, count(host)));
    let left = left.map_or(String::new(), |left| format!("{} s more: ", left.as_secs()));
    bar.set_message(left + &hosts.collect::<Vec<_>>().join(", "));
    bar.tick();
}

/// Tenants that run it.
fn count(host: &HostProgress<'_>) -> u64 {
    host.tenants.iter().map(|running| running.count).sum()
}

/// A verdict in words.
fn reason(verdict: Verdict, next: Option<&Entry>) -> String {
    let next = next.map_or(String::new(), |Entry { change, .. }| {
        let why = change.note.as_deref().map(|note| format!(": {note}")).unwrap_or_default();
        format!("{} by {}{why}", change.what, change.by)
    });
    match verdict {
        Verdict::Done => "done".into(),
        Verdict::Failed => "there is trouble with it; the change stands: `switchboard rollback` undoes it".into(),
        Verdict::RolledBack => next,
        Verdict::Replaced => format!("another change came after it: {next}"),
        Verdict::NoHosts => {
            "no host lives, so nobody goes by it: it is what hosts will go by when they are started".into()
        }
        Verdict::TimeOut => "not all hosts go by it yet; they go on with it".into(),
    }
}

fn tell(rollout: &Rollout<'_>, troubles: &[String], reason: &str) {
    if !rollout.hosts.is_empty() {
        let mut hosts = table(&["HOST", "STATE", "TENANTS", "FAILURES"]);
        for host in &rollout.hosts {
            let state = match &host.stage {
                Stage::Behind => "not yet",
                Stage::Ready => "goes by it",
                Stage::Failed { .. } => "cannot run it",
            };
            let names = host.tenants.iter().flat_map(|Running { names, .. }| names).map(ToString::to_string);
            let names: Vec<_> = names.collect();
            let sum = |number: fn(&Failures) -> u64| host.failures.iter().map(|of| number(of)).sum::<u64>();
            let failures = format!("{} of {}", sum(|of| of.failures), sum(|of| of.messages));
            let tenants = format!("{} {}", count(host), names.join(", "));
            hosts.add_row([host.instance.to_owned(), state.to_owned(), tenants, failures]);
        }
        print(&mut hosts);
    }
    for trouble in troubles {
        println!("{trouble}");
    }
    println!("{reason}");
}
