//! `deploy --wait`: follows a change until all living hosts go by it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use switchboard_core::release::Digest;
use switchboard_core::release::control::{Control, Entry, HostProgress, Rollout, Stage};

use super::control::{print, table};
use crate::kafka::control::ControlWriter;

/// One look at what hosts say.
const LOOK: Duration = Duration::from_millis(100);

/// How a rollout ended.
pub(super) struct End {
    pub(super) succeeded: bool,
    /// `{"result", "hosts", "reason"?}`.
    pub(super) json: serde_json::Value,
}

/// What a rollout has come to.
enum Verdict {
    Done,
    /// Some host cannot run it.
    Failed,
    /// It was rolled back, for this reason.
    RolledBack(String),
    /// Nobody is there to run it.
    NoHosts,
    TimedOut,
}

impl Verdict {
    /// `None`: it is under way.
    fn of(rollout: &Rollout<'_>, is_over: bool) -> Option<Self> {
        if let Some(entry) = rollout.undone {
            let why = entry.change.note.as_deref().map(|note| format!(": {note}")).unwrap_or_default();
            return Some(Self::RolledBack(format!("{} by {}{why}", entry.change.what, entry.change.by)));
        }
        match rollout {
            _ if rollout.has_failed() => Some(Self::Failed),
            _ if rollout.is_done() => Some(Self::Done),
            _ if rollout.hosts.is_empty() => Some(Self::NoHosts),
            _ => is_over.then_some(Self::TimedOut),
        }
    }

    /// Name and reason.
    fn told(self) -> (&'static str, Option<String>) {
        match self {
            Self::Done => ("done", None),
            Self::Failed => ("failed", Some("a host cannot run it; its tenants there keep what they ran".into())),
            Self::RolledBack(why) => ("rolled-back", Some(why)),
            Self::NoHosts => (
                "no-hosts",
                Some("no host lives, so nobody runs it: it is what hosts will run when they are started".into()),
            ),
            Self::TimedOut => ("time-out", Some("not all hosts run it yet; they go on with it".into())),
        }
    }
}

/// Follows a change that had tenants run a release, for at most `patience`; tells how it goes on the standard error, and how it
/// ended on the standard output unless that is to be `quiet`.
pub(super) fn follow(
    writer: &mut ControlWriter,
    change: &Entry,
    release: &Digest,
    patience: Duration,
    quiet: bool,
) -> anyhow::Result<End> {
    let started = Instant::now();
    // It is not drawn where there is no terminal.
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} hosts {wide_msg}")?;
    let bar = ProgressBar::new(0).with_style(style);
    let mut told = BTreeSet::new();
    loop {
        let elapsed = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
        // By the broker's clock, as the hosts' records are.
        let rollout = writer.control().rollout(change, release, change.timestamp.saturating_add(elapsed));
        show(&bar, &rollout, &mut told);
        if let Some(verdict) = Verdict::of(&rollout, started.elapsed() >= patience) {
            bar.finish_and_clear();
            let succeeded = matches!(verdict, Verdict::Done);
            let (result, reason) = verdict.told();
            if !quiet {
                tell(writer.control(), &rollout, reason.as_deref().unwrap_or(result));
            }
            let mut json = json!({ "result": result, "hosts": rollout.hosts });
            if let Some(reason) = reason {
                json["reason"] = reason.into();
            }
            return Ok(End { succeeded, json });
        }
        // All that has come is taken in before it is looked at again.
        let mut more = writer.follow(LOOK)?;
        while more {
            more = writer.follow(Duration::ZERO)?;
        }
    }
}

/// Hosts as they come to run it, and failures as they come in.
fn show(bar: &ProgressBar, rollout: &Rollout<'_>, told: &mut BTreeSet<String>) {
    let ready = rollout.hosts.iter().filter(|host| host.stage == Stage::Ready);
    bar.set_length(rollout.hosts.len() as u64);
    bar.set_position(ready.clone().count() as u64);
    bar.set_message(
        ready.map(|host| format!("{} ({} tenants)", host.instance, count(host))).collect::<Vec<_>>().join(", "),
    );
    bar.tick();
    for host in &rollout.hosts {
        if let Some(failures) = host.failures.filter(|failures| failures.failures > 0)
            && told.insert(host.instance.to_owned())
        {
            bar.suspend(|| eprintln!("first failure on {}: {}", host.instance, failures.first));
        }
    }
}

fn count(host: &HostProgress<'_>) -> u64 {
    host.tenants.map_or(0, |running| running.count)
}

fn tell(control: &Control, rollout: &Rollout<'_>, verdict: &str) {
    if !rollout.hosts.is_empty() {
        let mut hosts = table(&["HOST", "STATE", "TENANTS", "FAILURES"]);
        for host in &rollout.hosts {
            let state = match &host.stage {
                Stage::Behind => "not yet".to_owned(),
                Stage::Ready => "runs it".to_owned(),
                Stage::Failed { reason } => format!("cannot run it: {reason}"),
            };
            let names = host.tenants.iter().flat_map(|running| &running.names).map(ToString::to_string);
            let names: Vec<_> = names.collect();
            let failures = host.failures.map_or("0 of 0".to_owned(), |f| format!("{} of {}", f.failures, f.messages));
            hosts.add_row([host.instance.to_owned(), state, format!("{} {}", count(host), names.join(", ")), failures]);
        }
        print(&mut hosts);
    }
    for host in &rollout.hosts {
        for staying in host.staying {
            let release = control.title(&staying.release);
            println!("{}: {} stays on {release}: {}", host.instance, staying.tenant, staying.reason);
        }
        for waiting in host.waiting {
            println!("{}: {} waits: {}", host.instance, waiting.tenant, waiting.reason);
        }
    }
    println!("{verdict}");
}
