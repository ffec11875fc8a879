//! What librdkafka's clients report outside of answers: log lines, errors, rebalances, failed deliveries.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};
use rdkafka::{ClientConfig, TopicPartitionList};
use switchboard_checkpoint::ThrottledWarn;

use crate::lock::lock;

/// Shared by all clients of the process: they are many, but an outage is one.
static UNREACHABLE: Mutex<ThrottledWarn> = Mutex::new(ThrottledWarn::every(ThrottledWarn::DEFAULT_INTERVAL));

fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    // librdkafka logs every connection that it lost and opened again. `UNREACHABLE` reports an outage that lasts.
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", "{facility}: {text}");
        }
        _ => tracing::debug!(target: "librdkafka", "{facility}: {text}"),
    }
}

/// Logs the errors of a client as a whole.
#[derive(Debug, Default)]
pub(crate) struct PlainContext {
    trouble: Mutex<ThrottledWarn>,
    servers: String,
}

impl PlainContext {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Self { trouble: Mutex::default(), servers: config.get("bootstrap.servers").unwrap_or_default().to_owned() }
    }
}

impl ClientContext for PlainContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown) => {
                lock(&UNREACHABLE).report(&self.servers, || {
                    tracing::warn!(servers = %self.servers, "no broker can be reached; retrying");
                });
                tracing::debug!(target: "librdkafka", "{error}: {reason}");
            }
            // The reader of the records gets these too, and knows more.
            Some(Code::PartitionEOF | Code::UnknownTopicOrPartition) => {}
            // AllBrokersDown follows when one of these matters.
            Some(Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut) => {
                tracing::debug!(target: "librdkafka", "{error}: {reason}");
            }
            _ => {
                lock(&self.trouble).report(format!("{error}: {reason}"), || {
                    tracing::warn!(%error, %reason, "Kafka client error");
                });
            }
        }
    }
}

impl ConsumerContext for PlainContext {}

/// A change of the assignment, in the form in which librdkafka expects the answer.
#[derive(Debug, Clone)]
pub(super) enum Rebalance {
    Assign(Vec<(String, i32)>),
    Revoke { partitions: Vec<(String, i32)>, lost: bool },
}

/// Keeps rebalances until the worker answers them.
///
/// With librdkafka's event interface the group waits until `incremental_assign` or `incremental_unassign` is called, from any place.
/// So the worker commits first, and no callback needs to know about transactions.
pub(super) struct GroupContext {
    plain: PlainContext,
    rebalances: Mutex<VecDeque<Rebalance>>,
    closing: AtomicBool,
    /// A rebalance was answered while the consumer was closing.
    answered: AtomicBool,
    /// The session timed out once.
    timed_out: AtomicBool,
}

impl GroupContext {
    pub(super) fn new(config: &ClientConfig) -> Self {
        Self {
            plain: PlainContext::new(config),
            rebalances: Mutex::default(),
            closing: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
        }
    }

    pub(super) fn next_rebalance(&self) -> Option<Rebalance> {
        lock(&self.rebalances).pop_front()
    }

    /// Whether there is a rebalance for `next_rebalance`.
    pub(super) fn has_rebalance(&self) -> bool {
        !lock(&self.rebalances).is_empty()
    }

    /// Whether the session of this consumer timed out once. A static member then joins again as a new member. librdkafka may repeat
    /// a heartbeat of the previous member, and this heartbeat fences the new one. So a fence does not prove another process.
    pub(super) fn has_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// Announces that the consumer is closed next. From now on rebalances are answered at once: no worker is left to commit.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// A consumer that is closing takes any answer as "all partitions given up", and is gone soon after: in librdkafka's queue the
    /// answer comes after the close. If a rebalance was under way when the close began, librdkafka reports two. The second must
    /// not be answered: librdkafka (2.12) drops calls that arrive while the group ends, and their callers would wait for ever
    /// (`rd_kafka_cgrp_op_serve`).
    fn answer_while_closing(&self, consumer: &BaseConsumer<Self>) {
        if self.answered.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Err(error) = consumer.incremental_unassign(&TopicPartitionList::new()) {
            tracing::debug!(%error, "answering a rebalance while closing");
        }
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        if facility == "SESSTMOUT" {
            self.timed_out.store(true, Ordering::Relaxed);
        }
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.plain.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Relaxed) {
            return self.answer_while_closing(consumer);
        }
        let partitions: Vec<_> = list.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect();
        let rebalance = if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            Rebalance::Assign(partitions)
        } else {
            Rebalance::Revoke { partitions, lost: consumer.assignment_lost() }
        };
        lock(&self.rebalances).push_back(rebalance);
    }
}

/// A record that was not delivered.
#[derive(Debug, Clone)]
pub(crate) struct FailedDelivery {
    pub(crate) error: KafkaError,
    pub(crate) topic: String,
}

impl FailedDelivery {
    /// librdkafka removed the record from its queue before it was sent.
    fn is_purged(&self) -> bool {
        matches!(self.error.rdkafka_error_code(), Some(Code::PurgeQueue | Code::PurgeInflight))
    }
}

/// What a producer reports outside of the results of calls.
pub(crate) struct ProducerEvents {
    plain: PlainContext,
    suspect: AtomicBool,
    /// The first failed delivery since the transaction began.
    failed: Mutex<Option<FailedDelivery>>,
}

impl ProducerEvents {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        Self { plain: PlainContext::new(config), suspect: AtomicBool::new(false), failed: Mutex::default() }
    }

    /// Whether a connection was lost or a request timed out.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Why the open transaction has to be aborted. Set `all` when all delivery reports have arrived.
    ///
    /// Before that, a purged record is no reason: librdkafka purges what is queued as soon as another record has failed. The report
    /// of that record arrives too, and says more.
    pub(crate) fn take_failed(&self, all: bool) -> Option<FailedDelivery> {
        lock(&self.failed).take_if(|failed| all || !failed.is_purged())
    }
}

impl ClientContext for ProducerEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // FAIL: a connection was lost. REQTMOUT: a request was given up. librdkafka retries internally and reports it nowhere else.
        if matches!(facility, "FAIL" | "REQTMOUT") {
            self.suspect.store(true, Ordering::Relaxed);
        }
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.plain.error(error, reason);
    }
}

impl ProducerContext for ProducerEvents {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let failed = FailedDelivery { error: error.clone(), topic: message.topic().to_owned() };
            let mut first = lock(&self.failed);
            if first.as_ref().is_none_or(|first| first.is_purged() && !failed.is_purged()) {
                *first = Some(failed);
            }
        }
    }
}
