//! The members of a host: one thread each, and a pool of threads for plugins that all of them share. They run until the process
//! shuts down or one of them fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use switchboard_checkpoint::{CheckpointOwner, Checkpoints};
use switchboard_core::worker::{FatalError, Lookups, Next, Observer, Plugins, Runner, Worker, WorkerConfig};
use switchboard_kafka::{
    ChangelogTail, ClientOptions, KafkaBroker, SharedClients, Shutdown, SourceTopics, Topology, Watermarks,
};
use uuid::Uuid;

use crate::executors::{ExecutorPool, MemberExecutors};

/// What all members of a host share.
pub(crate) struct HostSetup<L> {
    pub(crate) config: WorkerConfig,
    pub(crate) options: ClientOptions,
    pub(crate) topology: Arc<Topology>,
    pub(crate) lookups: L,
    /// How many members of the group the host has.
    pub(crate) members: usize,
    /// How many threads run plugins.
    pub(crate) threads: usize,
    /// The directory for checkpoints. `None`: no checkpoints.
    pub(crate) state_dir: Option<PathBuf>,
}

/// Running members.
pub(crate) struct Host<R> {
    members: Vec<JoinHandle<Result<(), FatalError>>>,
    /// Ends after the members.
    executors: ExecutorPool<R>,
    /// Ends after the members.
    checkpointer: Option<JoinHandle<()>>,
}

impl<R: Runner + Send + 'static> Host<R> {
    /// Starts the members. Each gets its own plugins and observer. They end with `stop`; a member or an executor that fails
    /// stops the host.
    ///
    /// # Errors
    /// When a Kafka client cannot be created, or a thread cannot be started.
    pub(crate) fn start<P, L, O>(
        setup: &HostSetup<L>,
        plugins: impl Fn() -> P,
        observer: impl Fn() -> O,
        stop: &Shutdown,
    ) -> anyhow::Result<Self>
    where
        P: Plugins<Runner = R> + Send + 'static,
        L: Lookups + Clone + Send + Sync + 'static,
        O: Observer + Send + 'static,
    {
        let watermarks = Arc::new(Watermarks::new(&setup.options).context("creating a Kafka client")?);
        let source_topics = Arc::new(SourceTopics::start(&setup.options).context("creating a Kafka client")?);
        let executors = ExecutorPool::start(setup.threads, &setup.lookups, stop).context("starting executors")?;
        let (checkpoints, checkpointer) = start_checkpointer(setup, &watermarks)?.unzip();
        let shared = SharedClients { watermarks, source_topics, checkpoints };
        let mut members = Vec::with_capacity(setup.members);
        for (number, broker) in brokers(setup, &shared)?.into_iter().enumerate() {
            let incarnation = Uuid::now_v7().as_u64_pair().1;
            let wake_up = broker.wake_up();
            let own = executors.member(move || wake_up.wake());
            let worker = Worker::new(setup.config.clone(), incarnation, broker, plugins(), own, observer());
            let stop = stop.clone();
            let thread = std::thread::Builder::new().name(format!("member-{number}"));
            members.push(thread.spawn(move || drive(worker, &stop))?);
        }
        Ok(Self { members, executors, checkpointer })
    }

    /// Waits until each member has finished its transaction and left the group.
    ///
    /// # Errors
    /// Why the first of them failed.
    pub(crate) fn join(self) -> anyhow::Result<()> {
        let mut result = Ok(());
        for member in self.members {
            let ended = match member.join() {
                Ok(ended) => ended.map_err(anyhow::Error::from),
                Err(_) => Err(anyhow::anyhow!(
                    "a member panicked; the messages that it had not committed will be processed again"
                )),
            };
            result = result.and(ended);
        }
        result = result.and(self.executors.stop().map_err(anyhow::Error::from));
        if self.checkpointer.is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the checkpointer panicked; the next start restores more state from Kafka");
        }
        result
    }
}

/// Starts the checkpointer, if there is a directory for checkpoints.
fn start_checkpointer<L>(
    setup: &HostSetup<L>,
    watermarks: &Arc<Watermarks>,
) -> anyhow::Result<Option<(Checkpoints, JoinHandle<()>)>> {
    let Some(directory) = &setup.state_dir else { return Ok(None) };
    let ClientOptions { app, instance, .. } = &setup.options;
    let tail = ChangelogTail::new(&setup.options, &setup.topology, Arc::clone(watermarks));
    let tail = tail.context("creating the Kafka client of the checkpointer")?;
    Ok(Some(Checkpoints::start(directory, CheckpointOwner { app, instance }, setup.config.shards, tail)?))
}

/// Creates the clients of all members in parallel: each first asks the brokers for metadata.
fn brokers<L>(setup: &HostSetup<L>, shared: &SharedClients) -> anyhow::Result<Vec<KafkaBroker>> {
    let (options, topology) = (&setup.options, &setup.topology);
    let create = |number, shared| KafkaBroker::new(options.clone(), Arc::clone(topology), shared, number);
    let created: Vec<_> = std::thread::scope(|scope| {
        let create = &create;
        let thread = |number| {
            let shared = shared.clone();
            scope.spawn(move || create(number, shared))
        };
        let threads: Vec<_> = (0..setup.members).map(thread).collect();
        threads.into_iter().map(|thread| thread.join().expect("creating clients does not panic")).collect()
    });
    let created: Result<_, _> = created.into_iter().collect();
    created.context("creating the Kafka clients of a member")
}

/// Runs one member until the process shuts down or the member fails.
fn drive<P: Plugins, O: Observer>(
    mut worker: Worker<KafkaBroker, P, MemberExecutors<P::Runner>, O>,
    stop: &Shutdown,
) -> Result<(), FatalError>
where
    P::Runner: Runner + Send + 'static,
{
    // Also stops the other members if this one panics.
    let _stop_host = stop.on_drop();
    while !stop.is_asked() {
        if let Next::After(pause) = worker.step()? {
            stop.wait(pause);
        }
    }
    Ok(())
}
