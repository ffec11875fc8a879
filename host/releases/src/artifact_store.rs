//! The releases that this host has, or has found that it cannot run: loaded as routes want them, dropped when none does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use switchboard_core::record::{ControlPosition, Offset};
use switchboard_core::registry::RegistryState;
use switchboard_core::routing::Manifest;
use switchboard_core::routing::{Availability, Digest, OnFailure, Routing};

use super::trust::TrustedKeys;
use switchboard_kafka::control_topic::{ArtifactReader, FetchError};
use switchboard_kafka::{Topology, TopologyError};
use switchboard_sandbox::RoutingSnapshot;
use switchboard_sandbox::{Artifact, Sandbox};

/// When a release is tried again whose bytes could not be had.
const FETCH_AGAIN: Duration = Duration::from_secs(5);
/// So many releases are kept that no route names any more: tenants whose state the new one cannot take over stay on them,
/// also those that have had no message since.
const FORMER: usize = 4;
/// How long what only it consumes waits for its bytes, and the shards with it; from then on that is buried.
const WAIT: Duration = Duration::from_mins(1);
/// How long each chunk of a release may take to come.
const FETCH: Duration = Duration::from_secs(5);

/// A release that was to be loaded.
enum Loaded {
    Ready(Arc<Artifact>),
    Failed {
        why: String,
        /// When it is worth another attempt; `None`: with other records only.
        again: Option<Instant>,
        /// What it was tried with.
        with: Records,
        /// The first attempt with these.
        since: Instant,
    },
}

/// What the control topic has of a release: the signature, and where its chunks are.
type Records = (Option<String>, Option<Vec<Offset>>);

fn records(release: &Digest, control: &RegistryState) -> Records {
    let signature = control.release(release).and_then(|record| record.signature.clone());
    (signature, control.chunks(release))
}

/// How releases are loaded and checked.
pub struct Loader {
    pub sandbox: Arc<Sandbox>,
    pub trusted: TrustedKeys,
    pub topology: Topology,
    pub artifacts: ArtifactReader,
    /// Names of the lookup sources that are configured.
    pub lookups: Vec<String>,
}

/// All releases of this host.
pub struct ArtifactStore {
    loader: Loader,
    on_failure: OnFailure,
    /// The config file's artifact.
    base: Option<Arc<Artifact>>,
    loaded: BTreeMap<Digest, Loaded>,
    /// Those that no route names any more, the oldest first.
    former: VecDeque<Digest>,
    /// Of those that are loaded, the ones whose topics contradict those of others that come before them.
    clashing: BTreeMap<Digest, String>,
}

impl ArtifactStore {
    pub fn new(loader: Loader, on_failure: OnFailure, base: Option<Arc<Artifact>>) -> Self {
        Self { loader, on_failure, base, loaded: BTreeMap::new(), former: VecDeque::new(), clashing: BTreeMap::new() }
    }

    pub(super) fn base(&self) -> Option<&Arc<Artifact>> {
        self.base.as_ref()
    }

    /// Takes another artifact for the base, from a file. False: it is the same one.
    ///
    /// # Errors
    /// Why it cannot be run; the former one stays.
    pub(super) fn load_base(&mut self, path: &Path) -> anyhow::Result<bool> {
        let artifact = self.loader.load_file(path)?;
        if self.base.as_ref().is_some_and(|base| base.digest() == artifact.digest()) {
            return Ok(false);
        }
        let (name, version) = (&artifact.manifest().name, &artifact.manifest().version);
        tracing::info!("{} is {name} {version} ({}) now", path.display(), artifact.digest().short());
        // Tenants may stay on the former one.
        if let Some(former) = self.base.replace(Arc::new(artifact)) {
            self.loaded.insert(former.digest(), Loaded::Ready(former));
        }
        Ok(true)
    }

    /// Loads what the routes name, and what it replaced where it cannot be run. True when something was tried.
    pub(super) fn load(&mut self, control: &RegistryState) -> bool {
        let mut tried = false;
        for (_, value, _) in control.routed() {
            let route = value.route();
            tried |= self.try_load(&route.release, control);
            if let (Some(previous), true) = (route.previous, self.artifact(&route.release).is_none()) {
                tried |= self.try_load(&previous, control);
            }
        }
        tried
    }

    /// Loads what routes replaced: where tenants stay whose state cannot be taken over, and where a rollback leads. Drops what
    /// no route names any more and no tenant runs (`in_use`). True when something was tried.
    pub(super) fn tidy(&mut self, control: &RegistryState, in_use: &BTreeSet<Digest>) -> bool {
        let mut named = in_use.clone();
        let mut tried = false;
        for (_, value, _) in control.routed() {
            let route = value.route();
            named.insert(route.release);
            if let Some(previous) = route.previous {
                named.insert(previous);
                tried |= self.try_load(&previous, control);
            }
        }
        self.former.retain(|release| self.loaded.contains_key(release) && !named.contains(release));
        for (release, loaded) in &self.loaded {
            let is_ready = matches!(loaded, Loaded::Ready(_));
            if is_ready && !named.contains(release) && !self.former.contains(release) {
                self.former.push_back(*release);
            }
        }
        self.former.drain(..self.former.len().saturating_sub(FORMER));
        self.loaded.retain(|release, _| named.contains(release) || self.former.contains(release));
        tried
    }

    /// Loads what tenants ran last that wait for it. True when something was tried.
    pub(super) fn load_former(&mut self, lacking: &BTreeSet<Digest>, control: &RegistryState) -> bool {
        lacking.iter().any(|release| self.try_load(release, control))
    }

    fn artifact(&self, release: &Digest) -> Option<&Arc<Artifact>> {
        if let Some(base) = self.base.as_ref().filter(|base| base.digest() == *release) {
            return Some(base);
        }
        match self.loaded.get(release)? {
            Loaded::Ready(artifact) => Some(artifact),
            Loaded::Failed { .. } => None,
        }
    }

    /// The version of the layout that a release's state has, where it is ready here.
    pub(super) fn state_version(&self, release: &Digest) -> Option<u32> {
        self.artifact(release).map(|artifact| artifact.manifest().state_version)
    }

    fn try_load(&mut self, release: &Digest, control: &RegistryState) -> bool {
        if self.base.as_ref().is_some_and(|base| base.digest() == *release) {
            self.loaded.remove(release);
            return false;
        }
        let with = records(release, control);
        let started = Instant::now();
        let since = match self.loaded.get(release) {
            Some(Loaded::Ready(_)) => return false,
            Some(Loaded::Failed { again, with: tried, since, .. }) if *tried == with => match again {
                Some(again) if started >= *again => *since,
                _ => return false,
            },
            Some(Loaded::Failed { .. }) | None => started,
        };
        let loaded = match self.loader.load(release, control) {
            Ok(artifact) => {
                let title = control.title(release);
                tracing::info!("loaded {title} in {} ms", started.elapsed().as_millis());
                Loaded::Ready(Arc::new(artifact))
            }
            Err(Problem { why, transient }) => {
                tracing::error!("cannot run {}: {why}", control.title(release));
                Loaded::Failed { why, again: transient.then(|| Instant::now() + FETCH_AGAIN), with, since }
            }
        };
        self.loaded.insert(*release, loaded);
        true
    }

    /// Whether something is to be tried again now.
    pub(super) fn is_due(&self) -> bool {
        let due =
            |loaded: &Loaded| matches!(loaded, Loaded::Failed { again: Some(again), .. } if Instant::now() >= *again);
        self.loaded.values().any(due)
    }

    /// Each release that was to be loaded, and why it could not be.
    pub(super) fn states(&self) -> impl Iterator<Item = (Digest, Option<&str>)> {
        let base = self.base.iter().map(|base| (base.digest(), None));
        base.chain(self.loaded.iter().map(|(release, loaded)| match loaded {
            Loaded::Ready(_) => (*release, self.clashing.get(release).map(String::as_str)),
            Loaded::Failed { why, .. } => (*release, Some(why.as_str())),
        }))
    }

    /// What workers are to go by, with the control topic read up to here.
    pub(super) fn publication(&mut self, control: &RegistryState, read: ControlPosition) -> RoutingSnapshot {
        let (mut releases, mut artifacts) = (BTreeMap::new(), BTreeMap::new());
        for (digest, loaded) in &self.loaded {
            match loaded {
                Loaded::Ready(artifact) => {
                    artifacts.insert(*digest, Arc::clone(artifact));
                }
                Loaded::Failed { why, again, since, .. } => {
                    let consumes = control.release(digest).map(|record| record.manifest.consumes.clone());
                    let transient = again.is_some() && since.elapsed() < WAIT;
                    releases.insert(*digest, Availability::Failed { why: why.clone(), consumes, transient });
                }
            }
        }
        artifacts.extend(self.base.iter().map(|base| (base.digest(), Arc::clone(base))));
        let base = self.base.as_ref().map(|base| base.digest());
        let order = precedence(base, control, artifacts.keys().copied());
        let in_order = order.iter().filter_map(|digest| Some((*digest, artifacts.get(digest)?.manifest())));
        self.clashing = clashes(&self.loader.topology, in_order);
        for (digest, why) in &self.clashing {
            let consumes = artifacts.remove(digest).map(|artifact| artifact.manifest().consumes.clone());
            releases.insert(*digest, Availability::Failed { why: why.clone(), consumes, transient: false });
        }
        let ready = |artifact: &Arc<Artifact>| Availability::Ready(Arc::clone(artifact.release()));
        releases.extend(artifacts.iter().map(|(digest, artifact)| (*digest, ready(artifact))));
        let routing = Routing::new(control.routes().clone(), Some(read), base, releases, self.on_failure);
        RoutingSnapshot { routing: Arc::new(routing), artifacts }
    }
}

/// Releases in the order in which their topics count: the base, the default, the percentage, pins, then what these replaced and
/// what is kept.
fn precedence(base: Option<Digest>, control: &RegistryState, all: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
    let routed = control.routed().map(|(_, value, _)| value.route().release);
    let mut seen = BTreeSet::new();
    base.into_iter().chain(routed).chain(all).filter(|digest| seen.insert(*digest)).collect()
}

/// Releases that name a topic by another alias than those before them do, and why that cannot be.
fn clashes<'a>(
    topology: &Topology,
    in_order: impl IntoIterator<Item = (Digest, &'a Manifest)>,
) -> BTreeMap<Digest, String> {
    let (mut consumed, mut clashes) = (BTreeSet::new(), BTreeMap::new());
    for (digest, manifest) in in_order {
        let mut all: BTreeSet<Arc<str>> = consumed.clone();
        all.extend(manifest.consumes.iter().map(|alias| Arc::from(alias.as_str())));
        match topology.with(&all, []) {
            Ok(_) => consumed = all,
            Err(error) => drop(clashes.insert(digest, format!("beside the other releases: {error}"))),
        }
    }
    clashes
}

/// A plugin's file that a trusted key has signed, where keys are set.
///
/// # Errors
/// Why it cannot be run.
pub fn load_file(sandbox: &Sandbox, trusted: &TrustedKeys, path: &Path) -> anyhow::Result<Artifact> {
    let bytes = sandbox.read_file(path)?;
    let told = || path.display().to_string();
    trusted.verify_file(path, &bytes).with_context(told)?;
    sandbox.load(&bytes).with_context(told)
}

/// Why a release cannot be run here, and whether that may pass.
struct Problem {
    why: String,
    transient: bool,
}

impl Loader {
    fn load(&self, release: &Digest, control: &RegistryState) -> Result<Artifact, Problem> {
        let fails = |transient: bool| move |why: String| Problem { why, transient };
        let (Some(record), Some(chunks)) = (control.release(release), control.chunks(release)) else {
            return Err(fails(false)("its artifact is not in the control topic: deploy it again".into()));
        };
        let most = self.sandbox.limits().artifact;
        if record.size > most {
            let why = format!("{} bytes, at most {most} are allowed (--max-artifact-bytes)", record.size);
            return Err(fails(false)(why));
        }
        let bytes = self.artifacts.fetch(release, &chunks, FETCH).map_err(|error| {
            let transient = matches!(error, FetchError::Slow { .. } | FetchError::Kafka { .. });
            fails(transient)(error.to_string())
        })?;
        self.trusted.verify(&bytes, record.signature.as_deref()).map_err(|error| fails(false)(error.to_string()))?;
        let artifact = self.sandbox.load(&bytes).map_err(|error| fails(false)(error.to_string()))?;
        self.check(&artifact).map_err(|error| fails(false)(error.to_string()))?;
        Ok(artifact)
    }

    /// The artifact of a file.
    ///
    /// # Errors
    /// Why it cannot be run.
    pub fn load_file(&self, path: &Path) -> anyhow::Result<Artifact> {
        let artifact = load_file(&self.sandbox, &self.trusted, path)?;
        self.check(&artifact).with_context(|| path.display().to_string())?;
        Ok(artifact)
    }

    /// Whether its topics make sense here; also tells of lookup sources that are not there.
    fn check(&self, artifact: &Artifact) -> Result<(), TopologyError> {
        let Manifest { name, lookups, .. } = artifact.manifest();
        for source in lookups.iter().filter(|source| !self.lookups.contains(source)) {
            tracing::info!("{name}: lookup source {source} is not configured: every answer is «not found»");
        }
        let consumes: Vec<_> = artifact.manifest().consumes.iter().map(|alias| Arc::from(alias.as_str())).collect();
        self.topology.with(&consumes, &artifact.release().produces).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use switchboard_core::registry::{Actor, Audience, ChangeRequest, Deployment, ReleaseRecord, deploy};

    use switchboard_core::record::Timestamp;

    use super::*;
    use switchboard_kafka::{ClientOptions, GroupProtocol};
    use switchboard_sandbox::Limits;

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
    fn of_two_releases_whose_topics_clash_the_one_that_fewer_tenants_are_routed_to_goes() {
        let mut control = RegistryState::default();
        let routes =
            [("route/tenant/a", 1, ""), ("route/percentage", 2, r#""percent":"5","#), ("route/default", 3, "")];
        for (offset, (key, release, share)) in (0_u32..).zip(routes) {
            let value = format!(r#"{{{share}"release":"{}"}}"#, digest(release));
            control.apply(offset.into(), Timestamp::default(), key.as_bytes(), Some(value.as_bytes())).unwrap();
        }
        let order = precedence(Some(digest(9)), &control, (0..10).map(digest));
        assert_eq!(order, [9, 3, 2, 1, 0, 4, 5, 6, 7, 8].map(digest), "the base, default, percentage, pins, all else");

        let names = [("A", "same"), ("B", "same")].map(|(alias, name)| (alias.to_owned(), name.to_owned()));
        let topology = Topology::new("app", names.into(), |_| None, 1);
        let manifests = [(1, consumes(&["A", "X"])), (2, consumes(&["B", "Y"])), (3, consumes(&["Y", "A"]))];
        let clashing = |order: [u8; 3]| {
            let manifest = |number: u8| (digest(number), &manifests[usize::from(number) - 1].1);
            clashes(&topology, order.map(manifest))
        };
        let goes = |order| clashing(order).into_keys().map(|release| release.bytes()[0]).collect::<Vec<_>>();
        assert_eq!(goes([1, 2, 3]), [2], "its other topic does not count either");
        assert_eq!(goes([2, 3, 1]), [1, 3]);
        let why = &clashing([1, 2, 3])[&digest(2)];
        assert!(why.contains("A and B both name the topic \"same\""), "{why}");
    }

    /// A shelf whose brokers do not answer, and a control topic that routes all tenants to an artifact.
    fn out_of_reach() -> (ArtifactStore, RegistryState, Digest) {
        let options = ClientOptions {
            bootstrap_servers: "127.0.0.1:1".into(),
            app: "app".into(),
            instance: "i".into(),
            static_members: false,
            group_protocol: GroupProtocol::Classic,
            session_timeout_ms: 10_000,
            properties: [].into(),
        };
        let topology = Topology::new("app", [].into(), |_| None, 1);
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
            by: Actor::default(),
        };
        let deployment = Deployment { release, artifact, record, audience: Audience::Default, gate: None };
        let stamp = ChangeRequest { id: "1".into(), by: Actor::default(), note: None };
        let mut control = RegistryState::default();
        for (offset, write) in (0_u32..).zip(deploy(&control, &deployment, stamp).unwrap().writes) {
            control
                .apply(offset.into(), Timestamp::default(), write.key.to_string().as_bytes(), write.value.as_deref())
                .unwrap();
        }
        (ArtifactStore::new(loader, OnFailure::Keep, None), control, release)
    }

    #[test]
    fn a_release_whose_bytes_do_not_come_may_come_for_a_minute_and_is_tried_on() {
        let (mut shelf, control, release) = out_of_reach();
        let publish = |shelf: &mut ArtifactStore| {
            shelf.publication(&control, ControlPosition { topic: None, offset: 9.into() }).routing
        };
        assert!(shelf.load(&control), "it is tried");
        let routing = publish(&mut shelf);
        assert!(routing.may_come(&release) && routing.may_consume(&release, "MORE"));
        assert!(!routing.may_consume(&release, "OTHER"));
        assert!(!shelf.is_due() && !shelf.load(&control), "not at once again");

        let earlier = |shelf: &mut ArtifactStore, time: Duration| {
            let Some(Loaded::Failed { again: Some(again), since, .. }) = shelf.loaded.get_mut(&release) else {
                panic!("it is tried again")
            };
            for moment in [again, since] {
                *moment = moment.checked_sub(time).unwrap();
            }
        };
        earlier(&mut shelf, FETCH_AGAIN);
        assert!(shelf.is_due() && publish(&mut shelf).may_come(&release));
        earlier(&mut shelf, WAIT);
        assert!(shelf.is_due() && !publish(&mut shelf).may_come(&release), "a minute is over");
        assert!(shelf.load(&control) && !publish(&mut shelf).may_come(&release), "another attempt is no new minute");
        assert!(!shelf.is_due());
        earlier(&mut shelf, FETCH_AGAIN);
        assert!(shelf.is_due(), "it is tried on all the same");
    }
}
