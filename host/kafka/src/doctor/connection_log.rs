//! A client context that keeps why a connection failed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{DeliveryResult, ProducerContext};

use crate::lock::lock;

/// Keeps why a connection last failed. librdkafka writes that only to its log; its answers say that time ran out.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionLog(Arc<Mutex<Option<String>>>);

/// One poll for log lines.
pub(super) const LOG_POLL: Duration = Duration::from_millis(100);
/// How many polls may bring no log line before the reason is given up.
const MAX_LOG_POLLS: usize = 10;

impl ConnectionLog {
    /// Polls until a log line says why a connection failed, or none arrives. Log lines arrive only by polling.
    pub(super) fn wait_for_reason(&self, mut poll: impl FnMut()) {
        for _ in 0..MAX_LOG_POLLS {
            if lock(&self.0).is_some() {
                return;
            }
            poll();
        }
    }

    /// The error, with the reason from the log if there is one.
    pub(super) fn explain(&self, error: &KafkaError) -> String {
        match &*lock(&self.0) {
            Some(reason) => format!("{error}: {reason}"),
            None => error.to_string(),
        }
    }
}

impl ClientContext for ConnectionLog {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(target: "librdkafka", "{facility}: {text}");
        if facility == "FAIL" {
            // The prefix `[thrd:…]: ` does not help people.
            let text = text.split_once("]: ").map_or(text, |(_, text)| text);
            *lock(&self.0) = Some(text.to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ConsumerContext for ConnectionLog {}

impl ProducerContext for ConnectionLog {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
