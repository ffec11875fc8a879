//! Changes the control topic: one transaction per change, one order for all changes.

use std::thread;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use rdkafka::error::KafkaError;
use switchboard_core::record::Record;
use switchboard_core::registry::{Decision, RegistryState};
use switchboard_core::worker::Fault;

use super::reader::{ControlError, ControlReader};
use crate::clients::ClientOptions;
use crate::clients::producer::Producer;
use crate::topics::Topology;

/// How long a change is retried.
const UPDATE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a broker may not know a topic that was just created.
const CONTROL_TOPIC_PROPAGATION_TIMEOUT: Duration = Duration::from_secs(5);
/// One poll for a change that was committed.
const COMMITTED_CHANGE_POLL: Duration = Duration::from_millis(5);

/// Changes the control topic: it reads the topic, lets a function decide what to write, and writes that in one transaction.
///
/// All writers of an application share one transactional id. Taking the id fences the previous writer and ends its open
/// transaction. So either no other writer wrote between the read and the commit, or the commit fails and the change starts again.
/// This gives concurrent changes one order.
pub struct ControlWriter {
    options: ClientOptions,
    topology: Topology,
    reader: ControlReader,
    control: RegistryState,
}

/// Why nothing was changed, or why that is unknown.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError<E> {
    /// The function decided against a change.
    #[error(transparent)]
    Refused(E),
    /// The topic cannot be read.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// WRITE on the topic is missing.
    #[error("this client is not allowed to write to the topic {0}: allow it WRITE on it")]
    NotAllowed(String),
    /// The transactional id is not allowed, or a record is refused.
    #[error("the change cannot be written: {0}. `switchboard doctor` shows which permissions are missing")]
    NotTaken(#[source] Fault),
    /// No attempt succeeded in time. The text is the last failure.
    #[error(
        "nothing was changed within {UPDATE_TIMEOUT:?}: {0}. Try again; `switchboard doctor` shows what is wrong with the cluster"
    )]
    GivenUp(String),
    /// The outcome of a commit is unknown. `id` is that of the change.
    #[error(
        "whether the change was made is not known: {reason}. `switchboard releases --history` shows it once the brokers answer: \
         its id is {id}"
    )]
    Unclear {
        /// The last failure.
        reason: String,
        /// The id of the change.
        id: String,
    },
    /// librdkafka cannot create a client.
    #[error("a Kafka client cannot be created: {0}")]
    Client(#[from] KafkaError),
}

/// How an attempt failed.
enum Failure<E> {
    /// Another attempt may succeed.
    Retriable(String),
    Final(UpdateError<E>),
}

impl<E> From<ControlError> for Failure<E> {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NoTopic(_) | ControlError::NotAllowed(_) | ControlError::Gone(_) => Self::Final(error.into()),
            ControlError::NoId { .. } | ControlError::Brokers { .. } | ControlError::Slow { .. } => {
                Self::Retriable(error.to_string())
            }
        }
    }
}

impl ControlWriter {
    /// A writer that has read nothing yet.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topology: &Topology) -> Result<Self, KafkaError> {
        Ok(Self {
            options: options.clone(),
            topology: topology.clone(),
            reader: ControlReader::new(options, &topology.control)?,
            control: RegistryState::default(),
        })
    }

    /// The state that the topic had when it was last read.
    pub fn control(&self) -> &RegistryState {
        &self.control
    }

    /// Opens connections, if the topic exists, so that the next call is faster. The next call reports trouble.
    pub fn connect(&mut self) {
        if let Err(error) = self.reader.start() {
            tracing::debug!(%error, "connecting to the control topic");
        }
    }

    /// Reads the topic to its end, without taking the transactional id.
    ///
    /// # Errors
    /// When the topic does not exist or cannot be read.
    pub fn read(&mut self) -> Result<&RegistryState, ControlError> {
        self.reader.read_to_end(&mut self.control, UPDATE_TIMEOUT)?;
        Ok(&self.control)
    }

    /// Takes the next record of the topic into [`Self::control`]. Returns whether one arrived within `wait`.
    ///
    /// # Errors
    /// When the topic was deleted and created again.
    pub fn follow(&mut self, wait: Duration) -> Result<bool, ControlError> {
        self.reader.take(&mut self.control, wait)
    }

    /// Makes a change. `decide` says what to write; it is called again if somebody else wrote meanwhile, and must use the same id
    /// each time. Afterwards [`Self::control`] contains the change. Nothing is written if there is nothing to write.
    ///
    /// # Errors
    /// When `decide` refuses, or the change was not made within 30 s.
    pub fn update<E>(
        &mut self,
        mut decide: impl FnMut(&RegistryState) -> Result<Decision, E>,
    ) -> Result<Decision, UpdateError<E>> {
        let started = Instant::now();
        // Most of the topic is read before another writer is fenced.
        while let Err(error) = self.reader.read_to_end(&mut self.control, UPDATE_TIMEOUT) {
            match error {
                ControlError::NoTopic(_) if started.elapsed() < CONTROL_TOPIC_PROPAGATION_TIMEOUT => {
                    thread::sleep(Duration::from_millis(20));
                }
                error => return Err(error.into()),
            }
        }
        // A write without permission would look like temporary trouble.
        if !self.reader.is_writable() {
            return Err(UpdateError::NotAllowed(self.topology.control.clone()));
        }
        let (least, most) = (Duration::from_millis(20), Duration::from_millis(500));
        let pauses = ExponentialBuilder::default().with_min_delay(least).with_max_delay(most).with_jitter();
        let mut unclear = None;
        for pause in pauses.without_max_times().build() {
            match self.attempt(&mut decide, &mut unclear, started + UPDATE_TIMEOUT) {
                Ok(decision) => return Ok(decision),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Retriable(reason)) if started.elapsed() + pause < UPDATE_TIMEOUT => {
                    tracing::debug!(topic = %self.topology.control, %reason, "retrying a change");
                    thread::sleep(pause);
                }
                Err(Failure::Retriable(reason)) => {
                    return Err(match unclear {
                        Some(Decision { id, .. }) => UpdateError::Unclear { reason, id },
                        None => UpdateError::GivenUp(reason),
                    });
                }
            }
        }
        unreachable!("the number of pauses is unlimited")
    }

    /// One attempt. The order of its steps is what makes changes safe.
    fn attempt<E>(
        &mut self,
        decide: &mut impl FnMut(&RegistryState) -> Result<Decision, E>,
        unclear: &mut Option<Decision>,
        deadline: Instant,
    ) -> Result<Decision, Failure<E>> {
        let left = || deadline.saturating_duration_since(Instant::now());
        let retriable = |fault: Fault| Failure::Retriable(fault.to_string());
        let not_taken = |fault: Fault| Failure::Final(UpdateError::NotTaken(fault));
        let producer = Producer::new(&self.options.control_producer(), &self.topology).map_err(not_taken)?;
        retry_until(deadline, || producer.init()).map_err(|fault| match fault {
            // Another writer takes the id at the same time, or a broker restarts.
            Fault::Fenced(_) | Fault::Retriable(_) | Fault::TimedOut(_) | Fault::Abortable(_) => retriable(fault),
            fault => not_taken(fault),
        })?;
        // The transaction of another writer or of an earlier attempt is committed or aborted now.
        self.reader.read_to_end(&mut self.control, left())?;
        if let Some(decision) = unclear.take_if(|decision| self.control.change(&decision.id).is_some()) {
            return Ok(decision);
        }
        *unclear = None;
        let decision = decide(&self.control).map_err(|error| Failure::Final(UpdateError::Refused(error)))?;
        if decision.writes.is_empty() {
            return Ok(decision);
        }
        if let Err(fault) = self.stage(&producer, &decision, deadline) {
            // If this fails, the broker aborts after the transaction's time-out, or when the id is taken again.
            drop(producer.abort());
            return Err(match fault {
                Fault::Refused(_) => not_taken(fault),
                fault => retriable(fault),
            });
        }
        if let Err(fault) = retry_until(deadline, || producer.commit()) {
            // Also after a fence: the first request may have succeeded, and the repeated one was too late.
            *unclear = Some(decision);
            return Err(retriable(fault));
        }
        // A commit is acknowledged before readers can see it.
        while self.control.change(&decision.id).is_none() {
            if left().is_zero() {
                let reason = "it is not visible to readers yet".into();
                return Err(Failure::Final(UpdateError::Unclear { reason, id: decision.id }));
            }
            self.reader.take(&mut self.control, COMMITTED_CHANGE_POLL)?;
        }
        Ok(decision)
    }

    fn stage(&self, producer: &Producer, decision: &Decision, deadline: Instant) -> Result<(), Fault> {
        producer.begin()?;
        for write in &decision.writes {
            let key = Some(write.key.to_string().into_bytes());
            let record = Record { key, value: write.value.clone(), ..Record::default() };
            retry_until(deadline, || producer.send(&self.topology.control, Some(0.into()), &record))?;
        }
        retry_until(deadline, || producer.flush())
    }
}

/// Repeats a call while it is retriable.
fn retry_until(deadline: Instant, mut call: impl FnMut() -> Result<(), Fault>) -> Result<(), Fault> {
    loop {
        match call() {
            Err(Fault::Retriable(_)) if Instant::now() < deadline => {}
            result => return result,
        }
    }
}
