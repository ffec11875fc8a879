//! How far the living hosts have applied a change: from their status records to a verdict for `--wait`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::records::{Change, ChangeKind, RouteValue, Scope};
use super::state::{Entry, RegistryState};
use super::status::{Failures, FallbackTenant, HostStatus, LoadState, Running, WaitingTenant};
use crate::record::{TenantId, Timestamp};
use crate::routing::Digest;

/// How far a change has been applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout<'a> {
    /// The progress of each living host.
    pub hosts: Vec<HostProgress<'a>>,
    /// The next change that touched one of its routes, if there is one.
    pub next: Option<&'a Entry>,
    /// Whether the next change undid this one.
    pub is_undone: bool,
}

/// How far one host has applied a change. The lists contain only the releases and tenants of the change. They are
/// empty while the host is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostProgress<'a> {
    /// The process instance.
    pub instance: &'a str,
    /// The name of its machine.
    pub host: &'a str,
    /// How far the host is.
    #[serde(flatten)]
    pub stage: RolloutStage,
    /// How many tenants run each release of the change.
    pub tenants: Vec<&'a Running>,
    /// Tenants that run a fallback release.
    pub fallback: Vec<&'a FallbackTenant>,
    /// Tenants that run nothing for now.
    pub waiting: Vec<&'a WaitingTenant>,
    /// How the releases of the change do.
    pub failures: Vec<&'a Failures>,
}

/// How far a host has applied a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum RolloutStage {
    /// Not all of its workers have applied the change.
    Behind,
    /// All of its workers have applied the change.
    Ready,
    /// It cannot run a release of the change.
    Failed {
        /// The release.
        release: Digest,
        /// Why the host cannot run it.
        reason: String,
    },
}

/// How the rollout of a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutVerdict {
    /// All living hosts have applied the change, and no trouble was seen for the requested time.
    Done,
    /// There is trouble: see [`RegistryState::troubles`].
    Failed,
    /// A later change undid it.
    RolledBack,
    /// A later change touched its routes.
    Replaced,
    /// No host is alive.
    NoHosts,
    /// Not all living hosts have applied the change in time.
    TimeOut,
}

/// Follows the rollout of one change to its verdict.
#[derive(Debug, Clone)]
pub struct RolloutWatch {
    /// How long hosts may take to apply the change.
    patience: Duration,
    /// How long the rollout is observed after all hosts have applied the change.
    after: Duration,
    /// When all hosts had applied the change.
    applied_at: Option<Duration>,
}

impl RegistryState {
    /// How far the living hosts have applied a change at this time.
    pub fn rollout(&self, entry: &Entry, now: Timestamp) -> Rollout<'_> {
        let releases = releases(&entry.change);
        let hosts = self.living(now).map(|host| self.progress(&host.status, entry, &releases)).collect();
        let touched = &entry.change.routes;
        let touches_one = |later: &&Entry| {
            later.offset > entry.offset
                && later.change.routes.iter().any(|route| touched.iter().any(|own| own.route == route.route))
        };
        let next = self.history().into_iter().find(touches_one);
        let undoes = |later: &Entry| later.change.routes.iter().any(|route| route.undoes.as_ref() == Some(&entry.id));
        Rollout { hosts, next, is_undone: next.is_some_and(undoes) }
    }

    /// Everything that went wrong with a change, one line each, for people.
    pub fn troubles(&self, rollout: &Rollout<'_>) -> Vec<String> {
        let mut troubles = Vec::new();
        for HostProgress { instance, stage, fallback, waiting, failures, .. } in &rollout.hosts {
            if let RolloutStage::Failed { release, reason } = stage {
                troubles.push(format!("{instance} cannot run {}: {reason}", self.title(release)));
            }
            for FallbackTenant { tenant, release, reason } in fallback {
                troubles
                    .push(format!("{instance}: {tenant} runs the fallback release {}: {reason}", self.title(release)));
            }
            for WaitingTenant { tenant, reason } in waiting {
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
            stage: RolloutStage::Behind,
            tenants: Vec::new(),
            fallback: Vec::new(),
            waiting: Vec::new(),
            failures: Vec::new(),
        };
        // A status from before the host had read the change is about something else.
        if status.read <= entry.offset {
            return progress;
        }
        let states = releases.iter().map(|release| match status.state_of(release) {
            Some(LoadState::Failed { reason }) => RolloutStage::Failed { release: *release, reason: reason.clone() },
            Some(LoadState::Ready) => RolloutStage::Ready,
            None => RolloutStage::Behind,
        });
        // The worst state counts. A change that only removes routes names no release.
        let rank = |stage: &RolloutStage| {
            [RolloutStage::Ready, RolloutStage::Behind].iter().position(|known| known == stage).unwrap_or(2)
        };
        progress.stage = states.max_by_key(rank).unwrap_or(RolloutStage::Ready);
        let concerns = |tenant: &TenantId| self.concerns(&entry.change, tenant);
        progress.tenants.extend(status.tenants.iter().filter(|running| releases.contains(&running.release)));
        progress.fallback.extend(status.fallback.iter().filter(|fallback| concerns(&fallback.tenant)));
        progress.waiting.extend(status.waiting.iter().filter(|waiting| concerns(&waiting.tenant)));
        progress.failures.extend(status.failures.iter().filter(|failures| releases.contains(&failures.release)));
        progress
    }

    /// Whether the change decides which release the tenant runs.
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
    /// Whether there is a living host, and all living hosts have applied the change.
    pub fn is_done(&self) -> bool {
        !self.hosts.is_empty() && self.hosts.iter().all(|host| host.stage == RolloutStage::Ready)
    }

    /// Whether a host cannot run a release of the change, a tenant does not run it, or a message of it failed.
    /// Messages that a plugin calls invalid are not trouble: the health gate judges whether they are too many.
    pub fn has_trouble(&self) -> bool {
        self.hosts.iter().any(|host| {
            matches!(host.stage, RolloutStage::Failed { .. })
                || !host.fallback.is_empty()
                || !host.waiting.is_empty()
                || host.failures.iter().any(|failures| failures.failures > 0)
        })
    }
}

impl RolloutWatch {
    /// Hosts may take as long as `patience` to apply the change. Then the rollout is observed for as long as `after`.
    pub fn new(patience: Duration, after: Duration) -> Self {
        Self { patience, after, applied_at: None }
    }

    /// The verdict at `elapsed` since the start; `None`: not known yet. Trouble ends the rollout at once.
    pub fn look(&mut self, rollout: &Rollout<'_>, elapsed: Duration) -> Option<RolloutVerdict> {
        if rollout.next.is_some() {
            return Some(if rollout.is_undone { RolloutVerdict::RolledBack } else { RolloutVerdict::Replaced });
        }
        if rollout.has_trouble() {
            return Some(RolloutVerdict::Failed);
        }
        if rollout.hosts.is_empty() {
            return Some(RolloutVerdict::NoHosts);
        }
        if rollout.is_done() {
            let applied_at = *self.applied_at.get_or_insert(elapsed);
            return (elapsed >= applied_at + self.after).then_some(RolloutVerdict::Done);
        }
        // A host that was started meanwhile gets as much time as the others had.
        let end = self.applied_at.map_or(self.patience, |applied_at| applied_at + self.after + self.patience);
        (elapsed >= end).then_some(RolloutVerdict::TimeOut)
    }

    /// How much longer the rollout is observed; `None`: not all hosts have applied the change yet.
    pub fn left(&self, elapsed: Duration) -> Option<Duration> {
        self.applied_at.map(|applied_at| (applied_at + self.after).saturating_sub(elapsed))
    }
}

/// The releases that a change deployed, whether or not it changed a route.
fn deployed(change: &Change) -> &[Digest] {
    if change.kind == ChangeKind::Deploy { &change.releases } else { &[] }
}

/// The releases that the tenants of a change shall run.
fn releases(change: &Change) -> BTreeSet<Digest> {
    let routed = change.routes.iter().filter_map(|touched| Some(touched.after.as_ref()?.route().release));
    routed.chain(deployed(change).iter().copied()).collect()
}
