//! The workers of a host: one thread each, until the process shuts down or a worker fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use switchboard_checkpoint::{CheckpointOwner, Checkpoints};
use switchboard_core::worker::{FatalError, Lookups, Next, Observer, Plugins, Worker, WorkerConfig};
use switchboard_kafka::{
    ChangelogTail, ClientOptions, KafkaBroker, SharedClients, Shutdown, SourceTopics, Topology, Watermarks,
};
use uuid::Uuid;

/// What all workers of a host share.
pub(crate) struct WorkerSetup<L> {
    pub(crate) config: WorkerConfig,
    pub(crate) options: ClientOptions,
    pub(crate) topology: Arc<Topology>,
    pub(crate) lookups: L,
    pub(crate) worker_count: usize,
    /// The directory for checkpoints. `None`: no checkpoints.
    pub(crate) state_dir: Option<PathBuf>,
}

/// Running workers.
pub(crate) struct Host {
    workers: Vec<JoinHandle<Result<(), FatalError>>>,
    /// Ends after the workers.
    checkpointer: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts the workers. Each gets its own plugins and observer. They end with `stop`; a worker that fails stops the
    /// others.
    ///
    /// # Errors
    /// When a Kafka client cannot be created.
    pub(crate) fn start<P, L, O>(
        setup: &WorkerSetup<L>,
        plugins: impl Fn() -> P,
        observer: impl Fn() -> O,
        stop: &Shutdown,
    ) -> anyhow::Result<Self>
    where
        P: Plugins + Send + 'static,
        L: Lookups + Clone + Send + 'static,
        O: Observer + Send + 'static,
    {
        let watermarks = Arc::new(Watermarks::new(&setup.options).context("creating a Kafka client")?);
        let source_topics = Arc::new(SourceTopics::start(&setup.options).context("creating a Kafka client")?);
        let (checkpoints, checkpointer) = start_checkpointer(setup, &watermarks)?.unzip();
        let shared = SharedClients { watermarks, source_topics, checkpoints };
        let mut workers = Vec::with_capacity(setup.worker_count);
        for (number, broker) in brokers(setup, &shared)?.into_iter().enumerate() {
            let incarnation = Uuid::now_v7().as_u64_pair().1;
            let worker =
                Worker::new(setup.config.clone(), incarnation, broker, plugins(), setup.lookups.clone(), observer());
            let stop = stop.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            workers.push(thread.spawn(move || drive(worker, &stop))?);
        }
        Ok(Self { workers, checkpointer })
    }

    /// Waits until each worker has finished its transaction and left the group.
    ///
    /// # Errors
    /// Why the first worker failed.
    pub(crate) fn join(self) -> anyhow::Result<()> {
        let mut result = Ok(());
        for worker in self.workers {
            let ended = match worker.join() {
                Ok(ended) => ended.map_err(anyhow::Error::from),
                Err(_) => Err(anyhow::anyhow!(
                    "a worker panicked; the messages that it had not committed will be processed again"
                )),
            };
            result = result.and(ended);
        }
        if self.checkpointer.is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the checkpointer panicked; the next start restores more state from Kafka");
        }
        result
    }
}

/// Starts the checkpointer, if there is a directory for checkpoints.
fn start_checkpointer<L>(
    setup: &WorkerSetup<L>,
    watermarks: &Arc<Watermarks>,
) -> anyhow::Result<Option<(Checkpoints, JoinHandle<()>)>> {
    let Some(directory) = &setup.state_dir else { return Ok(None) };
    let ClientOptions { app, instance, .. } = &setup.options;
    let tail = ChangelogTail::new(&setup.options, &setup.topology, Arc::clone(watermarks));
    let tail = tail.context("creating the Kafka client of the checkpointer")?;
    Ok(Some(Checkpoints::start(directory, CheckpointOwner { app, instance }, setup.config.shards, tail)?))
}

/// Creates the clients of all workers in parallel: each first asks the brokers for metadata.
fn brokers<L>(setup: &WorkerSetup<L>, shared: &SharedClients) -> anyhow::Result<Vec<KafkaBroker>> {
    let (options, topology) = (&setup.options, &setup.topology);
    let create = |number, shared| KafkaBroker::new(options.clone(), Arc::clone(topology), shared, number);
    let created: Vec<_> = std::thread::scope(|scope| {
        let create = &create;
        let thread = |number| {
            let shared = shared.clone();
            scope.spawn(move || create(number, shared))
        };
        let threads: Vec<_> = (0..setup.worker_count).map(thread).collect();
        threads.into_iter().map(|thread| thread.join().expect("creating clients does not panic")).collect()
    });
    let created: Result<_, _> = created.into_iter().collect();
    created.context("creating the Kafka clients of a worker")
}

/// Runs one worker until the process shuts down or the worker fails.
fn drive<P: Plugins, L: Lookups, O: Observer>(
    mut worker: Worker<KafkaBroker, P, L, O>,
    stop: &Shutdown,
) -> Result<(), FatalError> {
    // Also stops the other workers if this one panics.
    let _stop_host = stop.on_drop();
    while !stop.is_asked() {
        if let Next::After(pause) = worker.step()? {
            stop.wait(pause);
        }
    }
    Ok(())
}
