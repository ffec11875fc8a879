//! The control topic as one host uses it: read from its first record on, and written to for the host's status and for
//! rollbacks.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use switchboard_core::record::{ControlPosition, TopicId};
use switchboard_core::registry::{Actor, ChangeRequest, HostStatus, Refusal, RegistryState, automatic_rollback};
use switchboard_kafka::control_topic::{ControlError, ControlReader, ControlWriter, StatusWriter, UpdateError};
use switchboard_kafka::{ClientOptions, Shutdown, ThrottledWarn, Topology};

use super::gate::FailingRelease;

/// The pause between two attempts to read the topic.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// How long one attempt to read the topic to its end may take.
const HOST_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long reads of the topic may fail before this is logged. Not every broker knows a topic right after its creation.
const PROPAGATION_TIME: Duration = Duration::from_secs(5);
/// How long a stop waits until the last status is written.
const STATUS_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The control topic's clients.
pub struct ControlTopic {
    reader: ControlReader,
    status: StatusWriter,
    /// The id of the topic that is read, once it is known.
    topic_id: Option<TopicId>,
    options: ClientOptions,
    topology: Topology,
}

impl ControlTopic {
    /// Creates the clients. They connect when they are used first.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topology: &Topology) -> anyhow::Result<Self> {
        let creating = "creating a Kafka client";
        Ok(Self {
            reader: ControlReader::new(options, &topology.control).context(creating)?,
            status: StatusWriter::new(options, &topology.control).context(creating)?,
            topic_id: None,
            options: options.clone(),
            topology: topology.clone(),
        })
    }

    /// Reads the topic from its first record to its end, however long that takes. `None`: the process shuts down.
    pub(super) fn read_all(&mut self, stop: &Shutdown) -> Option<RegistryState> {
        let mut registry = RegistryState::default();
        let (mut warn, started) = (ThrottledWarn::default(), Instant::now());
        loop {
            match self.read_to_end(&mut registry) {
                Ok(()) => return Some(registry),
                Err(error @ ControlError::Gone(_)) => {
                    tracing::warn!(%error, "the control topic was created again; reading it from its first record");
                    match Self::new(&self.options, &self.topology) {
                        Ok(topic) => (*self, registry) = (topic, RegistryState::default()),
                        Err(error) => tracing::error!("{error:#}"),
                    }
                }
                Err(error) if started.elapsed() >= PROPAGATION_TIME => {
                    warn.report(error.to_string(), || {
                        tracing::warn!(%error, "cannot read the control topic; retrying");
                    });
                }
                Err(_) => {}
            }
            if stop.wait(RETRY_INTERVAL) {
                return None;
            }
        }
    }

    fn read_to_end(&mut self, registry: &mut RegistryState) -> Result<(), ControlError> {
        self.reader.start()?;
        let topic_id = self.reader.topic_id()?;
        let is_another_topic = self.topic_id.is_some() && self.topic_id != topic_id;
        self.topic_id = topic_id;
        if is_another_topic {
            return Err(ControlError::Gone(self.topology.control.clone()));
        }
        self.reader.read_to_end(registry, HOST_READ_TIMEOUT)
    }

    /// Applies the records that have arrived; waits up to `wait` for the first one. When the topic was created again,
    /// reads the new topic from its first record; true in that case.
    pub(super) fn apply_new_records(
        &mut self,
        registry: &mut RegistryState,
        mut wait: Duration,
        stop: &Shutdown,
    ) -> bool {
        loop {
            match self.reader.take(registry, wait) {
                Ok(true) => wait = Duration::ZERO,
                Ok(false) => return false,
                Err(error) => {
                    tracing::error!(
                        %error,
                        "the control topic was created again; reading it from its first record. \
                         Routes that are not in it no longer apply"
                    );
                    match Self::new(&self.options, &self.topology) {
                        Ok(mut topic) => {
                            if let Some(read) = topic.read_all(stop) {
                                (*registry, *self) = (read, topic);
                            }
                        }
                        Err(error) => tracing::error!("{error:#}"),
                    }
                    return true;
                }
            }
        }
    }

    /// Up to which record the topic has been read.
    pub(super) fn position(&self) -> ControlPosition {
        ControlPosition { topic: self.topic_id, offset: self.reader.position() }
    }

    /// Writes this host's status; `None`: the host stops.
    pub(super) fn write_status(&self, instance: &str, status: Option<&HostStatus>) {
        if let Err(error) = self.status.write(instance, status) {
            tracing::warn!(%error, "cannot write this host's status");
        }
    }

    /// Waits a short while until the status is written.
    pub(super) fn flush_status(&self) -> anyhow::Result<()> {
        Ok(self.status.flush(STATUS_FLUSH_TIMEOUT)?)
    }

    /// A writer of rollbacks, with clients of its own.
    pub(super) fn rollback_writer(&self, actor: Actor) -> RollbackWriter {
        RollbackWriter { options: self.options.clone(), topology: self.topology.clone(), actor }
    }
}

/// Rolls back routes whose health gates have failed.
pub(super) struct RollbackWriter {
    options: ClientOptions,
    topology: Topology,
    actor: Actor,
}

impl RollbackWriter {
    /// Rolls a route back, unless another host already has.
    pub(super) fn roll_back(&self, failing: &FailingRelease) -> anyhow::Result<()> {
        let FailingRelease { release, offset, reason, .. } = failing;
        // Every host derives the same id, so the rollback is made once.
        let id = format!("automatic-{offset}-{}", release.short());
        let request = || ChangeRequest { id: id.clone(), actor: self.actor.clone(), note: Some(reason.clone()) };
        let mut writer = ControlWriter::new(&self.options, &self.topology)?;
        match writer.update(|registry| automatic_rollback(registry, release, *offset, request())) {
            // `Stale`: another host has rolled the route back, or an operator has changed it.
            Ok(_) | Err(UpdateError::Refused(Refusal::Stale)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
