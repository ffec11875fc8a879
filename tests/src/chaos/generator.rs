//! Sends the mix at a steady pace, past all proxies, and sends again until it is acknowledged.

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

use super::mix::{Input, Mix};

/// Inputs are sent in bursts, one each such time.
const TURN: Duration = Duration::from_millis(100);
/// How long the last ones may take to be acknowledged, with all brokers there.
const LAST: Duration = Duration::from_mins(1);

/// A thread that sends.
pub(super) struct Generator {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Input>>>,
}

impl Generator {
    /// Starts to send so many inputs a second to `topic`.
    pub(super) fn start(bootstrap: &str, topic: &str, mix: Mix, rate: usize) -> Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // Never given up.
            .set("message.timeout.ms", "0")
            .set("reconnect.backoff.max.ms", "500")
            .create_with_context(Acknowledged::default())?;
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, asked, topic) = (Arc::clone(&sent), Arc::clone(&stop), topic.to_owned());
        let burst = rate * usize::try_from(TURN.as_millis())? / 1000;
        let thread = thread::spawn(move || generate(&producer, &topic, mix, burst, &counter, &asked));
        Ok(Self { sent, stop, thread })
    }

    /// So many inputs are sent by now, acknowledged or not: all ids below this.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops, and returns all inputs once they are acknowledged.
    pub(super) fn stop(self) -> Result<Vec<Input>> {
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

fn generate(
    producer: &BaseProducer<Acknowledged>,
    topic: &str,
    mut mix: Mix,
    burst: usize,
    sent: &AtomicU64,
    stop: &AtomicBool,
) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for input in mix.by_ref().take(burst) {
            send(producer, topic, &input)?;
            inputs.push(input);
        }
        sent.store(inputs.len() as u64, Ordering::Relaxed);
        // It takes all of that time: the pace.
        producer.poll(TURN);
    }
    let deadline = Instant::now() + LAST;
    while producer.context().count.load(Ordering::Relaxed) < inputs.len() as u64 {
        ensure!(!producer.context().failed.load(Ordering::Relaxed), "an input could not be sent, see above");
        ensure!(Instant::now() < deadline, "inputs are not acknowledged after {LAST:?}");
        producer.poll(TURN);
    }
    Ok(inputs)
}

fn send(producer: &BaseProducer<Acknowledged>, topic: &str, input: &Input) -> Result<()> {
    let value = input.value();
    loop {
        let record = BaseRecord::to(topic)
            .partition(input.partition)
            .key(&input.tenant)
            .payload(&value)
            .headers(OwnedHeaders::new().insert(Header { key: "TENANT", value: Some(&input.tenant) }));
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => producer.poll(TURN),
            Err((error, _)) => return Err(error.into()),
        }
    }
}
