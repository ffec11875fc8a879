//! Sends inputs at a steady pace, and sends again until they are acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

/// While there is no room, and until the last ones are acknowledged.
const TURN: Duration = Duration::from_millis(100);
/// How long the last ones may take to be acknowledged, with all brokers there.
const LAST: Duration = Duration::from_mins(1);

/// What is sent.
pub trait Input: Send + 'static {
    fn tenant(&self) -> String;
    /// Of the topic.
    fn partition(&self) -> i32;
    fn value(&self) -> String;
}

/// How fast.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Inputs in one burst ...
    pub burst: usize,
    /// ... each such time.
    pub every: Duration,
}

/// A thread that sends; their ids are counted from 0.
pub struct Generator<I> {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<I>>>,
}

impl<I: Input> Generator<I> {
    /// Starts to send to `topic`.
    pub fn start(
        bootstrap: &str,
        topic: &str,
        inputs: impl Iterator<Item = I> + Send + 'static,
        pace: Pace,
    ) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "1")
            // Never given up.
            .set("message.timeout.ms", "0")
            .set("reconnect.backoff.max.ms", "500")
            .create_with_context(Acknowledged::default())?;
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, asked, topic) = (Arc::clone(&sent), Arc::clone(&stop), topic.to_owned());
        let thread = thread::spawn(move || generate(&producer, &topic, inputs, pace, &counter, &asked));
        Ok(Self { sent, stop, thread })
    }

    /// All ids below this are sent by now or will be in a moment, acknowledged or not; all others later.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Stops, and returns all inputs once they are acknowledged.
    pub fn stop(self) -> Result<Vec<I>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the generator panicked"))?
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

fn generate<I: Input>(
    producer: &BaseProducer<Acknowledged>,
    topic: &str,
    mut source: impl Iterator<Item = I>,
    pace: Pace,
    sent: &AtomicU64,
    stop: &AtomicBool,
) -> Result<Vec<I>> {
    let mut inputs = Vec::new();
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        sent.store((inputs.len() + pace.burst) as u64, Ordering::SeqCst);
        for input in source.by_ref().take(pace.burst) {
            send(producer, topic, &input)?;
            inputs.push(input);
        }
        due += pace.every;
        // It takes all of that time.
        producer.poll(due.saturating_duration_since(Instant::now()));
    }
    let deadline = Instant::now() + LAST;
    while producer.context().count.load(Ordering::Relaxed) < inputs.len() as u64 {
        ensure!(!producer.context().failed.load(Ordering::Relaxed), "an input could not be sent, see above");
        ensure!(Instant::now() < deadline, "inputs are not acknowledged after {LAST:?}");
        producer.poll(TURN);
    }
    Ok(inputs)
}

fn send(producer: &BaseProducer<Acknowledged>, topic: &str, input: &impl Input) -> Result<()> {
    let (tenant, value) = (input.tenant(), input.value());
    loop {
        let record = BaseRecord::to(topic)
            .partition(input.partition())
            .key(&tenant)
            .payload(&value)
            .headers(OwnedHeaders::new().insert(Header { key: "TENANT", value: Some(&tenant) }));
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => producer.poll(TURN),
            Err((error, _)) => return Err(error.into()),
        }
    }
}
