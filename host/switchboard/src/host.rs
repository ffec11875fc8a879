//! The running host: workers on threads, until a stop is asked for or one of them cannot go on.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use switchboard_core::worker::{FatalError, Lookups, Next, Observer, Plugins, Worker, WorkerConfig};

use switchboard_checkpoint::{CheckpointOwner, Checkpoints};
use switchboard_kafka::Shutdown;
use switchboard_kafka::{ChangelogTail, ClientOptions, KafkaBroker, Topology, Watermarks};

/// What all workers of a host have in common.
pub struct Plan<L> {
    pub rules: WorkerConfig,
    pub options: ClientOptions,
    pub topology: Arc<Topology>,
    pub lookups: L,
    pub workers: usize,
    /// Where checkpoints are kept, if they are.
    pub state_dir: Option<PathBuf>,
}

/// Workers that run.
pub struct Host {
    workers: Vec<JoinHandle<Result<(), FatalError>>>,
    /// Ends when the workers have ended.
    checkpointer: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts the workers; each gets plugins and an observer of its own. They end when `stop` is asked for, and ask for
    /// it when one of them cannot go on.
    ///
    /// # Errors
    /// When a Kafka client cannot be made.
    pub fn start<P, L, O>(
        plan: &Plan<L>,
        plugins: impl Fn() -> P,
        observer: impl Fn() -> O,
        stop: &Shutdown,
    ) -> anyhow::Result<Self>
    where
        P: Plugins + Send + 'static,
        L: Lookups + Clone + Send + 'static,
        O: Observer + Send + 'static,
    {
        let readers = Arc::new(Watermarks::new(&plan.options).context("making a Kafka client")?);
        let (checkpoints, checkpointer) = checkpoints(plan, &readers)?.unzip();
        let mut workers = Vec::with_capacity(plan.workers);
        for (number, broker) in brokers(plan, &readers, checkpoints.as_ref())?.into_iter().enumerate() {
            let worker = Worker::new(plan.rules.clone(), broker, plugins(), plan.lookups.clone(), observer());
            let stop = stop.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            workers.push(thread.spawn(move || drive(worker, &stop))?);
        }
        Ok(Self { workers, checkpointer })
    }

    /// Waits for the workers: each has finished its transaction and left the group.
    ///
    /// # Errors
    /// Why the first of them could not go on.
    pub fn join(self) -> anyhow::Result<()> {
        let mut result = Ok(());
        for worker in self.workers {
            let ended = match worker.join() {
                Ok(ended) => ended.map_err(anyhow::Error::from),
                Err(_) => Err(anyhow::anyhow!("a worker panicked; what it had not committed will be processed again")),
            };
            result = result.and(ended);
        }
        if self.checkpointer.is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the checkpointer panicked; checkpoints are older than they could be");
        }
        result
    }
}

/// The checkpointer, where there is a directory for it.
fn checkpoints<L>(plan: &Plan<L>, readers: &Arc<Watermarks>) -> anyhow::Result<Option<(Checkpoints, JoinHandle<()>)>> {
    let Some(directory) = &plan.state_dir else { return Ok(None) };
    let ClientOptions { app, instance, .. } = &plan.options;
    let tail = ChangelogTail::new(&plan.options, &plan.topology, Arc::clone(readers));
    let tail = tail.context("making the Kafka client of checkpoints")?;
    Ok(Some(Checkpoints::start(directory, CheckpointOwner { app, instance }, plan.topology.shard_count, tail)?))
}

/// The clients of all workers, made side by side: each asks the brokers for metadata first.
fn brokers<L>(
    plan: &Plan<L>,
    readers: &Arc<Watermarks>,
    checkpoints: Option<&Checkpoints>,
) -> anyhow::Result<Vec<KafkaBroker>> {
    let (options, topology) = (&plan.options, &plan.topology);
    let make = |number, checkpoints| {
        KafkaBroker::new(options.clone(), Arc::clone(topology), Arc::clone(readers), checkpoints, number)
    };
    let made: Vec<_> = std::thread::scope(|scope| {
        let make = &make;
        let thread = |number| {
            let checkpoints = checkpoints.cloned();
            scope.spawn(move || make(number, checkpoints))
        };
        let threads: Vec<_> = (0..plan.workers).map(thread).collect();
        threads.into_iter().map(|thread| thread.join().expect("to make clients does not panic")).collect()
    });
    let made: Result<_, _> = made.into_iter().collect();
    made.context("making the Kafka clients of a worker")
}

fn drive<P: Plugins, L: Lookups, O: Observer>(
    mut worker: Worker<KafkaBroker, P, L, O>,
    stop: &Shutdown,
) -> Result<(), FatalError> {
    // Also when the worker panics.
    let _ask = stop.on_drop();
    while !stop.is_asked() {
        if let Next::After(pause) = worker.step()? {
            stop.wait(pause);
        }
    }
    Ok(())
}
