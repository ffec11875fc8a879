//! The thread that manages a host's releases.
//!
//! It follows the control topic, loads the releases that routes name, publishes routing snapshots to the workers,
//! evaluates the health gates and writes this host's status.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use switchboard_core::record::{Offset, Timestamp};
use switchboard_core::registry::{Actor, HostStatus, RegistryState};
use switchboard_kafka::Shutdown;
use switchboard_sandbox::RoutingWatch;

use super::artifact_store::ArtifactStore;
use super::control_topic::{ControlTopic, RollbackWriter};
use super::gate::{FailingRelease, Gates};
use super::health::ReleaseHealth;
use super::status::StatusReporter;
use super::watched_file::WatchedFile;

/// How long one poll of the control topic waits.
const POLL_TIMEOUT: Duration = Duration::from_millis(20);
/// How often gates, the status, the watched file and missing releases are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The number of the first snapshot of a `RoutingWatch`.
const FIRST_SNAPSHOT: u64 = 1;
/// The pause before a rollback that could not be written is tried again.
const ROLLBACK_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Manages the releases of one host. See the module.
pub struct ReleaseController {
    topic: ControlTopic,
    registry: RegistryState,
    artifacts: ArtifactStore,
    watch: RoutingWatch,
    health: ReleaseHealth,
    gates: Gates,
    watched_file: Option<WatchedFile>,
    /// `RegistryState::content_end` when the last snapshot was published.
    published_end: Offset,
    /// What is consumed for the sake of other hosts, in the last snapshot.
    elsewhere: BTreeSet<String>,
    /// How far the topic had been read when that was last looked up.
    elsewhere_read: Offset,
    /// The newest snapshot that all workers have applied, and the ones after it.
    snapshots: VecDeque<PublishedSnapshot>,
    status: StatusReporter,
}

/// A snapshot's number in the `RoutingWatch`, and `RegistryState::content_end` when it was published.
struct PublishedSnapshot {
    number: u64,
    content_end: Offset,
}

impl ReleaseController {
    /// Reads the control topic to its end and loads the releases that routes name. Only then may the workers join the
    /// group. `identity`: the fields of this host's status that never change. `None`: the process shuts down.
    pub fn start(
        mut topic: ControlTopic,
        mut artifacts: ArtifactStore,
        health: ReleaseHealth,
        watched_file: Option<WatchedFile>,
        identity: HostStatus,
        stop: &Shutdown,
    ) -> Option<Self> {
        let registry = topic.read_all(stop)?;
        artifacts.load_routed(&registry);
        let elsewhere = registry.consumed_elsewhere(&identity.instance);
        let watch = RoutingWatch::new(artifacts.snapshot(&registry, topic.position(), &elsewhere));
        let mut gates = Gates::default();
        gates.update(&registry, &health, artifacts.base().map(|base| base.digest()), now());
        let published_end = registry.content_end();
        let first = PublishedSnapshot { number: FIRST_SNAPSHOT, content_end: published_end };
        Some(Self {
            elsewhere_read: topic.position().offset,
            elsewhere,
            topic,
            registry,
            artifacts,
            watch,
            health,
            gates,
            watched_file,
            published_end,
            snapshots: [first].into(),
            status: StatusReporter::new(identity),
        })
    }

    /// Where workers find the newest routing snapshot.
    pub fn routing_watch(&self) -> &RoutingWatch {
        &self.watch
    }

    /// The aliases that any deployed release, the configured plugin or another host's plugin consumes.
    pub fn ever_consumed(&self) -> BTreeSet<Arc<str>> {
        self.artifacts.ever_consumed(&self.registry, self.watch.newest().routing.consumed())
    }

    /// Writes this host's first status. From then on other hosts read the topics of its plugin, and `--wait` waits for
    /// this host too. So this comes before its workers.
    pub fn announce(&mut self) {
        self.report_status();
        if let Err(error) = self.topic.flush_status() {
            tracing::warn!(%error, "this host's status is not written yet");
        }
    }

    /// Runs until the process shuts down. Then removes this host's status.
    pub fn run(mut self, stop: &Shutdown) {
        self.maintain();
        let mut checked_at = Instant::now();
        while !stop.is_asked() {
            if self.follow(stop) || self.artifacts.has_due_retry() {
                self.reload();
            }
            if checked_at.elapsed() >= CHECK_INTERVAL {
                checked_at = Instant::now();
                self.check_watched_file();
                self.load_missing_releases();
                self.check_gates(stop);
                self.report_status();
            }
        }
        self.topic.write_status(self.status.instance(), None);
        if let Err(error) = self.topic.flush_status() {
            tracing::debug!(%error, "this host's status was not removed");
        }
    }

    /// Applies what is new in the control topic. True when a snapshot is to be published: there is more than hosts'
    /// statuses, or by these statuses other topics are consumed. In the first case it is published whatever changed:
    /// messages may wait until the workers apply a change of routes that another host knew of (`Routing::changed`).
    fn follow(&mut self, stop: &Shutdown) -> bool {
        let is_new_topic = self.topic.apply_new_records(&mut self.registry, POLL_TIMEOUT, stop);
        is_new_topic || self.registry.content_end() != self.published_end || self.has_other_topics_elsewhere()
    }

    fn has_other_topics_elsewhere(&mut self) -> bool {
        let read = self.topic.position().offset;
        if std::mem::replace(&mut self.elsewhere_read, read) == read {
            return false;
        }
        self.registry.consumed_elsewhere(self.status.instance()) != self.elsewhere
    }

    fn reload(&mut self) {
        self.artifacts.load_routed(&self.registry);
        self.publish();
        self.maintain();
    }

    /// Does what no tenant waits for: loads replaced releases and evicts unused ones.
    fn maintain(&mut self) {
        if self.artifacts.maintain(&self.registry, &self.health.in_use()) {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let base = self.artifacts.base().map(|base| base.digest());
        self.health.retain(&self.artifacts.availability().map(|(release, _)| release).collect());
        self.gates.update(&self.registry, &self.health, base, now());
        self.reset_failure_reports();
        self.elsewhere = self.registry.consumed_elsewhere(self.status.instance());
        let snapshot = self.artifacts.snapshot(&self.registry, self.topic.position(), &self.elsewhere);
        let number = self.watch.publish(snapshot);
        self.published_end = self.registry.content_end();
        self.status.routes_changed();
        self.snapshots.push_back(PublishedSnapshot { number, content_end: self.published_end });
    }

    /// Starts the failure reports of releases over that were deployed or routed to since the last snapshot.
    fn reset_failure_reports(&self) {
        let routed = self.registry.routed().map(|entry| (entry.value.route().release, entry.offset));
        let deployed = self.registry.releases().iter().map(|(release, deployed)| (*release, deployed.offset));
        for (release, _) in routed.chain(deployed).filter(|(_, offset)| *offset >= self.published_end) {
            self.health.reset_failures(&release);
        }
    }

    fn check_watched_file(&mut self) {
        let Some(path) = self.watched_file.as_mut().and_then(WatchedFile::take_change) else { return };
        match self.artifacts.load_base(path) {
            Ok(true) => self.publish(),
            Ok(false) => {}
            Err(error) => {
                let error = format_args!("{error:#}");
                tracing::error!(%error, "the changed plugin file cannot be run, so the plugin loaded before stays");
            }
        }
    }

    /// Loads the releases that tenants ran last and wait for: a tenant that cannot run its route's release runs its
    /// fallback.
    fn load_missing_releases(&mut self) {
        if self.artifacts.load_missing(&self.health.missing_releases(), &self.registry) {
            self.publish();
        }
    }

    fn check_gates(&mut self, stop: &Shutdown) {
        for failing in self.gates.take_failing(&self.registry, &self.health, now()) {
            let title = self.registry.title(&failing.release);
            if !failing.has_previous && self.artifacts.base().is_none() {
                tracing::error!(
                    release = %title,
                    reason = failing.reason,
                    "the health gate has failed, but there is no previous release to roll back to"
                );
                continue;
            }
            tracing::error!(release = %title, reason = failing.reason, "the health gate has failed; rolling back");
            let writer = self.topic.rollback_writer(self.actor());
            let stop = stop.clone();
            // The rollback reads the topic first and may have to wait for brokers. Meanwhile this thread follows
            // routes.
            let thread = std::thread::Builder::new().name("rollback".into());
            if let Err(error) = thread.spawn(move || roll_back(&writer, &failing, &title, &stop)) {
                tracing::error!(%error, "cannot start the rollback thread: run `switchboard rollback`");
            }
        }
    }

    /// This host, as the author of a rollback.
    fn actor(&self) -> Actor {
        Actor { user: format!("instance {}", self.status.instance()), host: self.status.host().to_owned() }
    }

    fn report_status(&mut self) {
        let applied_end = self.applied_end();
        if let Some(status) = self.status.take_due(applied_end, &self.artifacts, &self.health) {
            self.topic.write_status(&status.instance, Some(&status));
        }
    }

    /// Up to which offset all workers have applied the control topic. Records of hosts' statuses do not count: each
    /// status would cause the next one.
    fn applied_end(&mut self) -> Offset {
        let applied_by_all = self.watch.applied_by_all();
        while self.snapshots.get(1).is_some_and(|snapshot| snapshot.number <= applied_by_all) {
            self.snapshots.pop_front();
        }
        let applied = self.snapshots.front().filter(|snapshot| snapshot.number <= applied_by_all);
        applied.map_or(Offset::ZERO, |snapshot| snapshot.content_end)
    }
}

fn now() -> Timestamp {
    Timestamp::of_system_time(SystemTime::now())
}

/// Rolls a release back; tries again until it succeeds or the process shuts down.
fn roll_back(writer: &RollbackWriter, failing: &FailingRelease, title: &str, stop: &Shutdown) {
    while let Err(error) = writer.roll_back(failing) {
        tracing::error!(release = title, error = format_args!("{error:#}"), "the rollback failed; retrying");
        if stop.wait(ROLLBACK_RETRY_INTERVAL) {
            return;
        }
    }
    tracing::info!(release = title, "release rolled back");
}
