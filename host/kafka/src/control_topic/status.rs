//! Writes the status of a host to the control topic.

use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use switchboard_core::registry::{ControlRecord, HostStatus, Key};

use crate::clients::ClientOptions;
use crate::clients::context::{FailedDelivery, ProducerEvents};
use crate::sys;

/// Writes a host's status: a record of its own, which depends on nothing in the topic. So it is written without a transaction, and
/// fences no other writer.
pub struct StatusWriter {
    producer: BaseProducer<ProducerEvents>,
    topic: String,
}

impl StatusWriter {
    /// A writer to this control topic.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topic: &str) -> KafkaResult<Self> {
        let config = options.status_producer();
        let producer = BaseProducer::from_config_and_context(&config, ProducerEvents::new(&config))?;
        Ok(Self { producer, topic: topic.to_owned() })
    }

    /// Queues a status; `None`: the host stops. librdkafka sends it in the background and gives up after 10 s.
    ///
    /// # Errors
    /// When librdkafka does not take it. The next status may succeed.
    pub fn write(&self, instance: &str, status: Option<&HostStatus>) -> KafkaResult<()> {
        self.poll();
        let key = Key::Host(instance.to_owned());
        let ControlRecord { key, value } = match status {
            Some(status) => ControlRecord::json(key, status),
            None => ControlRecord::tombstone(key),
        };
        let key = key.to_string();
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic).partition(0).key(key.as_bytes());
        record.payload = value.as_deref();
        self.producer.send(record).map_err(|(error, _)| error)
    }

    /// Logs statuses that were not written. Call it regularly.
    pub fn poll(&self) {
        self.producer.poll(Duration::ZERO);
        if let Some(FailedDelivery { error, topic }) = self.producer.context().take_failed(true) {
            tracing::warn!(%topic, %error, "this host's status was not written");
        }
    }

    /// Waits for at most `wait` until everything is written.
    ///
    /// # Errors
    /// When the time is over.
    pub fn flush(&self, wait: Duration) -> KafkaResult<()> {
        let deadline = Instant::now() + wait;
        while !sys::flush(&self.producer, Duration::from_millis(5)) {
            self.poll();
            if Instant::now() >= deadline {
                return Err(KafkaError::Flush(Code::OperationTimedOut));
            }
        }
        self.poll();
        Ok(())
    }
}
