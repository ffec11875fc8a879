//! Sends inputs and repeats each until the broker acknowledges it, at a steady pace or as fast as the host settles
//! them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use crate::progress::Stall;
use crate::witness::Settled;

/// One poll while the producer's queue is full, and while the last inputs are not acknowledged.
const QUEUE_POLL: Duration = Duration::from_millis(100);
/// One poll while the window is full.
const WINDOW_POLL: Duration = Duration::from_millis(5);

/// An input that a generator sends.
pub trait Input: Send + 'static {
    fn tenant(&self) -> String;
    /// The partition of the topic.
    fn partition(&self) -> i32;
    fn value(&self) -> String;
}

/// The rate of inputs. With a [`Window`] it is an upper bound.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Inputs in one burst ...
    pub burst: usize,
    /// ... and the time between two bursts.
    pub every: Duration,
}

/// Closes the loop: the sender follows the number of settled inputs, so a slow machine gets fewer inputs.
#[derive(Clone)]
pub struct Window {
    pub settled: Settled,
    /// The maximum number of inputs that are sent and not settled.
    pub in_flight: u64,
}

impl Window {
    /// Whether `count` further inputs fit when `sent` are sent already.
    fn fits(&self, sent: u64, count: u64) -> bool {
        sent + count <= self.settled.count() + self.in_flight
    }
}

/// A thread that sends inputs. Their ids count from 0.
pub struct Generator<I> {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// `None` once the generator was stopped.
    thread: Option<JoinHandle<Result<Vec<I>>>>,
}

impl<I: Input> Generator<I> {
    /// Starts to send to `topic` at this pace, whether the inputs are settled or not. For measurements.
    pub fn start(
        bootstrap: &str,
        topic: &str,
        inputs: impl Iterator<Item = I> + Send + 'static,
        pace: Pace,
    ) -> Result<Self> {
        Self::start_with(bootstrap, topic, inputs, pace, None)
    }

    /// Starts to send to `topic` at most at this pace, and never more than fits into the window.
    pub fn start_closed(
        bootstrap: &str,
        topic: &str,
        inputs: impl Iterator<Item = I> + Send + 'static,
        pace: Pace,
        window: Window,
    ) -> Result<Self> {
        Self::start_with(bootstrap, topic, inputs, pace, Some(window))
    }

    fn start_with(
        bootstrap: &str,
        topic: &str,
        inputs: impl Iterator<Item = I> + Send + 'static,
        pace: Pace,
        window: Option<Window>,
    ) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "1")
            // No time-out: an input is repeated until it is acknowledged.
            .set("message.timeout.ms", "0")
            .set("reconnect.backoff.max.ms", "500")
            .create_with_context(Acknowledged::default())?;
        let sent = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let sender = Sender { inputs, pace, window };
        let thread = thread::spawn({
            let sent = Arc::clone(&sent);
            let stop = Arc::clone(&stop);
            let topic = topic.to_owned();
            move || sender.send_all(&producer, &topic, &sent, &stop)
        });
        let thread = Some(thread);
        Ok(Self { sent, stop, thread })
    }

    /// All ids below this are sent or about to be sent, acknowledged or not. All other ids are sent later.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Fails when the generator has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.stop()?;
            return Err(anyhow!("the generator has ended by itself"));
        }
        Ok(())
    }

    /// Stops the generator, and returns all inputs once they are acknowledged.
    pub fn stop(&mut self) -> Result<Vec<I>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the generator was stopped before")?;
        thread.join().map_err(|_| anyhow!("the generator panicked"))?
    }
}

#[derive(Default)]
struct Acknowledged {
    count: AtomicU64,
    failed: AtomicBool,
}

impl ClientContext for Acknowledged {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            eprintln!("generator: {error}: {reason}");
            self.failed.store(true, Ordering::Relaxed);
        }
    }
}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => drop(self.count.fetch_add(1, Ordering::Relaxed)),
            Err((error, _)) => {
                eprintln!("generator: {error}");
                self.failed.store(true, Ordering::Relaxed);
            }
        }
    }
}

struct Sender<S> {
    inputs: S,
    pace: Pace,
    window: Option<Window>,
}

impl<I: Input, S: Iterator<Item = I>> Sender<S> {
    /// Sends until the generator is stopped, and returns all inputs once they are acknowledged.
    fn send_all(
        mut self,
        producer: &BaseProducer<Acknowledged>,
        topic: &str,
        sent: &AtomicU64,
        stop: &AtomicBool,
    ) -> Result<Vec<I>> {
        let Pace { burst, every } = self.pace;
        let mut inputs = Vec::new();
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            ensure!(!producer.context().failed.load(Ordering::Relaxed), "an input could not be sent, see above");
            if let Some(window) = &self.window
                && !window.fits(inputs.len() as u64, burst as u64)
            {
                producer.poll(WINDOW_POLL);
                // The pace is an upper bound: the generator does not catch up after a full window.
                due = Instant::now();
                continue;
            }
            sent.store((inputs.len() + burst) as u64, Ordering::SeqCst);
            for input in self.inputs.by_ref().take(burst) {
                send(producer, topic, &input)?;
                inputs.push(input);
            }
            due += every;
            // librdkafka blocks for the whole time-out.
            producer.poll(due.saturating_duration_since(Instant::now()));
        }
        let acknowledged = || producer.context().count.load(Ordering::Relaxed);
        let mut stall = Stall::new(acknowledged());
        while acknowledged() < inputs.len() as u64 {
            ensure!(!producer.context().failed.load(Ordering::Relaxed), "an input could not be sent, see above");
            stall.check(acknowledged()).context("the last inputs are not acknowledged")?;
            producer.poll(QUEUE_POLL);
        }
        Ok(inputs)
    }
}

fn send(producer: &BaseProducer<Acknowledged>, topic: &str, input: &impl Input) -> Result<()> {
    let tenant = input.tenant();
    let value = input.value();
    loop {
        let record = BaseRecord::to(topic)
            .partition(input.partition())
            .key(&tenant)
            .payload(&value)
            .headers(OwnedHeaders::new().insert(Header { key: "TENANT", value: Some(&tenant) }));
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => producer.poll(QUEUE_POLL),
            Err((error, _)) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_full_until_something_is_settled() {
        let window = Window { settled: Settled::default(), in_flight: 30 };
        assert!(window.fits(10, 20));
        assert!(!window.fits(11, 20));
        window.settled.settle(7);
        assert!(window.fits(11, 20));
        assert!(!window.fits(12, 20));
    }
}
