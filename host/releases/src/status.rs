//! This host's status: what the control topic says about the host, and when it is written again.

use std::time::{Duration, Instant};

use switchboard_core::record::Offset;
use switchboard_core::registry::{
    Failures, FallbackTenant, HostStatus, LoadState, LoadedRelease, Running, WaitingTenant,
};

use super::artifact_store::ArtifactStore;
use super::health::ReleaseHealth;

/// How often the status is compared with the last one written, while an operator may be following a change.
const FOLLOWED_INTERVAL: Duration = Duration::from_millis(500);
/// How long after a change of routes an operator may be following it.
const FOLLOWED_TIME: Duration = Duration::from_mins(2);
/// A status is written at least this often, so that the host counts as alive.
const MAX_INTERVAL: Duration = HostStatus::EVERY;
/// How many characters of a release's first failure the status contains.
const MAX_FAILURE_CHARS: usize = 300;

/// Decides when the status is written, and what it contains.
///
/// A change that `--wait` depends on is written at once: which records the workers have applied, and which releases are
/// ready. Tenants and failures are compared every `FOLLOWED_INTERVAL` for two minutes after a change of routes and
/// whenever there is a new problem, otherwise every `MAX_INTERVAL`. The load changes all the time, so no status is written
/// because of it.
pub(super) struct StatusReporter {
    /// The fields that never change: instance, host and start time.
    identity: HostStatus,
    /// When a status was written last, and that status without the load.
    last_written: Option<(Instant, HostStatus)>,
    routes_changed_at: Instant,
    /// When the whole status was compared last.
    compared_at: Instant,
    /// `ReleaseHealth::problem_count` at that time.
    compared_problems: u64,
}

impl StatusReporter {
    pub(super) fn new(identity: HostStatus) -> Self {
        let now = Instant::now();
        Self { identity, last_written: None, routes_changed_at: now, compared_at: now, compared_problems: 0 }
    }

    /// The process instance that the status is about.
    pub(super) fn instance(&self) -> &str {
        &self.identity.instance
    }

    /// The name of the machine.
    pub(super) fn host(&self) -> &str {
        &self.identity.host
    }

    /// A routing snapshot was published: an operator may be following a change.
    pub(super) fn routes_changed(&mut self) {
        self.routes_changed_at = Instant::now();
    }

    /// The status to write now, if it is due. `applied_end`: all workers have applied the control topic up to this
    /// offset.
    pub(super) fn take_due(
        &mut self,
        applied_end: Offset,
        artifacts: &ArtifactStore,
        health: &ReleaseHealth,
    ) -> Option<HostStatus> {
        let releases = releases(artifacts);
        let is_urgent = self
            .last_written
            .as_ref()
            .is_none_or(|(_, written)| written.read != applied_end || written.releases != releases);
        let problems = health.problem_count();
        let is_followed = self.routes_changed_at.elapsed() < FOLLOWED_TIME || problems != self.compared_problems;
        let interval = if is_followed { FOLLOWED_INTERVAL } else { MAX_INTERVAL };
        if !is_urgent && self.compared_at.elapsed() < interval {
            return None;
        }
        self.compared_at = Instant::now();
        self.compared_problems = problems;
        let status = self.status(applied_end, releases, artifacts, health);
        self.has_changed_or_is_old(&status).then(|| {
            self.last_written = Some((Instant::now(), status.clone()));
            HostStatus { load: health.load(), ..status }
        })
    }

    /// Whether a status has to be written. `status`: without the load.
    fn has_changed_or_is_old(&self, status: &HostStatus) -> bool {
        debug_assert!(status.load.is_none(), "a change of the load does not count");
        self.last_written.as_ref().is_none_or(|(at, written)| at.elapsed() >= MAX_INTERVAL || written != status)
    }

    /// The status without the load.
    fn status(
        &self,
        applied_end: Offset,
        releases: Vec<LoadedRelease>,
        artifacts: &ArtifactStore,
        health: &ReleaseHealth,
    ) -> HostStatus {
        let running = health.running().into_iter().map(|(release, tenants)| Running {
            release,
            state_version: artifacts.state_version(&release),
            count: tenants.len() as u64,
            names: tenants.into_iter().take(HostStatus::NAMES).collect(),
        });
        let on_fallback = health.on_fallback().into_iter().take(HostStatus::NAMES);
        let waiting = health.waiting().into_iter().take(HostStatus::NAMES);
        HostStatus {
            read: applied_end,
            on_file: artifacts.base().map(|base| base.digest()),
            on_file_consumes: artifacts.base_consumes().to_vec(),
            releases,
            tenants: running.collect(),
            fallback: on_fallback
                .map(|(tenant, fallback)| FallbackTenant { tenant, release: fallback.release, reason: fallback.reason })
                .collect(),
            waiting: waiting.map(|(tenant, reason)| WaitingTenant { tenant, reason }).collect(),
            failures: failures(health),
            ..self.identity.clone()
        }
    }
}

fn releases(artifacts: &ArtifactStore) -> Vec<LoadedRelease> {
    let loaded = artifacts.availability().map(|(digest, failure)| {
        let state = failure.map_or(LoadState::Ready, |reason| LoadState::Failed { reason: reason.to_owned() });
        LoadedRelease { digest, state }
    });
    loaded.collect()
}

fn failures(health: &ReleaseHealth) -> Vec<Failures> {
    let reports = health.failures().into_iter();
    let with_failures = reports.filter(|report| report.counts.failures + report.counts.rejections > 0);
    let failures = with_failures.map(|report| Failures {
        release: report.release,
        messages: report.counts.messages,
        failures: report.counts.failures,
        rejections: report.counts.rejections,
        first: report.first.map(|first| first.chars().take(MAX_FAILURE_CHARS).collect()).unwrap_or_default(),
    });
    failures.collect()
}
