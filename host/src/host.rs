//! The running host: workers on threads, until a stop is asked for or one of them cannot go on.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context as _;
use switchboard_core::worker::{Lookups, Next, Observer, Plugins, Rules, Stop, Worker};

use crate::kafka::{ClientOptions, KafkaBroker, Readers, Topology};
use crate::shutdown::Shutdown;

/// What all workers of a host have in common.
pub struct Plan<L> {
    pub rules: Rules,
    pub options: ClientOptions,
    pub topology: Arc<Topology>,
    pub lookups: L,
    pub workers: usize,
}

/// Workers that run.
pub struct Host {
    workers: Vec<JoinHandle<Result<(), Stop>>>,
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
        let mut workers = Vec::with_capacity(plan.workers);
        for (number, broker) in brokers(plan)?.into_iter().enumerate() {
            let worker = Worker::new(plan.rules.clone(), broker, plugins(), plan.lookups.clone(), observer());
            let stop = stop.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            workers.push(thread.spawn(move || drive(worker, &stop))?);
        }
        Ok(Self { workers })
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
        result
    }
}

/// The clients of all workers, made side by side: each asks the brokers for metadata first.
fn brokers<L>(plan: &Plan<L>) -> anyhow::Result<Vec<KafkaBroker>> {
    let readers = Arc::new(Readers::new(&plan.options).context("making a Kafka client")?);
    let (options, topology) = (&plan.options, &plan.topology);
    let make = |number| KafkaBroker::new(options.clone(), Arc::clone(topology), Arc::clone(&readers), number);
    let made: Vec<_> = std::thread::scope(|scope| {
        let make = &make;
        let threads: Vec<_> = (0..plan.workers).map(|number| scope.spawn(move || make(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("to make clients does not panic")).collect()
    });
    let made: Result<_, _> = made.into_iter().collect();
    made.context("making the Kafka clients of a worker")
}

fn drive<P: Plugins, L: Lookups, O: Observer>(
    mut worker: Worker<KafkaBroker, P, L, O>,
    stop: &Shutdown,
) -> Result<(), Stop> {
    // Also when the worker panics.
    let _ask = AskOnDrop(stop);
    while !stop.is_asked() {
        if let Next::After(pause) = worker.step()? {
            stop.wait(pause);
        }
    }
    Ok(())
}

struct AskOnDrop<'a>(&'a Shutdown);

impl Drop for AskOnDrop<'_> {
    fn drop(&mut self) {
        self.0.ask();
    }
}
