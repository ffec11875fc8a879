//! `--wait`: follows a change until all running hosts have applied it, and then watches for problems.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use switchboard_core::registry::{
    Entry, Failures, HostProgress, Rollout, RolloutStage, RolloutVerdict, RolloutWatch, Running,
};
use switchboard_kafka::control_topic::ControlWriter;

use super::Outcome;
use super::output::{new_table, print_table};

/// How long one poll of the control topic waits.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// The least time that hosts have to apply a change.
const MIN_APPLY_TIMEOUT: Duration = Duration::from_mins(1);

/// The end of a rollout.
pub(super) struct RolloutEnd {
    pub(super) outcome: Outcome,
    /// `{"result", "reason"?, "troubles", "hosts"}`.
    pub(super) json: serde_json::Value,
}

/// Follows a change until all hosts have applied it, then watches for problems for `watch_time`. Shows the progress on
/// standard error and, unless `is_quiet`, the result on standard output.
pub(super) fn follow(
    writer: &mut ControlWriter,
    change: &Entry,
    watch_time: Duration,
    is_quiet: bool,
) -> anyhow::Result<RolloutEnd> {
    let started = Instant::now();
    let mut watch = RolloutWatch::new(MIN_APPLY_TIMEOUT.max(watch_time), watch_time);
    // Without a terminal the bar is not drawn.
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} hosts {wide_msg}")?;
    let bar = ProgressBar::new(0).with_style(style);
    loop {
        let elapsed = started.elapsed();
        // Hosts' records have the broker's time, and so has the change.
        let now = change.timestamp.saturating_add(elapsed);
        let registry = writer.control();
        let rollout = registry.rollout(change, now);
        let verdict = watch.look(&rollout, elapsed);
        show_progress(&bar, &rollout, watch.left(elapsed));
        if let Some(verdict) = verdict {
            bar.finish_and_clear();
            let reason = describe(verdict, rollout.next);
            let problems = registry.troubles(&rollout);
            if !is_quiet {
                print_result(&rollout, &problems, &reason);
            }
            let mut json = json!({ "result": verdict, "troubles": problems, "hosts": rollout.hosts });
            if verdict != RolloutVerdict::Done {
                json["reason"] = reason.into();
            }
            return Ok(RolloutEnd { outcome: Outcome::from_success(verdict == RolloutVerdict::Done), json });
        }
        // Apply all records that have arrived before the next look.
        let mut has_more = writer.follow(POLL_TIMEOUT)?;
        while has_more {
            has_more = writer.follow(Duration::ZERO)?;
        }
    }
}

/// Shows how many hosts have applied the change, and how many tenants run its releases there.
fn show_progress(bar: &ProgressBar, rollout: &Rollout<'_>, time_left: Option<Duration>) {
    let ready: Vec<_> = rollout.hosts.iter().filter(|host| host.stage == RolloutStage::Ready).collect();
    bar.set_length(rollout.hosts.len() as u64);
    bar.set_position(ready.len() as u64);
    let hosts = ready.iter().map(|host| format!("{} ({} tenants)", host.instance, tenant_count(host)));
    let time_left = time_left.map_or(String::new(), |left| format!("{} s left: ", left.as_secs()));
    bar.set_message(time_left + &hosts.collect::<Vec<_>>().join(", "));
    bar.tick();
}

/// How many tenants of a host run a release of the change.
fn tenant_count(host: &HostProgress<'_>) -> u64 {
    host.tenants.iter().map(|running| running.count).sum()
}

/// A verdict for people. `next`: the change after the followed one.
fn describe(verdict: RolloutVerdict, next: Option<&Entry>) -> String {
    let next = next.map_or(String::new(), |Entry { change, .. }| {
        let note = change.note.as_deref().map(|note| format!(": {note}")).unwrap_or_default();
        format!("{} by {}{note}", change.kind, change.actor)
    });
    match verdict {
        RolloutVerdict::Done => "all running hosts have applied the change".into(),
        RolloutVerdict::Failed => "problem found; the change stays in effect. `switchboard rollback` undoes it".into(),
        RolloutVerdict::RolledBack => format!("the change was rolled back: {next}"),
        RolloutVerdict::Replaced => format!("a later change replaced this one: {next}"),
        RolloutVerdict::NoHosts => "no host is running; hosts apply the change when they start".into(),
        RolloutVerdict::TimeOut => "not all running hosts have applied the change yet; they continue to do so".into(),
    }
}

fn print_result(rollout: &Rollout<'_>, problems: &[String], reason: &str) {
    if !rollout.hosts.is_empty() {
        let mut hosts = new_table(&["HOST", "STATE", "TENANTS", "FAILURES"]);
        for host in &rollout.hosts {
            let state = match &host.stage {
                RolloutStage::Behind => "pending",
                RolloutStage::Ready => "applied",
                RolloutStage::Failed { .. } => "failed",
            };
            let names = host.tenants.iter().flat_map(|Running { names, .. }| names).map(ToString::to_string);
            let names: Vec<_> = names.collect();
            let sum = |count: fn(&Failures) -> u64| host.failures.iter().map(|failures| count(failures)).sum::<u64>();
            let failures = format!("{} of {}", sum(|it| it.failures), sum(|it| it.messages));
            let tenants = format!("{} {}", tenant_count(host), names.join(", "));
            hosts.add_row([host.instance.to_owned(), state.to_owned(), tenants, failures]);
        }
        print_table(&mut hosts);
    }
    for problem in problems {
        println!("{problem}");
    }
    println!("{reason}");
}
