use std::thread;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use rdkafka::error::KafkaError;
use switchboard_core::record::Record;
use switchboard_core::registry::{Decision, RegistryState};
use switchboard_core::worker::Fault;

use super::super::producer::Producer;
use super::super::properties::ClientOptions;
use super::super::topology::Topology;
use super::reader::{ControlError, ControlReader};

/// How long a change is tried.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a topic that was just created may be unknown to the broker that is asked.
const UNKNOWN: Duration = Duration::from_secs(5);

/// Changes the control topic: reads what is there, has it decided what to write, and writes that in one transaction.
///
/// All writers of an application share one transactional id. To take it fences whoever has it, and ends what that one left
/// open; so between the reading and the commit nobody else has written, or the commit fails and all begins anew. That is
/// what puts concurrent changes into an order.
pub struct ControlWriter {
    options: ClientOptions,
    topology: Topology,
    reader: ControlReader,
    control: RegistryState,
}

/// Why nothing was changed, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError<E> {
    /// It was decided so.
    #[error(transparent)]
    Refused(E),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("this client is not allowed to write to the topic {0}: allow it WRITE on it")]
    NotAllowed(String),
    #[error("the change cannot be written: {0}. `switchboard doctor` tells what this client is not allowed")]
    NotTaken(String),
    #[error(
        "nothing was changed within {PATIENCE:?}: {0}. Try again; `switchboard doctor` tells what the cluster lacks"
    )]
    GivenUp(String),
    #[error(
        "whether the change was made is not known: {0}. `switchboard releases --history` tells it once the brokers answer: \
         its id is {1}"
    )]
    Unclear(String, String),
    #[error("making a Kafka client: {0}")]
    Client(#[from] KafkaError),
}

/// How an attempt failed.
enum Failure<E> {
    /// Another one may succeed.
    Again(String),
    Never(UpdateError<E>),
}

impl<E> From<ControlError> for Failure<E> {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::NoTopic(_) | ControlError::NotAllowed(_) | ControlError::Gone(_) => Self::Never(error.into()),
            ControlError::NoId { .. } | ControlError::Brokers { .. } | ControlError::Slow { .. } => {
                Self::Again(error.to_string())
            }
        }
    }
}

impl ControlWriter {
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

    /// What the topic said when it was read last.
    pub fn control(&self) -> &RegistryState {
        &self.control
    }

    /// Makes connections, if the topic is there, so that what follows is quicker. What is wrong will be told by that.
    pub fn connect(&mut self) {
        if let Err(error) = self.reader.start() {
            tracing::debug!("{error}");
        }
    }

    /// Reads what is there, without taking the transactional id.
    ///
    /// # Errors
    /// When the topic is not there or cannot be read.
    pub fn read(&mut self) -> Result<&RegistryState, ControlError> {
        self.reader.read_to_end(&mut self.control, PATIENCE)?;
        Ok(&self.control)
    }

    /// The next record of the topic; whether one came within `wait`. `control` has it then.
    ///
    /// # Errors
    /// When the topic was made anew.
    pub fn follow(&mut self, wait: Duration) -> Result<bool, ControlError> {
        self.reader.take(&mut self.control, wait)
    }

    /// Makes a change: `decide` is asked what to write, again whenever somebody else has written meanwhile. Its id is the
    /// same each time. Afterwards `control` has the change in it; when there was nothing to write, nothing was.
    ///
    /// # Errors
    /// When it was decided not to, or the change was not made within 30 s.
    pub fn update<E>(
        &mut self,
        mut decide: impl FnMut(&RegistryState) -> Result<Decision, E>,
    ) -> Result<Decision, UpdateError<E>> {
        let started = Instant::now();
        // Most of the reading happens while nobody is fenced.
        while let Err(error) = self.reader.read_to_end(&mut self.control, PATIENCE) {
            match error {
                ControlError::NoTopic(_) if started.elapsed() < UNKNOWN => thread::sleep(Duration::from_millis(20)),
                error => return Err(error.into()),
            }
        }
        // Told by the write itself it would look like trouble that may pass.
        if !self.reader.is_writable() {
            return Err(UpdateError::NotAllowed(self.topology.control.clone()));
        }
        let (least, most) = (Duration::from_millis(20), Duration::from_millis(500));
        let pauses = ExponentialBuilder::default().with_min_delay(least).with_max_delay(most).with_jitter();
        let mut unclear = None;
        for pause in pauses.without_max_times().build() {
            match self.attempt(&mut decide, &mut unclear, started + PATIENCE) {
                Ok(decision) => return Ok(decision),
                Err(Failure::Never(error)) => return Err(error),
                Err(Failure::Again(why)) if started.elapsed() + pause < PATIENCE => {
                    tracing::debug!("changing {} is tried again: {why}", self.topology.control);
                    thread::sleep(pause);
                }
                Err(Failure::Again(why)) => {
                    return Err(match unclear {
                        Some(Decision { id, .. }) => UpdateError::Unclear(why, id),
                        None => UpdateError::GivenUp(why),
                    });
                }
            }
        }
        unreachable!("pauses have no end")
    }

    fn attempt<E>(
        &mut self,
        decide: &mut impl FnMut(&RegistryState) -> Result<Decision, E>,
        unclear: &mut Option<Decision>,
        deadline: Instant,
    ) -> Result<Decision, Failure<E>> {
        let left = || deadline.saturating_duration_since(Instant::now());
        let again = |fault: Fault| Failure::Again(fault.to_string());
        let not_taken = |fault: Fault| Failure::Never(UpdateError::NotTaken(fault.to_string()));
        let producer = Producer::new(&self.options.control_producer(), &self.topology).map_err(not_taken)?;
        until(deadline, || producer.init()).map_err(|fault| match fault {
            // Another one takes it at the same time, or a broker is restarted.
            Fault::Fenced(_) | Fault::Retriable(_) | Fault::TimedOut(_) | Fault::Abortable(_) => again(fault),
            fault => not_taken(fault),
        })?;
        // Whatever another one, or an earlier attempt, has left open is committed or aborted now.
        self.reader.read_to_end(&mut self.control, left())?;
        if let Some(decision) = unclear.take_if(|decision| self.control.change(&decision.id).is_some()) {
            return Ok(decision);
        }
        *unclear = None;
        let decision = decide(&self.control).map_err(|error| Failure::Never(UpdateError::Refused(error)))?;
        if decision.writes.is_empty() {
            return Ok(decision);
        }
        if let Err(fault) = self.stage(&producer, &decision, deadline) {
            // The broker does it after the transaction's time-out, or for whoever comes next.
            drop(producer.abort());
            return Err(match fault {
                Fault::Refused(_) => not_taken(fault),
                fault => again(fault),
            });
        }
        if let Err(fault) = until(deadline, || producer.commit()) {
            // Also when we were fenced: the first request may have got through, and the one sent again come too late.
            *unclear = Some(decision);
            return Err(again(fault));
        }
        // A commit is acknowledged before readers are shown it.
        while self.control.change(&decision.id).is_none() {
            if left().is_zero() {
                return Err(Failure::Never(UpdateError::Unclear("it is not shown to readers yet".into(), decision.id)));
            }
            self.reader.take(&mut self.control, Duration::from_millis(5))?;
        }
        Ok(decision)
    }

    fn stage(&self, producer: &Producer, decision: &Decision, deadline: Instant) -> Result<(), Fault> {
        producer.begin()?;
        for write in &decision.writes {
            let key = Some(write.key.to_string().into_bytes());
            let record = Record { key, value: write.value.clone(), ..Record::default() };
            until(deadline, || producer.send(&self.topology.control, Some(0.into()), &record))?;
        }
        until(deadline, || producer.flush())
    }
}

/// The same call again, for as long as it may succeed.
fn until(deadline: Instant, mut call: impl FnMut() -> Result<(), Fault>) -> Result<(), Fault> {
    loop {
        match call() {
            Err(Fault::Retriable(_)) if Instant::now() < deadline => {}
            result => return result,
        }
    }
}
