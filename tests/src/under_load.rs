//! Hosts and brokers under load: inputs come in at all times and are settled. Chaos and the swap soak disturb them.

use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::fleet::Fleet;
use crate::generator::{Generator, Input};
use crate::kafka::Kafka;
use crate::progress::{self, Stall};
use crate::witness::Settled;

/// Between two looks at whether all hosts and brokers live.
const LOOK: Duration = Duration::from_millis(50);
/// Unsettled inputs that an error names.
const NAMED: usize = 5;

/// What is disturbed, and the load on it.
pub struct UnderLoad<I> {
    pub fleet: Fleet,
    pub kafka: Kafka,
    pub generator: Generator<I>,
    /// What is settled, as a witness sees it.
    pub settled: Settled,
}

impl<I: Input> UnderLoad<I> {
    /// Restarts hosts that have ended by themselves. Fails when a broker or the generator has ended, or when an input was
    /// settled twice.
    pub fn look(&mut self) -> Result<()> {
        self.fleet.supervise()?;
        self.kafka.check()?;
        self.generator.check()?;
        let twice = self.settled.twice();
        ensure!(twice.is_empty(), "{}", twice.join("; "));
        Ok(())
    }

    /// Lets time pass: for how long a fault lasts. The time is no verdict and makes no load.
    pub fn pass(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::sleep(left.min(LOOK));
            self.look()?;
        }
        Ok(())
    }

    /// Inputs that are sent and not settled.
    pub fn in_flight(&self) -> u64 {
        // In this order: what is sent in between does not make it negative.
        let settled = self.settled.count();
        self.generator.sent().saturating_sub(settled)
    }

    /// Waits until at least this many inputs are in flight.
    pub fn wait_for_in_flight(&mut self, count: u64) -> Result<()> {
        let what = format!("{count} inputs in flight");
        progress::wait_for(&what, || {
            self.look()?;
            Ok(done_or(self.in_flight() >= count, self.generator.sent()))
        })
    }

    /// Waits until this many inputs are sent in all. They may be too many for the generator's window only if as many are
    /// settled meanwhile.
    pub fn wait_for_sent(&mut self, count: u64) -> Result<()> {
        progress::wait_for(&format!("{count} inputs to be sent"), || {
            self.look()?;
            let sent = self.generator.sent();
            Ok(done_or(sent >= count, sent))
        })
    }

    /// Waits until this many further inputs are settled.
    pub fn settle_more(&mut self, count: u64) -> Result<()> {
        let until = self.settled.count() + count;
        progress::wait_for(&format!("{until} inputs to be settled"), || {
            self.look()?;
            let settled = self.settled.count();
            Ok(done_or(settled >= until, settled))
        })
    }

    /// Waits until all that was sent up to now is settled, and returns how long that took.
    pub fn settle(&mut self) -> Result<Duration> {
        let (started, sent) = (Instant::now(), self.generator.sent());
        let mut stall = Stall::new(self.settled.unsettled(sent));
        while !self.settled.wait_for(sent, LOOK) {
            self.look()?;
            stall.check(self.settled.unsettled(sent)).with_context(|| {
                let missing = self.settled.missing(sent);
                let few = &missing[..missing.len().min(NAMED)];
                format!("{} of {sent} inputs are not settled: {few:?} ...", missing.len())
            })?;
        }
        Ok(started.elapsed())
    }

    /// Waits until all hosts that run take part again.
    pub fn wait_for_hosts(&mut self) -> Result<()> {
        progress::wait_until("all hosts to be assigned partitions", || {
            self.look()?;
            self.fleet.all_take_part()
        })
    }

    /// Stops the generator, and waits until all that it has sent is settled. Returns what it has sent.
    pub fn stop(&mut self) -> Result<Vec<I>> {
        let sent = self.generator.stop()?;
        self.settle().context("after the last input")?;
        Ok(sent)
    }

    /// Ends all hosts that run (SIGTERM), and waits for that.
    pub fn end_hosts(&mut self) -> Result<()> {
        for host in 0..self.fleet.len() {
            self.fleet.terminate(host);
        }
        (0..self.fleet.len()).try_for_each(|host| self.fleet.wait(host))
    }
}

fn done_or<P>(done: bool, progress: P) -> ControlFlow<(), P> {
    if done { ControlFlow::Break(()) } else { ControlFlow::Continue(progress) }
}
