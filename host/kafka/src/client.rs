//! What librdkafka's clients tell beside their answers: logs, errors, rebalances, failed deliveries.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};
use rdkafka::{ClientConfig, TopicPartitionList};

/// How often the same trouble is told.
const EVERY: Duration = Duration::from_secs(5);

/// Says a thing at once, and then every few seconds for as long as it lasts.
#[derive(Debug, Default)]
pub(super) struct ThrottledWarn {
    last: Option<(Instant, String)>,
}

impl ThrottledWarn {
    pub(super) fn warn(&mut self, text: String) {
        let due = self.last.as_ref().is_none_or(|(at, last)| at.elapsed() >= EVERY || *last != text);
        if due {
            tracing::warn!("{text}");
            self.last = Some((Instant::now(), text));
        }
    }
}

/// For all clients of the process: they are many, and an outage is one.
static UNREACHABLE: Mutex<ThrottledWarn> = Mutex::new(ThrottledWarn { last: None });

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    // librdkafka tells of every connection that it lost and made again; who is unreachable for long is told by `ThrottledWarn`.
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", "{facility}: {text}");
        }
        _ => tracing::debug!(target: "librdkafka", "{facility}: {text}"),
    }
}

/// Errors of a client as a whole, told with what to do.
#[derive(Debug, Default)]
pub(super) struct PlainContext {
    nag: Mutex<ThrottledWarn>,
    servers: String,
}

impl PlainContext {
    pub(super) fn new(config: &ClientConfig) -> Self {
        Self { nag: Mutex::default(), servers: config.get("bootstrap.servers").unwrap_or_default().to_owned() }
    }
}

impl ClientContext for PlainContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let servers = &self.servers;
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown) => {
                lock(&UNREACHABLE).warn(format!("no broker of {servers} can be reached; trying on"));
                tracing::debug!(target: "librdkafka", "{error}: {reason}");
            }
            // Told to the reader too, who knows more.
            Some(Code::PartitionEOF | Code::UnknownTopicOrPartition) => {}
            // Each is followed by AllBrokersDown when it matters.
            Some(Code::BrokerTransportFailure | Code::Resolve | Code::OperationTimedOut) => {
                tracing::debug!(target: "librdkafka", "{error}: {reason}");
            }
            _ => lock(&self.nag).warn(format!("Kafka client: {error}: {reason}")),
        }
    }
}

impl ConsumerContext for PlainContext {}

/// A change of the assignment, as librdkafka wants it answered.
#[derive(Debug, Clone)]
pub(super) enum Rebalance {
    Assign(Vec<(String, i32)>),
    Revoke { partitions: Vec<(String, i32)>, lost: bool },
}

/// Keeps rebalances for the worker to answer in its own time.
///
/// With librdkafka's event interface the group waits until `incremental_assign` or `incremental_unassign` is called,
/// from wherever: so the worker commits first, and no callback needs to know about transactions.
pub(super) struct GroupContext {
    plain: PlainContext,
    rebalances: Mutex<VecDeque<Rebalance>>,
    closing: AtomicBool,
    /// A rebalance was answered while closing.
    answered: AtomicBool,
    /// The session was over before the group heard of this member again.
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

    /// Whether the session of this consumer was over once. A static member rejoins as a new one then, and a heartbeat of the
    /// former one that librdkafka sends again fences it: no other process need be there.
    pub(super) fn has_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Relaxed)
    }

    /// The consumer is closed next. From then on a rebalance is answered at once: nobody is there any more to commit.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// A consumer that is being closed takes any answer for all partitions given up, and is gone soon after: the answer comes
    /// after the close in librdkafka's queue. Where a rebalance was on its way as the close began two are told, and the second
    /// must not be answered too: librdkafka (2.12) drops calls that come while the group ends, and their callers would wait
    /// for ever (`rd_kafka_cgrp_op_serve`).
    fn answer_at_the_end(&self, consumer: &BaseConsumer<Self>) {
        if self.answered.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Err(error) = consumer.incremental_unassign(&TopicPartitionList::new()) {
            tracing::debug!("answering a rebalance at the end: {error}");
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
            return self.answer_at_the_end(consumer);
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

/// What a transactional producer tells beside the results of calls.
pub(super) struct ProducerEvents {
    plain: PlainContext,
    suspect: AtomicBool,
    /// The first failed delivery since the transaction began.
    failed: Mutex<Option<(KafkaError, String)>>,
}

impl ProducerEvents {
    pub(super) fn new(config: &ClientConfig) -> Self {
        Self { plain: PlainContext::new(config), suspect: AtomicBool::new(false), failed: Mutex::default() }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Why the open transaction is to be aborted. Until `all` reports are in a purged record is no reason: librdkafka
    /// purges what is queued as soon as another one has failed, whose report comes too and says more.
    pub(super) fn take_failed(&self, all: bool) -> Option<(KafkaError, String)> {
        lock(&self.failed).take_if(|(error, _)| all || !is_purged(error))
    }
}

impl ClientContext for ProducerEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // A connection was lost, or a request given up: librdkafka retries inside and tells nobody else.
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
            let mut failed = lock(&self.failed);
            if failed.as_ref().is_none_or(|(known, _)| is_purged(known) && !is_purged(error)) {
                *failed = Some((error.clone(), message.topic().to_owned()));
            }
        }
    }
}

fn is_purged(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::PurgeQueue | Code::PurgeInflight))
}
