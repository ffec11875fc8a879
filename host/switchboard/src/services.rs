//! The background threads of a host besides its members and executors.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use switchboard_core::worker::StartFrom;
use switchboard_kafka::{ClientOptions, CommittedOffsets, Purge, Shutdown, Topology, report_lag};
use switchboard_releases::ReleaseController;
use switchboard_sandbox::RoutingWatch;

/// The background threads of a host. Dropping the value stops the host and waits for the threads.
pub(crate) struct Services {
    stop: Shutdown,
    threads: Vec<JoinHandle<()>>,
}

/// The name of the release controller's thread.
const CONTROLLER_THREAD: &str = "releases";

/// What a thread needs to log the application's lag.
pub(crate) struct LagReport {
    pub(crate) committed: CommittedOffsets,
    pub(crate) options: ClientOptions,
    pub(crate) topology: Arc<Topology>,
    pub(crate) routing: RoutingWatch,
    pub(crate) start_from: StartFrom,
}

impl Services {
    /// Services of a host that stops with `stop`. No thread runs yet.
    pub(crate) fn new(stop: &Shutdown) -> Self {
        Self { stop: stop.clone(), threads: Vec::new() }
    }

    /// Runs the release controller. The host stops when it ends: without it no host would apply another route.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn control_releases(&mut self, controller: ReleaseController) -> std::io::Result<()> {
        self.spawn(CONTROLLER_THREAD, move |stop| {
            let _stop_host = stop.on_drop();
            controller.run(stop);
        })
    }

    /// Deletes processed records from the repartition topic.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn purge(&mut self, purge: Purge, interval: Duration) -> std::io::Result<()> {
        self.spawn("purge", move |stop| purge.run(interval, stop))
    }

    /// Logs the application's lag.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn report_lag(&mut self, report: LagReport) -> std::io::Result<()> {
        let LagReport { committed, options, topology, routing, start_from } = report;
        self.spawn("lag", move |stop| {
            // Err: two aliases name one topic. Such releases are refused when they are loaded.
            let consumed =
                || topology.with(routing.newest().routing.consumed(), []).unwrap_or_else(|_| (*topology).clone());
            report_lag(&committed, &options, consumed, start_from, stop);
        })
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce(&Shutdown) + Send + 'static) -> std::io::Result<()> {
        let stop = self.stop.clone();
        self.threads.push(std::thread::Builder::new().name(name.into()).spawn(move || run(&stop))?);
        Ok(())
    }

    /// Waits for all threads, after the host has stopped.
    ///
    /// # Errors
    /// When the release controller panicked. A panic of another thread stops nothing.
    pub(crate) fn join(mut self) -> anyhow::Result<()> {
        let mut has_controller_panicked = false;
        for thread in self.threads.drain(..) {
            let is_controller = thread.thread().name() == Some(CONTROLLER_THREAD);
            has_controller_panicked |= thread.join().is_err() && is_controller;
        }
        anyhow::ensure!(
            !has_controller_panicked,
            "the host stopped because the release controller panicked. All committed results are safe: start the host again"
        );
        Ok(())
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.stop.ask();
        for thread in self.threads.drain(..) {
            // Err: the thread panicked, and its panic has been printed.
            let _ = thread.join();
        }
    }
}
