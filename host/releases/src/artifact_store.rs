//! The releases that this host has loaded, or has failed to load.
//!
//! A release is loaded when a route names it, and evicted when no route names it and no tenant runs it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchboard_core::record::{ControlPosition, Offset};
use switchboard_core::registry::RegistryState;
use switchboard_core::routing::aliases;
use switchboard_core::routing::{Availability, Digest, OnFailure, Routing};
use switchboard_kafka::{Topology, TopologyError};
use switchboard_sandbox::{Artifact, RoutingSnapshot};

use super::loader::Loader;

/// When the download of an artifact is tried again.
const DOWNLOAD_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How many releases are kept that no route names any more. A tenant whose state the new release cannot take over runs
/// one of them, and so may a tenant that has had no message since its route changed.
const MAX_UNROUTED_RELEASES: usize = 4;
/// How long a shard waits for an artifact that is still downloading. After that, records that only this release
/// consumes become dead letters.
const DOWNLOAD_GRACE_PERIOD: Duration = Duration::from_mins(1);

/// The outcome of the last attempt to load a release.
enum LoadState {
    Ready(Arc<Artifact>),
    Failed {
        reason: String,
        /// When the next attempt is due. `None`: only other records can change the outcome.
        retry_at: Option<Instant>,
        records: ReleaseRecords,
        /// The first attempt with these records.
        first_attempt: Instant,
    },
}

/// The records of the control topic that an attempt to load a release depends on.
#[derive(PartialEq, Eq)]
struct ReleaseRecords {
    signature: Option<String>,
    chunk_offsets: Option<Vec<Offset>>,
}

impl ReleaseRecords {
    fn find(release: &Digest, registry: &RegistryState) -> Self {
        let signature = registry.release(release).and_then(|record| record.signature.clone());
        Self { signature, chunk_offsets: registry.chunks(release) }
    }
}

/// All releases of this host.
pub struct ArtifactStore {
    loader: Loader,
    on_failure: OnFailure,
    /// The configured plugin.
    base: Option<Arc<Artifact>>,
    releases: BTreeMap<Digest, LoadState>,
    /// Ready releases that no route names any more, in the order in which they lost their last route.
    unrouted: VecDeque<Digest>,
    /// Ready releases whose topics contradict those of a release with precedence, and the reason.
    topic_conflicts: BTreeMap<Digest, String>,
    /// Topics of other hosts' plugins that cannot be read here. They are logged once.
    unreadable: BTreeSet<Arc<str>>,
}

impl ArtifactStore {
    /// A store that has only the configured plugin, `base`, if there is one.
    pub fn new(loader: Loader, on_failure: OnFailure, base: Option<Arc<Artifact>>) -> Self {
        Self {
            loader,
            on_failure,
            base,
            releases: BTreeMap::new(),
            unrouted: VecDeque::new(),
            topic_conflicts: BTreeMap::new(),
            unreadable: BTreeSet::new(),
        }
    }

    /// The configured plugin.
    pub(super) fn base(&self) -> Option<&Arc<Artifact>> {
        self.base.as_ref()
    }

    /// Replaces the configured plugin by the one in this file. False: it is the same plugin.
    ///
    /// # Errors
    /// Why the plugin cannot be run; the store keeps the current one.
    pub(super) fn load_base(&mut self, path: &Path) -> anyhow::Result<bool> {
        let artifact = self.loader.load_file(path)?;
        if self.base.as_ref().is_some_and(|base| base.digest() == artifact.digest()) {
            return Ok(false);
        }
        tracing::info!(release = %artifact.release().title(), file = %path.display(), "plugin file changed; new plugin loaded");
        // A tenant may run the replaced plugin as its fallback release.
        if let Some(replaced) = self.base.replace(Arc::new(artifact)) {
            self.releases.insert(replaced.digest(), LoadState::Ready(replaced));
        }
        Ok(true)
    }

    /// Loads the releases that routes name. Where one cannot be run, also loads the release that it replaced. True when
    /// a release was tried.
    pub(super) fn load_routed(&mut self, registry: &RegistryState) -> bool {
        let mut was_tried = false;
        for entry in registry.routed() {
            let route = entry.value.route();
            was_tried |= self.try_load(&route.release, registry);
            if let (Some(previous), true) = (route.previous, self.artifact(&route.release).is_none()) {
                was_tried |= self.try_load(&previous, registry);
            }
        }
        was_tried
    }

    /// Loads the releases that routes have replaced: tenants whose state cannot be taken over run them, and a rollback
    /// leads back to them. Evicts releases that no route names and that are not `in_use`. True when a release was
    /// tried.
    pub(super) fn maintain(&mut self, registry: &RegistryState, in_use: &BTreeSet<Digest>) -> bool {
        let mut needed = in_use.clone();
        let mut was_tried = false;
        for entry in registry.routed() {
            let route = entry.value.route();
            needed.insert(route.release);
            if let Some(previous) = route.previous {
                needed.insert(previous);
                was_tried |= self.try_load(&previous, registry);
            }
        }
        self.evict(&needed);
        was_tried
    }

    fn evict(&mut self, needed: &BTreeSet<Digest>) {
        self.unrouted.retain(|release| self.releases.contains_key(release) && !needed.contains(release));
        for (release, state) in &self.releases {
            let is_ready = matches!(state, LoadState::Ready(_));
            if is_ready && !needed.contains(release) && !self.unrouted.contains(release) {
                self.unrouted.push_back(*release);
            }
        }
        self.unrouted.drain(..self.unrouted.len().saturating_sub(MAX_UNROUTED_RELEASES));
        self.releases.retain(|release, _| needed.contains(release) || self.unrouted.contains(release));
    }

    /// Loads all releases that tenants ran last and wait for. True when a release was tried.
    pub(super) fn load_missing(&mut self, missing: &BTreeSet<Digest>, registry: &RegistryState) -> bool {
        let mut was_tried = false;
        for release in missing {
            was_tried |= self.try_load(release, registry);
        }
        was_tried
    }

    fn artifact(&self, release: &Digest) -> Option<&Arc<Artifact>> {
        if let Some(base) = self.base.as_ref().filter(|base| base.digest() == *release) {
            return Some(base);
        }
        match self.releases.get(release)? {
            LoadState::Ready(artifact) => Some(artifact),
            LoadState::Failed { .. } => None,
        }
    }

    /// The version of the layout of a release's state. `None`: the release is not ready here.
    pub(super) fn state_version(&self, release: &Digest) -> Option<u32> {
        self.artifact(release).map(|artifact| artifact.manifest().state_version)
    }

    /// Loads a release unless it is ready, or has failed and no retry is due.
    fn try_load(&mut self, release: &Digest, registry: &RegistryState) -> bool {
        if self.base.as_ref().is_some_and(|base| base.digest() == *release) {
            self.releases.remove(release);
            return false;
        }
        let records = ReleaseRecords::find(release, registry);
        let started = Instant::now();
        let first_attempt = match self.releases.get(release) {
            Some(LoadState::Ready(_)) => return false,
            Some(LoadState::Failed { retry_at, records: tried, first_attempt, .. }) if *tried == records => {
                match retry_at {
                    Some(retry_at) if started >= *retry_at => *first_attempt,
                    _ => return false,
                }
            }
            Some(LoadState::Failed { .. }) | None => started,
        };
        let title = registry.title(release);
        let state = match self.loader.load(release, registry) {
            Ok(artifact) => {
                tracing::info!(release = %title, duration_ms = started.elapsed().as_millis(), "release loaded");
                LoadState::Ready(Arc::new(artifact))
            }
            Err(error) => {
                tracing::error!(release = %title, reason = %error, "this host cannot run the release");
                let retry_at = error.is_transient().then(|| Instant::now() + DOWNLOAD_RETRY_INTERVAL);
                LoadState::Failed { reason: error.to_string(), retry_at, records, first_attempt }
            }
        };
        self.releases.insert(*release, state);
        true
    }

    /// Whether a release is due to be tried again.
    pub(super) fn has_due_retry(&self) -> bool {
        let now = Instant::now();
        self.releases.values().any(|state| match state {
            LoadState::Failed { retry_at: Some(retry_at), .. } => now >= *retry_at,
            LoadState::Failed { retry_at: None, .. } | LoadState::Ready(_) => false,
        })
    }

    /// Each release of this host, and the reason if it cannot be run.
    pub(super) fn availability(&self) -> impl Iterator<Item = (Digest, Option<&str>)> {
        let base = self.base.iter().map(|base| (base.digest(), None));
        base.chain(self.releases.iter().map(|(release, state)| match state {
            LoadState::Ready(_) => (*release, self.topic_conflicts.get(release).map(String::as_str)),
            LoadState::Failed { reason, .. } => (*release, Some(reason.as_str())),
        }))
    }

    /// The aliases that this host's configured plugin consumes.
    pub(super) fn base_consumes(&self) -> &[String] {
        self.base.as_ref().map_or(&[], |base| &base.manifest().consumes)
    }

    /// The routing that workers apply next. `position`: up to where the control topic has been read. `elsewhere`: the
    /// aliases that are consumed for the sake of other hosts.
    pub(super) fn snapshot(
        &mut self,
        registry: &RegistryState,
        position: ControlPosition,
        elsewhere: &BTreeSet<String>,
    ) -> RoutingSnapshot {
        let (mut artifacts, mut releases) = self.ready_and_failed(registry);
        let base = self.base.as_ref().map(|base| base.digest());
        let order = topic_precedence(base, registry, artifacts.keys().copied());
        let consumes = |digest: &Digest| match (artifacts.get(digest), releases.get(digest)) {
            (Some(artifact), _) => Some(artifact.manifest().consumes.clone()),
            // Other hosts may be able to run it, and the same order decides there.
            (None, Some(Availability::Failed { consumes, .. })) => consumes.clone(),
            _ => None,
        };
        let in_order: Vec<_> = order.iter().filter_map(|digest| Some((*digest, consumes(digest)?))).collect();
        let (topics, conflicts) = topic_conflicts(&self.loader.topology, in_order);
        for conflict in &conflicts {
            // What it alone consumes cannot be read together with the topics of the others.
            let readable: Vec<_> = conflict.consumes.iter().filter(|alias| topics.contains(alias)).cloned().collect();
            match releases.entry(conflict.release).or_insert_with(|| conflict.availability()) {
                Availability::Failed { consumes, .. } => *consumes = Some(readable),
                Availability::Ready(_) => unreachable!("ready releases are added below"),
            }
            artifacts.remove(&conflict.release);
        }
        self.topic_conflicts = conflicts.into_iter().map(|conflict| (conflict.release, conflict.reason)).collect();
        let ready = |artifact: &Arc<Artifact>| Availability::Ready(Arc::clone(artifact.release()));
        releases.extend(artifacts.iter().map(|(digest, artifact)| (*digest, ready(artifact))));
        let routing = Routing::new(registry.routes().clone(), Some(position), base, releases, self.on_failure);
        let elsewhere = self.readable_elsewhere(routing.consumed(), elsewhere);
        RoutingSnapshot { routing: Arc::new(routing.also_consuming(elsewhere)), artifacts }
    }

    /// Those of other hosts' topics that can be read beside the topics that are `consumed` already.
    fn readable_elsewhere(&mut self, consumed: &[Arc<str>], elsewhere: &BTreeSet<String>) -> Vec<Arc<str>> {
        let mut topics = ReadableTopics::new(&self.loader.topology);
        let further = elsewhere.iter().map(|alias| Arc::from(alias.as_str()));
        let mut readable = Vec::new();
        for alias in consumed.iter().cloned().chain(further) {
            match topics.add([Arc::clone(&alias)]) {
                Ok(()) => readable.push(alias),
                Err(error) => {
                    if self.unreadable.insert(Arc::clone(&alias)) {
                        tracing::error!(
                            topic = %alias,
                            %error,
                            "this host does not read a topic that another host consumes. Give all hosts the same --plugin \
                             and the same topics"
                        );
                    }
                }
            }
        }
        readable
    }

    /// All aliases that routes, deployed releases and the configured plugin consume, as far as they can be read at the
    /// same time.
    pub(super) fn ever_consumed(&self, registry: &RegistryState, consumed: &[Arc<str>]) -> BTreeSet<Arc<str>> {
        let mut topics = ReadableTopics::new(&self.loader.topology);
        let deployed = registry.releases().values().flat_map(|deployed| aliases(&deployed.record.manifest.consumes));
        let base = aliases(self.base_consumes());
        for alias in consumed.iter().cloned().chain(base).chain(deployed) {
            // Err: a release that consumes it is refused.
            let _ = topics.add([alias]);
        }
        topics.consumed
    }

    /// The artifacts that are loaded, and the releases that are not.
    fn ready_and_failed(
        &self,
        registry: &RegistryState,
    ) -> (BTreeMap<Digest, Arc<Artifact>>, BTreeMap<Digest, Availability>) {
        let (mut ready, mut failed) = (BTreeMap::new(), BTreeMap::new());
        for (digest, state) in &self.releases {
            match state {
                LoadState::Ready(artifact) => {
                    ready.insert(*digest, Arc::clone(artifact));
                }
                LoadState::Failed { reason, retry_at, first_attempt, .. } => {
                    let consumes = registry.release(digest).map(|record| record.manifest.consumes.clone());
                    let transient = retry_at.is_some() && first_attempt.elapsed() < DOWNLOAD_GRACE_PERIOD;
                    failed.insert(*digest, Availability::Failed { why: reason.clone(), consumes, transient });
                }
            }
        }
        ready.extend(self.base.iter().map(|base| (base.digest(), Arc::clone(base))));
        (ready, failed)
    }
}

/// Releases in the order in which their topics count: the configured plugin, the default, the percentage, pins, then
/// all others.
fn topic_precedence(
    base: Option<Digest>,
    registry: &RegistryState,
    all: impl IntoIterator<Item = Digest>,
) -> Vec<Digest> {
    let routed = registry.routed().map(|entry| entry.value.route().release);
    let mut seen = BTreeSet::new();
    base.into_iter().chain(routed).chain(all).filter(|digest| seen.insert(*digest)).collect()
}

/// Topics that can be read at the same time: no two aliases name one topic, and none names an internal one.
struct ReadableTopics<'a> {
    topology: &'a Topology,
    consumed: BTreeSet<Arc<str>>,
}

impl<'a> ReadableTopics<'a> {
    fn new(topology: &'a Topology) -> Self {
        Self { topology, consumed: BTreeSet::new() }
    }

    fn contains(&self, alias: &str) -> bool {
        self.consumed.contains(alias)
    }

    /// Adds topics, all of them or none.
    fn add(&mut self, further: impl IntoIterator<Item = Arc<str>>) -> Result<(), TopologyError> {
        let mut all = self.consumed.clone();
        all.extend(further);
        self.topology.with(&all, [])?;
        self.consumed = all;
        Ok(())
    }
}

/// A release that names a topic by another alias than a release before it does.
struct TopicConflict {
    release: Digest,
    consumes: Vec<String>,
    /// Why it cannot run.
    reason: String,
}

impl TopicConflict {
    fn availability(&self) -> Availability {
        Availability::Failed { why: self.reason.clone(), consumes: None, transient: false }
    }
}

/// The topics of all releases that can be read at the same time, and the releases whose topics conflict with them.
fn topic_conflicts(
    topology: &Topology,
    in_order: impl IntoIterator<Item = (Digest, Vec<String>)>,
) -> (ReadableTopics<'_>, Vec<TopicConflict>) {
    let (mut topics, mut conflicts) = (ReadableTopics::new(topology), Vec::new());
    for (release, consumes) in in_order {
        if let Err(error) = topics.add(aliases(&consumes)) {
            let reason = format!("its topics conflict with those of other releases: {error}");
            conflicts.push(TopicConflict { release, consumes, reason });
        }
    }
    (topics, conflicts)
}

#[cfg(test)]
mod tests {
    use switchboard_core::record::Timestamp;
    use switchboard_core::registry::{Actor, Audience, ChangeRequest, Deployment, ReleaseRecord, deploy};
    use switchboard_core::routing::Manifest;
    use switchboard_kafka::control_topic::ArtifactReader;
    use switchboard_kafka::{ClientOptions, GroupProtocol};
    use switchboard_sandbox::{Limits, Sandbox};

    use super::*;
    use crate::trust::TrustedKeys;

    fn digest(number: u8) -> Digest {
        Digest::new([number; 32])
    }

    fn consumes(aliases: &[&str]) -> Manifest {
        Manifest {
            name: "plugin".into(),
            version: "1.0.0".into(),
            consumes: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            produces: vec![],
            lookups: vec![],
            state_version: 1,
        }
    }

    #[test]
    fn of_two_releases_with_conflicting_topics_the_one_with_precedence_runs() {
        let mut registry = RegistryState::default();
        let routes =
            [("route/tenant/a", 1, ""), ("route/percentage", 2, r#""percent":"5","#), ("route/default", 3, "")];
        for (offset, (key, release, share)) in (0_u32..).zip(routes) {
            let value = format!(r#"{{{share}"release":"{}"}}"#, digest(release));
            registry.apply(offset.into(), Timestamp::default(), key.as_bytes(), Some(value.as_bytes())).unwrap();
        }
        let order = topic_precedence(Some(digest(9)), &registry, (0..10).map(digest));
        let expected = [9, 3, 2, 1, 0, 4, 5, 6, 7, 8].map(digest);
        assert_eq!(order, expected, "the configured plugin, default, percentage, pins, all others");

        let names = [("A", "same"), ("B", "same")].map(|(alias, name)| (alias.to_owned(), name.to_owned()));
        let topology = Topology::new("app", names.into(), |_| None);
        let manifests = [(1, consumes(&["A", "X"])), (2, consumes(&["B", "Y"])), (3, consumes(&["Y", "A"]))];
        let conflicts = |order: [u8; 3]| {
            let consumes = |number: u8| (digest(number), manifests[usize::from(number) - 1].1.consumes.clone());
            topic_conflicts(&topology, order.map(consumes)).1
        };
        let number = |conflict: &TopicConflict| conflict.release.bytes()[0];
        let refused = |order| conflicts(order).iter().map(number).collect::<Vec<_>>();
        assert_eq!(refused([1, 2, 3]), [2], "a refused release's other topics do not count");
        assert_eq!(refused([2, 3, 1]), [3, 1]);
        let reason = &conflicts([1, 2, 3])[0].reason;
        assert!(reason.contains("A and B both name the topic \"same\""), "{reason}");
    }

    /// A store whose brokers do not answer, and a control topic that routes all tenants to an artifact.
    fn unreachable_store() -> (ArtifactStore, RegistryState, Digest) {
        unreachable_store_with([].into())
    }

    fn unreachable_store_with(topics: BTreeMap<String, String>) -> (ArtifactStore, RegistryState, Digest) {
        let options = ClientOptions {
            bootstrap_servers: "127.0.0.1:1".into(),
            app: "app".into(),
            instance: "i".into(),
            static_members: false,
            group_protocol: GroupProtocol::Classic,
            session_timeout_ms: 10_000,
            properties: [].into(),
        };
        let topology = Topology::new("app", topics, |_| None);
        let loader = Loader {
            sandbox: Arc::new(Sandbox::new(Limits::default()).unwrap()),
            trusted: TrustedKeys::default(),
            artifacts: ArtifactReader::new(&options, &topology.control).unwrap(),
            topology,
            lookups: vec![],
        };
        let (artifact, release) = (b"bytes", digest(1));
        let record = ReleaseRecord {
            manifest: consumes(&["IN", "MORE"]),
            migrates: vec![],
            size: artifact.len() as u64,
            chunks: ReleaseRecord::chunks_of(artifact.len()),
            signature: None,
            actor: Actor::default(),
        };
        let deployment = Deployment { release, artifact, record, audience: Audience::Default, gate: None };
        let request = ChangeRequest { id: "1".into(), actor: Actor::default(), note: None };
        let mut registry = RegistryState::default();
        for (offset, write) in (0_u32..).zip(deploy(&registry, &deployment, request).unwrap().writes) {
            let key = write.key.to_string();
            registry.apply(offset.into(), Timestamp::default(), key.as_bytes(), write.value.as_deref()).unwrap();
        }
        (ArtifactStore::new(loader, OnFailure::Keep, None), registry, release)
    }

    #[test]
    fn records_wait_a_minute_for_a_download_and_the_download_is_retried_after_that() {
        let (mut store, registry, release) = unreachable_store();
        let position = ControlPosition { topic: None, offset: 9.into() };
        let publish = |store: &mut ArtifactStore| store.snapshot(&registry, position, &BTreeSet::new()).routing;
        assert!(store.load_routed(&registry), "the release is tried");
        let routing = publish(&mut store);
        assert!(routing.may_become_ready(&release) && routing.may_consume(&release, "MORE"));
        assert!(!routing.may_consume(&release, "OTHER"));
        assert!(!store.has_due_retry() && !store.load_routed(&registry), "no retry at once");

        let age_by = |store: &mut ArtifactStore, time: Duration| {
            let Some(LoadState::Failed { retry_at: Some(retry_at), first_attempt, .. }) =
                store.releases.get_mut(&release)
            else {
                panic!("no retry is planned")
            };
            for moment in [retry_at, first_attempt] {
                *moment = moment.checked_sub(time).unwrap();
            }
        };
        age_by(&mut store, DOWNLOAD_RETRY_INTERVAL);
        assert!(store.has_due_retry() && publish(&mut store).may_become_ready(&release));
        age_by(&mut store, DOWNLOAD_GRACE_PERIOD);
        assert!(store.has_due_retry() && !publish(&mut store).may_become_ready(&release), "the grace period is over");
        let was_tried = store.load_routed(&registry);
        assert!(was_tried && !publish(&mut store).may_become_ready(&release), "a retry starts no new grace period");
        assert!(!store.has_due_retry());
        age_by(&mut store, DOWNLOAD_RETRY_INTERVAL);
        assert!(store.has_due_retry(), "retries go on");
    }

    #[test]
    fn a_host_reads_what_it_cannot_run_and_what_other_hosts_need() {
        let names = [("IN", "same"), ("OTHER", "same")].map(|(alias, name)| (alias.to_owned(), name.to_owned()));
        let (mut store, registry, _) = unreachable_store_with(names.into());
        assert!(store.load_routed(&registry), "it cannot be loaded");
        let position = ControlPosition { topic: None, offset: 9.into() };
        let elsewhere = ["FURTHER", "MORE", "OTHER"].map(str::to_owned).into();
        let routing = store.snapshot(&registry, position, &elsewhere).routing;
        assert_eq!(
            routing.consumed(),
            ["IN", "MORE", "FURTHER"].map(Arc::from),
            "OTHER names a topic that is read already by another alias"
        );
        assert_eq!(store.unreadable, [Arc::from("OTHER")].into());
        let ever = store.ever_consumed(&registry, routing.consumed());
        assert_eq!(ever, ["FURTHER", "IN", "MORE"].map(Arc::from).into());
    }

    #[test]
    fn all_missing_releases_are_tried_in_one_pass() {
        let (mut store, registry, _) = unreachable_store();
        let missing = [2, 3, 4].map(digest);
        assert!(store.load_missing(&missing.into(), &registry));
        let tried: Vec<_> = store.availability().map(|(release, _)| release).collect();
        assert_eq!(tried, missing);
        assert!(
            store.availability().all(|(_, failure)| failure.is_some_and(|reason| reason.contains("deploy it again")))
        );
        assert!(!store.load_missing(&missing.into(), &registry), "nothing has changed");
    }
}
