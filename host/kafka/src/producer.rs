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

use super::client::ProducerEvents;
use super::convert;
use super::sys::{self, CallError, Membership};
use super::topology::Topology;

/// How long one call waits before it says «again». librdkafka goes on with it meanwhile; the same call takes it up.
const CALL: Duration = Duration::from_secs(1);
/// When a call is taken for one that never returns: half of the time that a transaction may be open.
const LEFT_BEHIND: Duration = Duration::from_secs(5);
/// How long one look at the delivery reports waits.
const LOOK: Duration = Duration::from_millis(5);

/// A transactional producer. A new one of the same transactional id has a new epoch, and fences this one.
pub(super) struct Producer {
    inner: Arc<BaseProducer<ProducerEvents>>,
    /// Topics that are Switchboard's own: that one of them is missing or not allowed is no record's fault.
    internal: [String; 4],
}

impl Producer {
    /// # Errors
    /// When librdkafka cannot make a client.
    pub(super) fn new(config: &ClientConfig, topology: &Topology) -> Result<Self, Fault> {
        let context = ProducerEvents::new(config);
        let inner: Result<BaseProducer<_>, _> = BaseProducer::from_config_and_context(config, context);
        let inner = inner.map_err(|error| Fault::Fatal(convert::cause(error.to_string(), &error)))?;
        let Topology { shards, changelog, dead_letters, control, .. } = topology;
        Ok(Self { inner: Arc::new(inner), internal: [shards, changelog, dead_letters, control].map(Clone::clone) })
    }

    /// Gets producer id and epoch; ends whatever a predecessor left open. The coordinator's answer to the first request is
    /// then CONCURRENT_TRANSACTIONS, and librdkafka would ask again after 500 ms; each call makes it ask at once.
    pub(super) fn init(&self) -> Result<(), Fault> {
        let started = Instant::now();
        loop {
            match self.inner.init_transactions(4 * LOOK).map_err(|error| classify(&error)) {
                Err(Fault::Retriable(_)) if started.elapsed() < CALL => {}
                result => return result,
            }
        }
    }

    /// Whether a request of this producer may still be under way that nobody waits for any more.
    ///
    /// librdkafka logs the loss of a connection before the call returns in which it happened, but into a queue, of which a
    /// poll takes one event. The count is that of all events in it, or more.
    pub(super) fn is_suspect(&self) -> bool {
        for _ in 0..self.inner.in_flight_count() {
            self.inner.poll(Duration::ZERO);
        }
        self.inner.context().is_suspect()
    }

    pub(super) fn begin(&self) -> Result<(), Fault> {
        // Reports of an aborted transaction's records are of no more interest.
        self.inner.poll(Duration::ZERO);
        self.inner.context().take_failed(true);
        self.inner.begin_transaction().map_err(|error| classify(&error))
    }

    pub(super) fn send(&self, topic: &str, partition: Option<PartitionIndex>, record: &Record) -> Result<(), Fault> {
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
                self.inner.poll(LOOK);
                Err(Fault::Retriable(Cause::new("the producer's queue is full", Some(convert::code(Code::QueueFull)))))
            }
            Err((error, _)) => Err(self.delivery_fault(&error, topic)),
        }
    }

    /// Waits until all records are written or one has failed.
    pub(super) fn flush(&self) -> Result<(), Fault> {
        let started = Instant::now();
        loop {
            let done = sys::flush(&self.inner, LOOK);
            self.inner.poll(Duration::ZERO);
            if let Some((error, topic)) = self.inner.context().take_failed(done) {
                return Err(self.delivery_fault(&error, &topic));
            }
            if done {
                return Ok(());
            }
            if started.elapsed() >= CALL {
                return Err(Fault::Retriable("records are not yet written".into()));
            }
        }
    }

    /// The membership that is looked at is the one that is sent: librdkafka's own thread may end it at any time.
    ///
    /// librdkafka does not keep this call's time-out: when the group's coordinator goes away meanwhile (a broker is
    /// restarted) the call may wait for ever (its issues 5456 and 5511). So a thread of its own makes it, and keeps the
    /// producer if it has to be left behind.
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
            let result = sys::send_offsets(&producer, &membership, &offsets, CALL);
            // Before the answer: a new producer comes only when this one is gone.
            drop(producer);
            // Err: it was left behind.
            let _ = sent.send(result);
        });
        thread.map_err(|error| Fault::Retriable(format!("no thread: {error}").into()))?;
        match answer.recv_timeout(LEFT_BEHIND) {
            Ok(Ok(())) => Ok(()),
            // The group has given this member up, which its consumer may not hear for as long as a lost JoinGroup takes to
            // time out; tried again it would never be taken.
            Ok(Err(error)) if error.code == Code::UnknownMemberId => Err(Fault::NotAMember(error.cause())),
            Ok(Err(error)) => Err(classify_call(error)),
            Err(_) => Err(Fault::Fatal(format!("offsets were not taken within {LEFT_BEHIND:?}").into())),
        }
    }

    pub(super) fn commit(&self) -> Result<(), Fault> {
        self.inner.commit_transaction(CALL).map_err(|error| classify(&error))
    }

    /// librdkafka waits for the reports of the records that it purges, and with events nobody but us takes these: so it
    /// is asked in short turns.
    pub(super) fn abort(&self) -> Result<(), Fault> {
        let started = Instant::now();
        loop {
            let result = self.inner.abort_transaction(10 * LOOK).map_err(|error| classify(&error));
            self.inner.poll(Duration::ZERO);
            match result {
                Err(Fault::Retriable(_)) if started.elapsed() < CALL => {}
                result => return result,
            }
        }
    }

    /// What a failed delivery means for its transaction, which is to be aborted in any case.
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

/// What a transactional call's error allows.
fn classify(error: &KafkaError) -> Fault {
    match error {
        KafkaError::Transaction(error) => classify_call(error.into()),
        // rdkafka flushes before it commits.
        _ if error.rdkafka_error_code() == Some(Code::OperationTimedOut) => {
            Fault::Retriable(convert::cause(error.to_string(), error))
        }
        _ => Fault::Fatal(convert::cause(error.to_string(), error)),
    }
}

fn classify_call(error: CallError) -> Fault {
    let cause = error.cause();
    let CallError { code, fatal, requires_abort, retriable, .. } = error;
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
