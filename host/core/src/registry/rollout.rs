use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::records::{Change, ChangeKind, RouteValue, Scope};
use super::state::{Entry, RegistryState};
use super::status::{Failures, HostStatus, Running, State, Staying, Waiting};
use crate::record::{TenantId, Timestamp};
use crate::routing::Digest;

/// How far a change has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout<'a> {
    /// Of each living host.
    pub hosts: Vec<HostProgress<'a>>,
    /// The next change that touched one of its routes, if one did.
    pub next: Option<&'a Entry>,
    /// Whether that one undid it.
    pub is_undone: bool,
}

/// How far one host has come with a change. Lists are about the change's releases and tenants alone, and empty while the
/// host is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostProgress<'a> {
    pub instance: &'a str,
    pub host: &'a str,
    #[serde(flatten)]
    pub stage: Stage,
    pub tenants: Vec<&'a Running>,
    pub staying: Vec<&'a Staying>,
    pub waiting: Vec<&'a Waiting>,
    pub failures: Vec<&'a Failures>,
}

/// Where a host is between a change's record and its workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Stage {
    /// Its workers do not go by the change yet.
    Behind,
    /// Its workers go by it.
    Ready,
    /// It cannot run a release of the change.
    Failed { release: Digest, reason: String },
}

/// How a change that was followed came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All hosts go by it, and no trouble was seen for as long as was asked for.
    Done,
    /// There is trouble: see [`RegistryState::troubles`].
    Failed,
    RolledBack,
    /// A later change touched its routes.
    Replaced,
    /// Nobody is there to go by it.
    NoHosts,
    /// Not all hosts go by it yet.
    TimeOut,
}

/// Follows a change.
#[derive(Debug, Clone)]
pub struct Watch {
    /// How long hosts may take to go by the change.
    patience: Duration,
    /// How long it is looked at what becomes of it then.
    after: Duration,
    /// When all hosts went by it.
    taken: Option<Duration>,
}

impl RegistryState {
    /// How far a change has come, as of this time.
    pub fn rollout(&self, entry: &Entry, now: Timestamp) -> Rollout<'_> {
        let releases = releases(&entry.change);
        let hosts = self.living(now).map(|seen| self.progress(&seen.status, entry, &releases)).collect();
        let touched = &entry.change.routes;
        let touches_one = |later: &&Entry| {
            later.offset > entry.offset
                && later.change.routes.iter().any(|route| touched.iter().any(|own| own.route == route.route))
        };
        let next = self.history().into_iter().find(touches_one);
        let undoes = |later: &Entry| later.change.routes.iter().any(|route| route.undoes.as_ref() == Some(&entry.id));
        Rollout { hosts, next, is_undone: next.is_some_and(undoes) }
    }

    /// All that went wrong with a change, a line each, for people.
    pub fn troubles(&self, rollout: &Rollout<'_>) -> Vec<String> {
        let mut troubles = Vec::new();
        for HostProgress { instance, stage, staying, waiting, failures, .. } in &rollout.hosts {
            if let Stage::Failed { release, reason } = stage {
                troubles.push(format!("{instance} cannot run {}: {reason}", self.title(release)));
            }
            for Staying { tenant, release, reason } in staying {
                troubles.push(format!("{instance}: {tenant} stays on {}: {reason}", self.title(release)));
            }
            for Waiting { tenant, reason } in waiting {
                troubles.push(format!("{instance}: {tenant} waits: {reason}"));
            }
            for Failures { release, messages, failures, first, .. } in failures.iter().filter(|of| of.failures > 0) {
                let release = self.title(release);
                troubles.push(format!("{instance}: {failures} failures of {release} in {messages} messages: {first}"));
            }
        }
        troubles
    }

    fn progress<'a>(&self, status: &'a HostStatus, entry: &Entry, releases: &BTreeSet<Digest>) -> HostProgress<'a> {
        let mut progress = HostProgress {
            instance: &status.instance,
            host: &status.host,
            stage: Stage::Behind,
            tenants: Vec::new(),
            staying: Vec::new(),
            waiting: Vec::new(),
            failures: Vec::new(),
        };
        // What it said before it had read that far was about something else.
        if status.read <= entry.offset {
            return progress;
        }
        let states = releases.iter().map(|release| match status.state_of(release) {
            Some(State::Failed { reason }) => Stage::Failed { release: *release, reason: reason.clone() },
            Some(State::Ready) => Stage::Ready,
            None => Stage::Behind,
        });
        // The worst of them: a change that only takes routes away names no release.
        let rank = |stage: &Stage| [Stage::Ready, Stage::Behind].iter().position(|known| known == stage).unwrap_or(2);
        progress.stage = states.max_by_key(rank).unwrap_or(Stage::Ready);
        let concerns = |tenant: &TenantId| self.concerns(&entry.change, tenant);
        progress.tenants.extend(status.tenants.iter().filter(|running| releases.contains(&running.release)));
        progress.staying.extend(status.staying.iter().filter(|staying| concerns(&staying.tenant)));
        progress.waiting.extend(status.waiting.iter().filter(|waiting| concerns(&waiting.tenant)));
        progress.failures.extend(status.failures.iter().filter(|failures| releases.contains(&failures.release)));
        progress
    }

    /// Whether it is a matter of this change what a tenant runs.
    fn concerns(&self, change: &Change, tenant: &TenantId) -> bool {
        let (runs, scope) = (self.routes().resolve(tenant).route, self.scope_of(tenant));
        let is_pinned = matches!(scope, Some(Scope::Tenant(_)));
        let includes = |value: &RouteValue| match value {
            RouteValue::Share(share) => share.percent.includes(&share.route.release, tenant),
            RouteValue::Route(_) => false,
        };
        let is_touched = change.routes.iter().any(|touched| match &touched.route {
            Scope::Default => scope.as_ref().is_none_or(|scope| *scope == Scope::Default),
            Scope::Percentage => !is_pinned && touched.before.iter().chain(&touched.after).any(includes),
            Scope::Tenant(own) => own == tenant,
        });
        is_touched || runs.is_some_and(|route| deployed(change).contains(&route.release))
    }
}

impl Rollout<'_> {
    /// All living hosts go by it, and there is one at least.
    pub fn is_done(&self) -> bool {
        !self.hosts.is_empty() && self.hosts.iter().all(|host| host.stage == Stage::Ready)
    }

    /// A host cannot run it, a tenant does not, or a message of one failed. Messages that a plugin calls invalid are no
    /// trouble: a gate judges whether they are too many.
    pub fn has_trouble(&self) -> bool {
        self.hosts.iter().any(|host| {
            matches!(host.stage, Stage::Failed { .. })
                || !host.staying.is_empty()
                || !host.waiting.is_empty()
                || host.failures.iter().any(|failures| failures.failures > 0)
        })
    }
}

impl Watch {
    /// Hosts may take so long to go by the change; then it is looked on for so long `after`.
    pub fn new(patience: Duration, after: Duration) -> Self {
        Self { patience, after, taken: None }
    }

    /// What it comes to, so long after it was begun; `None`: that is not known yet. Trouble is told as soon as it is seen.
    pub fn look(&mut self, rollout: &Rollout<'_>, elapsed: Duration) -> Option<Verdict> {
        if rollout.next.is_some() {
            return Some(if rollout.is_undone { Verdict::RolledBack } else { Verdict::Replaced });
        }
        if rollout.has_trouble() {
            return Some(Verdict::Failed);
        }
        if rollout.hosts.is_empty() {
            return Some(Verdict::NoHosts);
        }
        if rollout.is_done() {
            let taken = *self.taken.get_or_insert(elapsed);
            return (elapsed >= taken + self.after).then_some(Verdict::Done);
        }
        // A host that was started meanwhile has as much time as the others had.
        let end = self.taken.map_or(self.patience, |taken| taken + self.after + self.patience);
        (elapsed >= end).then_some(Verdict::TimeOut)
    }

    /// How much longer it is looked on; `None`: not all hosts go by the change yet.
    pub fn left(&self, elapsed: Duration) -> Option<Duration> {
        self.taken.map(|taken| (taken + self.after).saturating_sub(elapsed))
    }
}

/// Releases that a change wrote, whether or not it changed a route.
fn deployed(change: &Change) -> &[Digest] {
    if change.what == ChangeKind::Deploy { &change.releases } else { &[] }
}

/// Releases that a change has tenants run.
fn releases(change: &Change) -> BTreeSet<Digest> {
    let routed = change.routes.iter().filter_map(|touched| Some(touched.after.as_ref()?.route().release));
    routed.chain(deployed(change).iter().copied()).collect()
}
