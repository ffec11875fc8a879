//! `switchboard run`: consume, process, commit, until told to stop.

use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use switchboard_core::record::{OutputRules, TenantSchema, Timestamp};
use switchboard_core::registry::HostStatus;
use switchboard_core::routing::Manifest;
use switchboard_core::worker::WorkerConfig;

use crate::cli::RunArgs;
use crate::config::Settings;
use crate::host::{Host, Plan};
use crate::instance::ProcessInstance;
use crate::signals::stop_on_signals;
use crate::telemetry;
use switchboard_kafka::Shutdown;
use switchboard_kafka::control_topic::ArtifactReader;
use switchboard_kafka::{
    ClientOptions, CommittedOffsets, CommittedOffsetsError, GroupProtocol, Purge, TopicError, Topology,
    check_committed_offsets, prepare, report_lag,
};
use switchboard_lookup::{HttpLookups, Source};
use switchboard_releases::{
    ArtifactStore, ControlTopic, Loader, ReleaseController, ReleaseHealth, TrustedKeys, WatchedFile,
};
use switchboard_sandbox::{Artifact, InstancePool, Limits, Sandbox};

/// # Errors
/// Why the host could not start or go on, with what to do.
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let started = Instant::now();
    let overrides = args.overrides.with_kafka_from(std::env::vars());
    let settings = Settings::load(args.config.as_deref(), &overrides)?;
    telemetry::logs(settings.log_format);
    settings.check()?;
    let instance =
        ProcessInstance::claim(&settings.app, settings.instance.as_deref()).context("claiming an instance id")?;
    let options = client_options(&settings, &instance.id);
    options.check()?;
    let topology = topology(&settings);
    let loader = loader(&settings, &options, &topology)?;
    if loader.trusted.is_empty() {
        tracing::warn!("no trusted-keys are set: any plugin runs here, whoever made it");
    }
    let limits = *loader.sandbox.limits();
    let base = settings.has_plugin().then(|| loader.load_file(&settings.plugin)).transpose()?.map(Arc::new);
    let rules = rules(&settings);
    let lookups = lookups(&settings, &rules.tenants)?;

    let stop = Shutdown::default();
    stop_on_signals(&stop).context("handling signals")?;
    // It connects while the topics are looked at.
    let committed = CommittedOffsets::new(&options).context("making a Kafka client")?;
    let known = match &base {
        Some(base) => topology.with(&*aliases(&base.manifest().consumes), &base.release().produces)?,
        None => topology.clone(),
    };
    let admin = match prepare(&options, &known, settings.replication_factor, &stop) {
        Err(TopicError::Stopped) => return Ok(()),
        result => result?,
    };
    announce_base(base.as_deref());
    let watched = settings.watch.then(|| WatchedFile::new(settings.plugin.clone()));
    let shelf = ArtifactStore::new(loader, settings.on_failure(), base);
    let (control, tally) = (ControlTopic::new(&options, &topology)?, ReleaseHealth::default());
    let Some(mut keeper) = ReleaseController::start(control, shelf, tally.clone(), watched, status(&instance), &stop)
    else {
        return Ok(());
    };
    let board = keeper.board().clone();
    match check_committed_offsets(&options, &topology.with(&keeper.ever_consumed(), [])?, &committed, &stop) {
        Err(CommittedOffsetsError::Stopped) => return Ok(()),
        result => result?,
    }
    let purge = Purge::new(&options, &topology, admin).context("making a Kafka client")?;
    let workers = workers(&settings);
    let plan =
        Plan { rules, options, topology: Arc::new(topology), lookups, workers, state_dir: settings.state_dir.clone() };
    let host = Host::start(&plan, || InstancePool::following(&board, limits), || tally.observer(), &stop)?;
    keeper.announce();
    let ended = stop.clone();
    let keeper = std::thread::Builder::new().name("releases".into()).spawn(move || {
        // Without it nobody would hear of another release.
        let _ask = ended.on_drop();
        keeper.run(&ended);
    })?;
    let (every, ended) = (Duration::from_millis(settings.purge_interval_ms), stop.clone());
    let purge = std::thread::Builder::new().name("purge".into()).spawn(move || purge.run(every, &ended))?;
    let (options, topology, start_from) = (plan.options.clone(), Arc::clone(&plan.topology), plan.rules.start_from);
    // Of two aliases of one topic, which are refused at load, there would be no lag.
    let consumed =
        move || topology.with(board.newest().1.routing.consumed(), []).unwrap_or_else(|_| (*topology).clone());
    let (lag, ended) = (std::thread::Builder::new().name("lag".into()), stop.clone());
    let lag = lag.spawn(move || report_lag(&committed, &options, consumed, start_from, &ended))?;
    tracing::info!(
        app = %settings.app,
        instance = %instance.id,
        workers,
        "running on {} after {} ms",
        settings.bootstrap_servers,
        started.elapsed().as_millis()
    );
    let (result, kept) = (host.join(), keeper.join());
    // Err: it panicked, which ends nothing else.
    let _ = (purge.join(), lag.join());
    result?;
    anyhow::ensure!(
        kept.is_ok(),
        "the thread that keeps the releases panicked; what was committed is safe: start again"
    );
    tracing::info!("stopped");
    Ok(())
}

fn announce_base(base: Option<&Artifact>) {
    match base {
        Some(artifact) => {
            let Manifest { name, version, .. } = artifact.manifest();
            tracing::info!(digest = %artifact.digest().short(), "plugin: {name} {version}, for tenants without a route");
        }
        None => tracing::info!("no plugin is set: what tenants run is deployed (`switchboard deploy`)"),
    }
}

/// What stays the same in this host's status.
fn status(instance: &ProcessInstance) -> HostStatus {
    HostStatus {
        instance: instance.id.clone(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        started: Timestamp::of_system_time(SystemTime::now()),
        ..HostStatus::default()
    }
}

pub(super) fn loader(settings: &Settings, options: &ClientOptions, topology: &Topology) -> anyhow::Result<Loader> {
    let mut sandbox = sandbox(settings)?;
    if let Some(directory) = &settings.state_dir {
        sandbox = sandbox.with_cache(&directory.join("code"));
    }
    Ok(Loader {
        sandbox: Arc::new(sandbox),
        trusted: TrustedKeys::read(&settings.trusted_keys)?,
        topology: topology.clone(),
        lookups: settings.lookups.keys().cloned().collect(),
        artifacts: ArtifactReader::new(options, &topology.control).context("making a Kafka client")?,
    })
}

pub(super) fn client_options(settings: &Settings, instance: &str) -> ClientOptions {
    let group_protocol = settings.group_protocol;
    ClientOptions {
        bootstrap_servers: settings.bootstrap_servers.clone(),
        app: settings.app.clone(),
        instance: instance.to_owned(),
        // Under KIP-848 a killed static member's successor is refused until the session time-out
        // (UNRELEASED_INSTANCE_ID), which is worse than none.
        static_members: settings.instance.is_some() && group_protocol == GroupProtocol::Classic,
        group_protocol,
        session_timeout_ms: settings.session_timeout_ms,
        properties: settings.kafka.clone(),
    }
}

/// An instance takes four of the 65,530 memory mappings that Linux allows a process by default.
const MOST_INSTANCES: usize = 12_000;

pub(super) fn sandbox(settings: &Settings) -> anyhow::Result<Sandbox> {
    let limits = Limits {
        fuel: settings.fuel,
        cpu_time: Duration::from_millis(settings.cpu_time_ms),
        migration_fuel: settings.migration_fuel,
        migration_cpu_time: Duration::from_millis(settings.migration_cpu_time_ms),
        memory: settings.memory_bytes,
        warm_instances: settings.warm_instances.min(MOST_INSTANCES / workers(settings)).max(1),
        warm_memory: settings.warm_memory_bytes,
        log_lines: settings.log_lines,
        artifact: settings.max_artifact_bytes,
        state: settings.state_limits(),
        ..Limits::default()
    };
    let sandbox = Sandbox::new(limits)?;
    Ok(match &settings.allow_topics {
        Some(aliases) => sandbox.with_allowed_topics(aliases.clone()),
        None => sandbox,
    })
}

pub(super) fn rules(settings: &Settings) -> WorkerConfig {
    WorkerConfig {
        app: settings.app.clone(),
        shards: settings.shards,
        tenants: TenantSchema::new(settings.tenant_headers.clone()),
        outputs: OutputRules { carry_headers: settings.carry_headers.clone(), limits: settings.output_limits() },
        state: settings.state_limits(),
        lookups_a_message: settings.max_lookups,
        lookup_time: Duration::from_millis(settings.lookup_time_ms),
        batch: settings.batch(),
        start_from: settings.start_from(),
    }
}

pub(super) fn topology(settings: &Settings) -> Topology {
    let variable = |name: &str| std::env::var(name).ok();
    Topology::new(&settings.app, settings.topics.clone(), variable, settings.shards)
}

/// Aliases as the worker has them.
pub(super) fn aliases(list: &[String]) -> Vec<Arc<str>> {
    list.iter().map(|alias| Arc::from(alias.as_str())).collect()
}

fn lookups(settings: &Settings, tenants: &TenantSchema) -> anyhow::Result<HttpLookups> {
    let mut sources = Vec::new();
    for (name, options) in &settings.lookups {
        match Source::new(name, options.clone(), |variable| std::env::var(variable).ok())? {
            Some(source) => {
                tracing::info!("lookup source {name}: {}", source.template());
                sources.push(source);
            }
            None => tracing::info!("lookup source {name}: no variable holds its base URL"),
        }
    }
    Ok(HttpLookups::new(sources, settings.lookup_cache_bytes, tenants))
}

fn workers(settings: &Settings) -> usize {
    match settings.workers {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        workers => workers,
    }
}
