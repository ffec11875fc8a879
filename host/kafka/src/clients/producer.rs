//! A transactional producer, and what its errors mean for a transaction.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode as Code;
use switchboard_core::record::{PartitionIndex, Record};
use switchboard_core::worker::{Cause, Fault};

use super::context::{FailedDelivery, ProducerEvents};
use super::convert;
use crate::sys::{self, CallError, Membership};
use crate::topics::Topology;

/// How long one call waits before it returns "retriable". librdkafka continues with the operation; the same call resumes it.
const TRANSACTION_CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// After this time a call to send offsets is considered lost: half of the time that a transaction may be open.
const SEND_OFFSETS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the metadata of a committed offset may be, in bytes: `offset.metadata.max.bytes` of the brokers, by default.
pub(crate) const OFFSET_METADATA_BYTES: i64 = 4096;
/// How long one poll for delivery reports waits.
const DELIVERY_POLL: Duration = Duration::from_millis(5);

/// A transactional producer. A newer producer with the same transactional id gets a new epoch and fences this one.
pub(crate) struct Producer {
    inner: Arc<BaseProducer<ProducerEvents>>,
    /// Internal topics. If one of them is missing or not allowed, that is not the fault of a record.
    internal: [String; 4],
}

impl Producer {
    /// # Errors
    /// When librdkafka cannot create the client.
    pub(crate) fn new(config: &ClientConfig, topology: &Topology) -> Result<Self, Fault> {
        let context = ProducerEvents::new(config);
        let inner: Result<BaseProducer<_>, _> = BaseProducer::from_config_and_context(config, context);
        let inner = inner.map_err(|error| Fault::Fatal(convert::cause(error.to_string(), &error)))?;
        let Topology { repartition, changelog, dead_letters, control, .. } = topology;
        Ok(Self { inner: Arc::new(inner), internal: [repartition, changelog, dead_letters, control].map(Clone::clone) })
    }

    /// Gets a producer id and epoch, and ends a transaction that a predecessor left open. While one is open, the coordinator
    /// answers CONCURRENT_TRANSACTIONS. librdkafka would repeat the request after 500 ms; each call makes it repeat at once.
    pub(crate) fn init(&self) -> Result<(), Fault> {
        let started = Instant::now();
        loop {
            match self.inner.init_transactions(4 * DELIVERY_POLL).map_err(|error| classify(&error)) {
                Err(Fault::Retriable(_)) if started.elapsed() < TRANSACTION_CALL_TIMEOUT => {}
                result => return result,
            }
        }
    }

    /// Whether an abandoned request of this producer may still be under way.
    ///
    /// librdkafka logs the loss of a connection before the affected call returns. The log goes into a queue, and a poll takes one
    /// event from it. The number of polls here is at least the number of events in the queue.
    pub(super) fn is_suspect(&self) -> bool {
        for _ in 0..self.inner.in_flight_count() {
            self.inner.poll(Duration::ZERO);
        }
        self.inner.context().is_suspect()
    }

    pub(crate) fn begin(&self) -> Result<(), Fault> {
        // Delivery reports of an aborted transaction do not matter any more.
        self.inner.poll(Duration::ZERO);
        self.inner.context().take_failed(true);
        self.inner.begin_transaction().map_err(|error| classify(&error))
    }

    pub(crate) fn send(&self, topic: &str, partition: Option<PartitionIndex>, record: &Record) -> Result<(), Fault> {
        let mut out = BaseRecord::<[u8], [u8]>::to(topic);
        out.partition = partition.map(PartitionIndex::get);
        out.key = record.key.as_deref();
        out.payload = record.value.as_deref();
        if !record.headers.is_empty() {
            out.headers = Some(sys::write_headers(&record.headers));
        }
        match self.inner.send(out) {
            Ok(()) => Ok(()),
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) => {
                self.inner.poll(DELIVERY_POLL);
                Err(Fault::Retriable(Cause::new("the producer's queue is full", Some(convert::code(Code::QueueFull)))))
            }
            Err((error, _)) => Err(self.delivery_fault(&error, topic)),
        }
    }

    /// Waits until all records are written, or one has failed.
    pub(crate) fn flush(&self) -> Result<(), Fault> {
        let started = Instant::now();
        loop {
            let done = sys::flush(&self.inner, DELIVERY_POLL);
            self.inner.poll(Duration::ZERO);
            if let Some(FailedDelivery { error, topic }) = self.inner.context().take_failed(done) {
                return Err(self.delivery_fault(&error, &topic));
            }
            if done {
                return Ok(());
            }
            if started.elapsed() >= TRANSACTION_CALL_TIMEOUT {
                return Err(Fault::Retriable("records are not written yet".into()));
            }
        }
    }

    /// Adds offsets to the transaction, fenced by the consumer's membership. The membership that is checked is the one that is sent:
    /// librdkafka's own thread may end it at any time.
    ///
    /// librdkafka does not respect the time-out of this call. If the group's coordinator disappears meanwhile (a broker restarts),
    /// the call may wait for ever (librdkafka issues 5456 and 5511). So a separate thread makes the call. If the call is given up,
    /// the thread keeps the producer.
    pub(super) fn send_offsets<C: ConsumerContext>(
        &self,
        offsets: &TopicPartitionList,
        consumer: &BaseConsumer<C>,
    ) -> Result<(), Fault> {
        let Some(membership) = Membership::of(consumer) else {
            return Err(Fault::NotAMember("no member id or generation".into()));
        };
        let (producer, offsets) = (Arc::clone(&self.inner), offsets.clone());
        let (sent, answer) = mpsc::channel();
        let thread = thread::Builder::new().name("offsets".into()).spawn(move || {
            let result = sys::send_offsets(&producer, &membership, &offsets, TRANSACTION_CALL_TIMEOUT);
            // Before the answer: a new producer may only be created when this one is gone.
            drop(producer);
            // Err: the call was given up.
            let _ = sent.send(result);
        });
        thread.map_err(|error| Fault::Retriable(format!("cannot start a thread: {error}").into()))?;
        match answer.recv_timeout(SEND_OFFSETS_TIMEOUT) {
            Ok(Ok(())) => Ok(()),
            // The group has given up this member. Its consumer may learn that only when a lost JoinGroup times out. A retry would
            // never succeed.
            Ok(Err(error)) if error.code == Code::UnknownMemberId => Err(Fault::NotAMember(error.cause())),
            Ok(Err(error)) => Err(classify_call(&error)),
            Err(_) => {
                Err(Fault::Fatal(format!("the group did not take the offsets within {SEND_OFFSETS_TIMEOUT:?}").into()))
            }
        }
    }

    pub(crate) fn commit(&self) -> Result<(), Fault> {
        self.inner.commit_transaction(TRANSACTION_CALL_TIMEOUT).map_err(|error| classify(&error))
    }

    /// Aborts the transaction, in short calls. librdkafka waits for the delivery reports of the records that it purges, and with
    /// its event interface only this producer's polls take them.
    pub(crate) fn abort(&self) -> Result<(), Fault> {
        let started = Instant::now();
        loop {
            let result = self.inner.abort_transaction(10 * DELIVERY_POLL).map_err(|error| classify(&error));
            self.inner.poll(Duration::ZERO);
            match result {
                Err(Fault::Retriable(_)) if started.elapsed() < TRANSACTION_CALL_TIMEOUT => {}
                result => return result,
            }
        }
    }

    /// What a failed delivery means. The transaction has to be aborted in any case.
    fn delivery_fault(&self, error: &KafkaError, topic: &str) -> Fault {
        let cause = convert::cause(format!("to {topic}: {error}"), error);
        match error.rdkafka_error_code() {
            Some(
                Code::MessageSizeTooLarge
                | Code::InvalidMessageSize
                | Code::MessageBatchTooLarge
                | Code::InvalidRecord
                | Code::InvalidTimestamp
                | Code::PolicyViolation,
            ) => Fault::Refused(cause),
            Some(
                Code::InvalidTopic
                | Code::TopicAuthorizationFailed
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition,
            ) if !self.internal.iter().any(|internal| internal == topic) => Fault::Refused(cause),
            Some(Code::MessageTimedOut | Code::RequestTimedOut) => Fault::TimedOut(cause),
            Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => Fault::Fenced(cause),
            Some(Code::Fatal) => Fault::Fatal(cause),
            _ => Fault::Abortable(cause),
        }
    }
}

/// What the error of a transactional call allows.
fn classify(error: &KafkaError) -> Fault {
    match error {
        KafkaError::Transaction(error) => classify_call(&error.into()),
        // The time-out of the flush that rdkafka makes before it commits.
        _ if error.rdkafka_error_code() == Some(Code::OperationTimedOut) => {
            Fault::Retriable(convert::cause(error.to_string(), error))
        }
        _ => Fault::Fatal(convert::cause(error.to_string(), error)),
    }
}

fn classify_call(error: &CallError) -> Fault {
    let mut cause = error.cause();
    let CallError { code, fatal, requires_abort, retriable, .. } = *error;
    if code == Code::OffsetMetadataTooLarge {
        let said = cause.text;
        cause.text = format!(
            "the brokers' setting offset.metadata.max.bytes is too low for the metadata of committed offsets. Set it to at least \
             {OFFSET_METADATA_BYTES}, its default: {said}"
        );
    }
    match code {
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Fault::Fenced(cause),
        Code::FencedInstanceId => Fault::FencedInstance(cause),
        _ if fatal => Fault::Fatal(cause),
        Code::MessageTimedOut | Code::OperationTimedOut | Code::RequestTimedOut if requires_abort => {
            Fault::TimedOut(cause)
        }
        _ if requires_abort => Fault::Abortable(cause),
        _ if retriable => Fault::Retriable(cause),
        _ => Fault::Fatal(cause),
    }
}
