use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{DeliveryResult, ProducerContext};

/// Keeps why a connection failed last, which librdkafka tells its log alone: its answers say that time ran out.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<Mutex<Option<String>>>);

/// One look at what a client has to tell.
pub(super) const LISTEN: Duration = Duration::from_millis(100);

impl Heard {
    /// Logs come by polling alone: polls until one says why a connection failed, or none comes.
    pub(super) fn listen(&self, mut poll: impl FnMut()) {
        for _ in 0..10 {
            if self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                return;
            }
            poll();
        }
    }

    /// `error`, and what was heard meanwhile.
    pub(super) fn explain(&self, error: &KafkaError) -> String {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => format!("{error}: {why}"),
            None => error.to_string(),
        }
    }
}

impl ClientContext for Heard {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(target: "librdkafka", "{facility}: {text}");
        if facility == "FAIL" {
            // «[thrd:…]: » is of no use to people.
            let text = text.split_once("]: ").map_or(text, |(_, text)| text);
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ConsumerContext for Heard {}

impl ProducerContext for Heard {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
