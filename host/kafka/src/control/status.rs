use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use switchboard_core::registry::{ControlRecord, HostStatus, Key};

use super::super::client::ProducerEvents;
use super::super::properties::ClientOptions;
use super::super::sys;

/// Writes a host's status to the control topic: its own record, decided by nothing that is there, so outside of
/// transactions and without fencing whoever is in the middle of one.
pub struct StatusWriter {
    producer: BaseProducer<ProducerEvents>,
    topic: String,
}

impl StatusWriter {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topic: &str) -> KafkaResult<Self> {
        let config = options.status_producer();
        let producer = BaseProducer::from_config_and_context(&config, ProducerEvents::new(&config))?;
        Ok(Self { producer, topic: topic.to_owned() })
    }

    /// Hands a status over; `None`: the host stops. It is on its way when this returns, or given up after a while.
    ///
    /// # Errors
    /// When librdkafka does not take it; the next one may go through.
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

    /// Tells what did not get through; to be called now and then.
    pub fn poll(&self) {
        self.producer.poll(Duration::ZERO);
        if let Some((error, topic)) = self.producer.context().take_failed(true) {
            tracing::warn!("this host's status was not written to {topic}: {error}");
        }
    }

    /// Waits until all is written, for at most `wait`.
    ///
    /// # Errors
    /// When it is not.
    pub fn flush(&self, wait: Duration) -> KafkaResult<()> {
        let deadline = std::time::Instant::now() + wait;
        while !sys::flush(&self.producer, Duration::from_millis(5)) {
            self.poll();
            if std::time::Instant::now() >= deadline {
                return Err(KafkaError::Flush(Code::OperationTimedOut));
            }
        }
        self.poll();
        Ok(())
    }
}
