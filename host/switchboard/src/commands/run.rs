//! `switchboard run`: consumes, processes and commits until the process receives a signal to stop.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use switchboard_core::record::Timestamp;
use switchboard_core::registry::HostStatus;
use switchboard_core::routing::aliases;
use switchboard_kafka::{
    Admin, ClientOptions, CommittedOffsets, CommittedOffsetsError, GroupMembersError, PreparedTopics, Purge,
    ShardCount, Shutdown, TopicError, Topology, check_committed_offsets, check_group_members, prepare,
};
use switchboard_lookup::HttpLookups;
use switchboard_releases::{ArtifactStore, ControlTopic, Loader, ReleaseController, ReleaseHealth, WatchedFile};
use switchboard_sandbox::{Artifact, InstancePool, Limits, RoutingWatch, TenantRunner};

use super::Outcome;
use crate::cli::SettingsArgs;
use crate::config::Settings;
use crate::host::{Host, HostSetup};
use crate::process_instance::ProcessInstance;
use crate::services::{LagReport, Services};
use crate::signals::stop_on_signals;
use crate::wiring;

/// How often a host without members looks for the topics that it consumes.
const SOURCE_TOPIC_INTERVAL: Duration = Duration::from_millis(500);

/// Runs a host until SIGTERM or SIGINT.
///
/// # Errors
/// Why the host could not start, or had to stop, and what to do.
pub fn run(args: SettingsArgs) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let host = Unconnected::new(wiring::load_settings(args)?)?;
    let stop = Shutdown::default();
    stop_on_signals(&stop).context("handling signals")?;
    // `None`: the process was stopped while it waited for brokers.
    let Some(prepared) = host.prepare(&stop)? else { return Ok(Outcome::Success) };
    prepared.start(&stop, started)?.join()?;
    tracing::info!("host stopped");
    Ok(Outcome::Success)
}

/// What is created from the settings alone.
struct Parts {
    settings: Settings,
    instance: ProcessInstance,
    options: ClientOptions,
    topology: Topology,
    lookups: HttpLookups,
}

/// The parts of a host, before the first request to a broker.
struct Unconnected {
    parts: Parts,
    loader: Loader,
    /// The configured plugin.
    base: Option<Arc<Artifact>>,
}

/// A host that knows the routes, and whose releases are loaded.
struct Prepared {
    parts: Parts,
    limits: Limits,
    topics: PreparedTopics,
    committed: CommittedOffsets,
    controller: ReleaseController,
    health: ReleaseHealth,
}

/// A host that processes records.
struct Running {
    /// `None`: the process was stopped before there was anything to consume.
    host: Option<Host<TenantRunner>>,
    services: Services,
    instance: ProcessInstance,
}

impl Unconnected {
    fn new(settings: Settings) -> anyhow::Result<Self> {
        let instance = ProcessInstance::claim(&settings.app, settings.instance.as_deref())
            .context("choosing the id of this process instance")?;
        let options = wiring::client_options(&settings, &instance.id)?;
        let topology = wiring::topology(&settings);
        let loader = wiring::loader(&settings, &options, &topology)?;
        if loader.trusted.is_empty() {
            tracing::warn!("no trusted-keys are set: this host runs every plugin that is deployed, whoever built it");
        }
        let base = settings.has_plugin().then(|| loader.load_file(&settings.plugin)).transpose()?.map(Arc::new);
        let lookups = wiring::lookups(&settings, &wiring::tenants(&settings))?;
        let parts = Parts { settings, instance, options, topology, lookups };
        Ok(Self { parts, loader, base })
    }

    /// Creates or checks the topics and checks the group, as far as they are known, and loads the releases that routes
    /// name. `None`: the process shuts down.
    fn prepare(self, stop: &Shutdown) -> anyhow::Result<Option<Prepared>> {
        let Self { parts, loader, base } = self;
        let Parts { settings, instance, options, topology, .. } = &parts;
        // This client connects while the topics are checked.
        let committed = CommittedOffsets::new(options).context("creating a Kafka client")?;
        let known = match &base {
            Some(base) => topology.with(&*aliases(&base.manifest().consumes), &base.release().produces)?,
            None => topology.clone(),
        };
        let topics = match prepare(options, &known, settings.topic_settings(), stop) {
            Err(TopicError::Stopped) => return Ok(None),
            result => result?,
        };
        match check_group_members(options, topology, &topics.admin, stop) {
            Err(GroupMembersError::Stopped) => return Ok(None),
            result => result?,
        }
        log_configured_plugin(base.as_deref());
        let limits = *loader.sandbox.limits();
        let artifacts = ArtifactStore::new(loader, settings.on_release_failure, base);
        let watched = settings.watch.then(|| WatchedFile::new(settings.plugin.clone()));
        let control = ControlTopic::new(options, topology)?;
        let health = ReleaseHealth::default();
        let identity = status_identity(instance);
        let Some(controller) = ReleaseController::start(control, artifacts, health.clone(), watched, identity, stop)
        else {
            return Ok(None);
        };
        match check_committed_offsets(options, &topology.with(&controller.ever_consumed(), [])?, &committed, stop) {
            Err(CommittedOffsetsError::Stopped) => return Ok(None),
            result => result?,
        }
        Ok(Some(Prepared { parts, limits, topics, committed, controller, health }))
    }
}

impl Prepared {
    /// Starts the background threads, and the members once the number of shards is known. `started`: when the process
    /// started.
    fn start(mut self, stop: &Shutdown, started: Instant) -> anyhow::Result<Running> {
        self.controller.announce();
        let Self { parts, limits, topics: PreparedTopics { admin, shards }, committed, controller, health } = self;
        let routing = controller.routing_watch().clone();
        let mut services = Services::new(stop);
        services.control_releases(controller)?;
        let shards = match shards {
            Some(shards) => shards,
            None => match parts.wait_for_shards(&admin, &routing, stop)? {
                Some(shards) => shards,
                None => return Ok(Running { host: None, services, instance: parts.instance }),
            },
        };
        tracing::info!(shards = shards.count, from = %shards.origin, "the number of shards is known");
        let Parts { settings, instance, options, topology, lookups } = parts;
        let purge = Purge::new(&options, &topology, shards.count, admin).context("creating a Kafka client")?;
        let setup = HostSetup {
            config: wiring::worker_config(&settings, shards.count),
            options,
            topology: Arc::new(topology),
            lookups,
            members: settings.members,
            threads: wiring::thread_count(&settings),
            state_dir: settings.state_dir.clone(),
        };
        let plugins = || InstancePool::subscribed(&routing, limits);
        let host = Host::start(&setup, plugins, || health.observer(), stop)?;

        let HostSetup { config, options, topology, members, threads, .. } = setup;
        services.purge(purge, Duration::from_millis(settings.purge_interval_ms))?;
        services.report_lag(LagReport { committed, options, topology, routing, start_from: config.start_from })?;
        tracing::info!(
            app = %settings.app,
            instance = %instance.id,
            brokers = %settings.bootstrap_servers,
            members,
            threads,
            startup_ms = started.elapsed().as_millis(),
            "host is running"
        );
        Ok(Running { host: Some(host), services, instance })
    }
}

impl Parts {
    /// Waits until the repartition topic exists, or a consumed topic from which its number of partitions follows.
    /// Meanwhile the host follows the control topic. `None`: the process shuts down.
    fn wait_for_shards(
        &self,
        admin: &Admin,
        routing: &RoutingWatch,
        stop: &Shutdown,
    ) -> anyhow::Result<Option<ShardCount>> {
        let mut reported = None;
        loop {
            let topology = self.topology.with(routing.newest().routing.consumed(), [])?;
            match admin.prepare_shards(&self.options, &topology, self.settings.topic_settings(), stop) {
                Err(TopicError::Stopped) => return Ok(None),
                Ok(None) => {}
                shards => return Ok(shards?),
            }
            let missing: Vec<_> = topology.consumed.into_iter().map(|topic| topic.name).collect();
            if reported.as_ref() != Some(&missing) {
                self.report_waiting(&missing);
                reported = Some(missing);
            }
            if stop.wait(SOURCE_TOPIC_INTERVAL) {
                return Ok(None);
            }
        }
    }

    /// Logs what this host waits for before its members start. `missing`: the topics that it would consume.
    fn report_waiting(&self, missing: &[String]) {
        let (app, instance) = (&self.settings.app, &self.instance.id);
        if missing.is_empty() {
            tracing::info!(
                %app,
                %instance,
                "host is running, and joins its group when there is something to consume: deploy a release"
            );
        } else {
            tracing::warn!(
                %app,
                %instance,
                topics = %missing.join(", "),
                "host is running, and joins its group when a consumed topic exists: create one of them"
            );
        }
    }
}

impl Running {
    /// Waits until the members and the background threads have ended.
    ///
    /// # Errors
    /// Why the first of them could not go on.
    fn join(self) -> anyhow::Result<()> {
        let Self { host, services, instance } = self;
        let host_ended = host.map_or(Ok(()), Host::join);
        let services_ended = services.join();
        // Not earlier: the next process that takes this slot fences the members of this one.
        drop(instance);
        host_ended.and(services_ended)
    }
}

fn log_configured_plugin(base: Option<&Artifact>) {
    match base {
        Some(artifact) => {
            let release = artifact.release().title();
            tracing::info!(%release, "plugin configured for all tenants without a route");
        }
        None => tracing::info!("no plugin is configured: tenants run only deployed releases (`switchboard deploy`)"),
    }
}

/// The fields of this host's status that never change.
fn status_identity(instance: &ProcessInstance) -> HostStatus {
    HostStatus {
        instance: instance.id.clone(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        started: Timestamp::of_system_time(SystemTime::now()),
        ..HostStatus::default()
    }
}
