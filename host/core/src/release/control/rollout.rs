use serde::Serialize;

use super::super::digest::Digest;
use super::fold::{Control, Entry};
use super::status::{Failures, HostStatus, Running, State, Staying, Waiting};

/// How far a change has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout<'a> {
    /// Of each living host.
    pub hosts: Vec<HostProgress<'a>>,
    /// The change that undid it, if one did.
    pub undone: Option<&'a Entry>,
}

/// How far one host has come with a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostProgress<'a> {
    pub instance: &'a str,
    pub host: &'a str,
    #[serde(flatten)]
    pub stage: Stage,
    /// Tenants that run the release there.
    pub tenants: Option<&'a Running>,
    pub staying: &'a [Staying],
    pub waiting: &'a [Waiting],
    pub failures: Option<&'a Failures>,
}

/// Where a host is between a change's record and its workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Stage {
    /// Its workers do not go by the change yet.
    Behind,
    /// Its workers go by it.
    Ready,
    /// It cannot run the release.
    Failed { reason: String },
}

impl Control {
    /// How far a change has come that made tenants run a release, as of this time.
    pub fn rollout(&self, change: &Entry, release: &Digest, now: i64) -> Rollout<'_> {
        let hosts = self.living(now).map(|seen| progress(&seen.status, change.offset, release)).collect();
        let undoes = |entry: &&&Entry| {
            let mut routes = entry.change.routes.iter();
            routes.any(|touched| touched.undoes.as_deref() == Some(&change.id))
        };
        Rollout { hosts, undone: self.history().iter().find(undoes).copied() }
    }
}

impl Rollout<'_> {
    /// All living hosts go by it, and there is one at least.
    pub fn is_done(&self) -> bool {
        !self.hosts.is_empty() && self.hosts.iter().all(|host| host.stage == Stage::Ready)
    }

    /// A host cannot run the release.
    pub fn has_failed(&self) -> bool {
        self.hosts.iter().any(|host| matches!(host.stage, Stage::Failed { .. }))
    }
}

fn progress<'a>(status: &'a HostStatus, offset: i64, release: &Digest) -> HostProgress<'a> {
    // What it said of the release before it had read that far was about another attempt.
    let stage = match status.state_of(release).filter(|_| status.read > offset) {
        Some(State::Failed { reason }) => Stage::Failed { reason: reason.clone() },
        Some(State::Ready) => Stage::Ready,
        None => Stage::Behind,
    };
    HostProgress {
        instance: &status.instance,
        host: &status.host,
        stage,
        tenants: status.tenants.iter().find(|running| running.release == *release),
        staying: &status.staying,
        waiting: &status.waiting,
        failures: status.failures.iter().find(|failures| failures.release == *release),
    }
}
