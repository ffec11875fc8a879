//! The thread that keeps a host's releases: it follows the control topic, has loaded what the routes want, publishes it to
//! the workers, watches over new releases, and tells what it has.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use switchboard_core::record::{ControlPosition, Offset, Timestamp, TopicId};
use switchboard_core::registry::{
    Actor, ChangeRequest, Failures, HostStatus, Loaded, Refusal, RegistryState, Running, State, Staying, Waiting,
    automatic_rollback,
};

use super::artifact_store::ArtifactStore;
use super::gate::{Failing, Gates};
use super::health::ReleaseHealth;
use switchboard_kafka::Shutdown;
use switchboard_kafka::control_topic::{ControlError, ControlReader, ControlWriter, StatusWriter, UpdateError};
use switchboard_kafka::{ClientOptions, Topology};
use switchboard_sandbox::RoutingWatch;

/// How long one look at the control topic waits.
const LOOK: Duration = Duration::from_millis(20);
/// How often gates, the status and the config file's artifact are looked at.
const CHECK: Duration = Duration::from_millis(100);
/// How often it is looked whether tenants and failures in the status have changed, for so long after a change of routes, and
/// whenever there is new trouble: somebody may be following it. Else once in `HostStatus::EVERY` is often enough.
const STATUS_PACE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(2));

/// How much of a release's first failure is told.
const FIRST_FAILURE: usize = 300;
/// The pause before a rollback that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the control topic may take to be read at a time; then the attempt is told, and made again.
const READ: Duration = Duration::from_secs(10);
/// How often trouble that lasts is told.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How long a stop waits until it has been told.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The control topic's clients.
pub struct ControlTopic {
    reader: ControlReader,
    status: StatusWriter,
    /// The id of the topic that is read; `None`: not known (yet).
    topic_id: Option<TopicId>,
    options: ClientOptions,
    topology: Topology,
}

impl ControlTopic {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topology: &Topology) -> anyhow::Result<Self> {
        let making = "making a Kafka client";
        Ok(Self {
            reader: ControlReader::new(options, &topology.control).context(making)?,
            status: StatusWriter::new(options, &topology.control).context(making)?,
            topic_id: None,
            options: options.clone(),
            topology: topology.clone(),
        })
    }

    /// Reads the topic from its beginning to its end, however long it takes. `None`: a stop was asked for.
    fn read(&mut self, stop: &Shutdown) -> Option<RegistryState> {
        let mut control = RegistryState::default();
        let mut told = Instant::now();
        loop {
            let result = self.reader.start().and_then(|()| {
                let topic_id = self.reader.topic_id()?;
                let is_another = self.topic_id.is_some() && self.topic_id != topic_id;
                self.topic_id = topic_id;
                if is_another {
                    return Err(ControlError::Gone(self.topology.control.clone()));
                }
                self.reader.read_to_end(&mut control, READ)
            });
            match result {
                Ok(()) => return Some(control),
                Err(error @ ControlError::Gone(_)) => {
                    tracing::warn!("{error}. It is read from its beginning");
                    match Self::new(&self.options, &self.topology) {
                        Ok(anew) => (*self, control) = (anew, RegistryState::default()),
                        Err(error) => tracing::error!("{error:#}"),
                    }
                }
                // A topic that was just made is not known to all brokers at once.
                Err(error) if told.elapsed() >= TELL_EVERY => {
                    tracing::warn!("{error}; trying on");
                    told = Instant::now();
                }
                Err(_) => {}
            }
            if stop.wait(LOOK) {
                return None;
            }
        }
    }

    fn tell(&self, instance: &str, status: Option<&HostStatus>) {
        if let Err(error) = self.status.write(instance, status) {
            tracing::warn!("this host's status cannot be told: {error}");
        }
    }
}

/// The config file's artifact, where it is watched.
pub struct WatchedFile {
    pub(super) path: PathBuf,
    /// What it was like when it was last tried: modified when, and its size.
    pub(super) tried: Option<(SystemTime, u64)>,
}

impl WatchedFile {
    pub fn new(path: PathBuf) -> Self {
        let tried = stamp(&path);
        Self { path, tried }
    }
}

fn stamp(path: &std::path::Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// One routing that was published.
#[derive(Debug, Clone, Copy)]
struct Publication {
    number: u64,
    /// `RegistryState::content_end` as of then.
    content_end: Offset,
}

/// See the module.
pub struct ReleaseController {
    topic: ControlTopic,
    control: RegistryState,
    shelf: ArtifactStore,
    board: RoutingWatch,
    tally: ReleaseHealth,
    gates: Gates,
    watched: Option<WatchedFile>,
    /// `RegistryState::content_end` as of the last publication.
    published: Offset,
    publications: VecDeque<Publication>,
    /// What stays the same in the status.
    own: HostStatus,
    told: Option<(Instant, HostStatus)>,
    /// When there was something new to go by.
    rerouted: Instant,
    /// When all of the status was looked at last, and `ReleaseHealth::troubles` as of then.
    looked: (Instant, u64),
}

impl ReleaseController {
    /// Reads the control topic to its end and has loaded what the routes want: only then may the workers join the group. `None`:
    /// a stop was asked for.
    pub fn start(
        mut topic: ControlTopic,
        mut shelf: ArtifactStore,
        tally: ReleaseHealth,
        watched: Option<WatchedFile>,
        own: HostStatus,
        stop: &Shutdown,
    ) -> Option<Self> {
        let control = topic.read(stop)?;
        shelf.load(&control);
        let read = topic.reader.position();
        let board =
            RoutingWatch::new(shelf.publication(&control, ControlPosition { topic: topic.topic_id, offset: read }));
        let mut gates = Gates::default();
        gates.watch(&control, &tally, shelf.base().map(|base| base.digest()), now());
        let published = control.content_end();
        let (publications, now) = ([Publication { number: 1, content_end: published }].into(), Instant::now());
        let told = None;
        let (rerouted, looked) = (now, (now, 0));
        Some(Self {
            topic,
            control,
            shelf,
            board,
            tally,
            gates,
            watched,
            published,
            publications,
            own,
            told,
            rerouted,
            looked,
        })
    }

    pub fn board(&self) -> &RoutingWatch {
        &self.board
    }

    pub fn control(&self) -> &RegistryState {
        &self.control
    }

    /// Aliases that any release there is consumes, or the config file's artifact.
    pub fn ever_consumed(&self) -> BTreeSet<Arc<str>> {
        let deployed = self.control.releases().values().map(|deployed| &deployed.record.manifest);
        let base = self.shelf.base().map(|base| base.manifest());
        deployed.chain(base).flat_map(|manifest| &manifest.consumes).map(|alias| Arc::from(alias.as_str())).collect()
    }

    /// Tells for the first time what this host has: whoever waits for a change from now on waits for it, too.
    pub fn announce(&mut self) {
        self.tell();
        if let Err(error) = self.topic.status.flush(LAST_WORD) {
            tracing::warn!("this host's status is not told yet: {error}");
        }
    }

    /// Until a stop is asked for.
    pub fn run(mut self, stop: &Shutdown) {
        self.tidy();
        let mut checked = Instant::now();
        while !stop.is_asked() {
            if self.follow(stop) || self.shelf.is_due() {
                self.reload();
            }
            if checked.elapsed() >= CHECK {
                checked = Instant::now();
                self.look_at_the_file();
                self.look_at_who_waits();
                self.look_at_gates(stop);
                self.tell();
            }
        }
        self.topic.tell(&self.own.instance, None);
        if let Err(error) = self.topic.status.flush(LAST_WORD) {
            tracing::debug!("telling the end: {error}");
        }
    }

    /// Takes in what the topic has; true when there is more than hosts' statuses. That leads to a publication in any case:
    /// messages may wait until workers go by a change of routes that another host knew of (`Routing::changed`).
    fn follow(&mut self, stop: &Shutdown) -> bool {
        let mut wait = LOOK;
        loop {
            match self.topic.reader.take(&mut self.control, wait) {
                Ok(true) => wait = Duration::ZERO,
                Ok(false) => return self.control.content_end() != self.published,
                Err(error) => {
                    tracing::error!("{error}. It is read from its beginning: routes that it does not have are gone");
                    let topic = ControlTopic::new(&self.topic.options, &self.topic.topology);
                    match topic.map(|mut topic| (topic.read(stop), topic)) {
                        Ok((Some(control), topic)) => (self.control, self.topic) = (control, topic),
                        Ok((None, _)) => {}
                        Err(error) => tracing::error!("{error:#}"),
                    }
                    return true;
                }
            }
        }
    }

    fn reload(&mut self) {
        self.shelf.load(&self.control);
        self.publish();
        self.tidy();
    }

    /// What is not urgent.
    fn tidy(&mut self) {
        if self.shelf.tidy(&self.control, &self.tally.in_use()) {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let base = self.shelf.base().map(|base| base.digest());
        self.tally.keep(&self.shelf.states().map(|(release, _)| release).collect());
        self.gates.watch(&self.control, &self.tally, base, now());
        self.begin();
        let read = self.topic.reader.position();
        let position = ControlPosition { topic: self.topic.topic_id, offset: read };
        let number = self.board.publish(self.shelf.publication(&self.control, position));
        self.published = self.control.content_end();
        self.rerouted = Instant::now();
        self.publications.push_back(Publication { number, content_end: self.published });
    }

    /// Has failures told anew of releases that were deployed or routed to since the last publication.
    fn begin(&self) {
        let routed = self.control.routed().map(|(_, value, offset)| (value.route().release, offset));
        let deployed = self.control.releases().iter().map(|(release, deployed)| (*release, deployed.offset));
        for (release, _) in routed.chain(deployed).filter(|(_, offset)| *offset >= self.published) {
            self.tally.begin(&release);
        }
    }

    fn look_at_the_file(&mut self) {
        let Some(watched) = &mut self.watched else { return };
        let now = stamp(&watched.path);
        if now.is_none() || now == watched.tried {
            return;
        }
        watched.tried = now;
        let path = watched.path.clone();
        match self.shelf.load_base(&path) {
            Ok(true) => self.publish(),
            Ok(false) => {}
            Err(error) => tracing::error!("the plugin changed, and cannot be run; the former one stays: {error:#}"),
        }
    }

    /// Tenants that cannot run what their routes say stay on what they ran last: it is loaded for those that wait for it.
    fn look_at_who_waits(&mut self) {
        if self.shelf.load_former(&self.tally.lacking(), &self.control) {
            self.publish();
        }
    }

    fn look_at_gates(&mut self, stop: &Shutdown) {
        for failing in self.gates.failing(&self.control, &self.tally, now()) {
            let title = self.control.title(&failing.release);
            if !failing.has_previous && self.shelf.base().is_none() {
                tracing::error!(
                    "{title} fails, but its tenants ran nothing before it that they could go back to: {}",
                    failing.why
                );
                continue;
            }
            tracing::error!("{title} is to be rolled back: {}", failing.why);
            let (options, topology, by) = (self.topic.options.clone(), self.topic.topology.clone(), self.by());
            // It reads the topic first, and may have to wait for brokers: routes go on being followed meanwhile.
            let thread = std::thread::Builder::new().name("rollback".into());
            let stop = stop.clone();
            let spawned = thread.spawn(move || {
                while let Err(error) = roll_back(&options, &topology, &failing, &by) {
                    tracing::error!("{title} was not rolled back: {error:#}; trying on");
                    if stop.wait(AGAIN) {
                        return;
                    }
                }
                tracing::info!("{title} is rolled back");
            });
            if let Err(error) = spawned {
                tracing::error!("a thread to roll back cannot be made: {error}. Use `switchboard rollback`");
            }
        }
    }

    fn by(&self) -> Actor {
        Actor { user: format!("instance {}", self.own.instance), host: self.own.host.clone() }
    }

    /// Writes the status when it is due: what somebody may wait for at once, the rest less often.
    fn tell(&mut self) {
        let (read, releases) = (self.read_by_workers(), self.loaded());
        let urgent = self.told.as_ref().is_none_or(|(_, told)| told.read != read || told.releases != releases);
        let every = HostStatus::EVERY;
        let (looked, troubles) = (self.looked, self.tally.troubles());
        let is_followed = self.rerouted.elapsed() < STATUS_PACE.1 || troubles != looked.1;
        let pace = if is_followed { STATUS_PACE.0 } else { every };
        if !urgent && looked.0.elapsed() < pace {
            return;
        }
        self.looked = (Instant::now(), troubles);
        let status = self.status(read, releases);
        if self.told.as_ref().is_none_or(|(at, told)| at.elapsed() >= every || *told != status) {
            self.topic.tell(&self.own.instance, Some(&status));
            self.told = Some((Instant::now(), status));
        }
    }

    /// Up to where all workers go by the control topic. Hosts' statuses do not count: each would call forth others.
    fn read_by_workers(&mut self) -> Offset {
        let taken = self.board.taken_by_all();
        while self.publications.get(1).is_some_and(|next| next.number <= taken) {
            self.publications.pop_front();
        }
        let first = self.publications.front().filter(|first| first.number <= taken);
        first.map_or(Offset::ZERO, |first| first.content_end)
    }

    fn loaded(&self) -> Vec<Loaded> {
        let loaded = self.shelf.states().map(|(digest, why)| {
            let state = why.map_or(State::Ready, |why| State::Failed { reason: why.to_owned() });
            Loaded { digest, state }
        });
        loaded.collect()
    }

    fn status(&self, read: Offset, releases: Vec<Loaded>) -> HostStatus {
        let running = self.tally.running().into_iter().map(|(release, names)| Running {
            release,
            state_version: self.shelf.state_version(&release),
            count: names.len() as u64,
            names: names.into_iter().take(HostStatus::NAMES).collect(),
        });
        let staying = self.tally.staying().into_iter().take(HostStatus::NAMES);
        let waiting = self.tally.waiting().into_iter().take(HostStatus::NAMES);
        HostStatus {
            read,
            on_file: self.shelf.base().map(|base| base.digest()),
            releases,
            tenants: running.collect(),
            staying: staying.map(|(tenant, stays)| Staying { tenant, release: stays.on, reason: stays.why }).collect(),
            waiting: waiting.map(|(tenant, reason)| Waiting { tenant, reason }).collect(),
            failures: self.failures(),
            ..self.own.clone()
        }
    }

    fn failures(&self) -> Vec<Failures> {
        let told = self.tally.failures().into_iter().filter(|(_, counts, _)| counts.failures + counts.rejections > 0);
        told.map(|(release, counts, first)| Failures {
            release,
            messages: counts.messages,
            failures: counts.failures,
            rejections: counts.rejections,
            first: first.map(|first| first.chars().take(FIRST_FAILURE).collect()).unwrap_or_default(),
        })
        .collect()
    }
}

fn now() -> Timestamp {
    Timestamp::of_system_time(SystemTime::now())
}

fn roll_back(options: &ClientOptions, topology: &Topology, failing: &Failing, by: &Actor) -> anyhow::Result<()> {
    let Failing { release, offset, why, .. } = failing;
    // The same for every host that sees it: it is made once.
    let id = format!("automatic-{offset}-{}", release.short());
    let stamp = || ChangeRequest { id: id.clone(), by: by.clone(), note: Some(why.clone()) };
    let mut writer = ControlWriter::new(options, topology)?;
    match writer.update(|control| automatic_rollback(control, release, *offset, stamp())) {
        // Another host was quicker.
        Ok(_) | Err(UpdateError::Refused(Refusal::Stale)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
