//! Hosts and brokers under a constant load of inputs. Chaos and the swap soak disturb them.

use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::fleet::Fleet;
use crate::generator::{Generator, Input};
use crate::kafka::Kafka;
use crate::progress::{self, Stall};
use crate::witness::Settled;

/// The time between two checks of all hosts and brokers.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// The number of unsettled inputs that an error names.
const UNSETTLED_NAMED: usize = 5;

/// The hosts and brokers that are disturbed, and the load on them.
pub struct UnderLoad<I> {
    pub fleet: Fleet,
    pub kafka: Kafka,
    pub generator: Generator<I>,
    /// The inputs that a witness has seen settled.
    pub settled: Settled,
}

impl<I: Input> UnderLoad<I> {
    /// Restarts hosts that have ended by themselves. Fails when a broker or the generator has ended, or when an input
    /// has been settled twice.
    pub fn look(&mut self) -> Result<()> {
        self.fleet.supervise()?;
        self.kafka.check()?;
        self.generator.check()?;
        let twice = self.settled.twice();
        ensure!(twice.is_empty(), "{}", twice.join("; "));
        Ok(())
    }

    /// Waits for the duration of a fault. This time neither decides the result nor adds load.
    pub fn pass(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            thread::sleep(left.min(CHECK_INTERVAL));
            self.look()?;
        }
        Ok(())
    }

    /// The number of inputs that are sent and not settled.
    pub fn in_flight(&self) -> u64 {
        // The settled ones first: an input that is sent in between cannot make the difference negative.
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

    /// Waits until this many inputs have been sent in total. A full window delays them until other inputs are settled.
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

    /// Waits until all inputs that have been sent are settled, and returns how long that took.
    pub fn settle(&mut self) -> Result<Duration> {
        let started = Instant::now();
        let sent = self.generator.sent();
        let mut stall = Stall::new(self.settled.unsettled(sent));
        while !self.settled.wait_for(sent, CHECK_INTERVAL) {
            self.look()?;
            stall.check(self.settled.unsettled(sent)).with_context(|| {
                let missing = self.settled.missing(sent);
                let few = &missing[..missing.len().min(UNSETTLED_NAMED)];
                format!("{} of {sent} inputs are not settled: {few:?} ...", missing.len())
            })?;
        }
        Ok(started.elapsed())
    }

    /// Waits until all running hosts have been assigned partitions.
    pub fn wait_for_hosts(&mut self) -> Result<()> {
        progress::wait_until("all hosts to be assigned partitions", || {
            self.look()?;
            self.fleet.all_take_part()
        })
    }

    /// Stops the generator, waits until all its inputs are settled, and returns them.
    pub fn stop(&mut self) -> Result<Vec<I>> {
        let sent = self.generator.stop()?;
        self.settle().context("after the last input")?;
        Ok(sent)
    }

    /// Ends all running hosts (SIGTERM), and waits for their end.
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
