//! Reads the control topic from its beginning.

use std::ops::Range;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use switchboard_core::record::{Offset, Timestamp, TopicId};
use switchboard_core::registry::RegistryState;

use crate::ThrottledWarn;
use crate::clients::context::PlainContext;
use crate::clients::{ClientOptions, convert, new_client};
use crate::sys::AdminRequestError;
use crate::sys::describe::{Operation, allowed_on_topics, topic_id};

/// One request about the control topic.
const CONTROL_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// One poll while reading to the end.
const CONTROL_POLL: Duration = Duration::from_millis(20);

/// Reads the control topic, read_committed, from its beginning. It joins no group.
pub struct ControlReader {
    consumer: BaseConsumer<PlainContext>,
    /// Asks where the topic ends. On the consumer's own connection the request would wait behind a fetch.
    bounds: BaseConsumer<PlainContext>,
    servers: String,
    topic: String,
    /// The next offset; `None` before reading has started.
    position: Option<Offset>,
    trouble: ThrottledWarn,
}

/// A record of the control topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedRecord {
    /// The record's offset.
    pub offset: Offset,
    /// The broker's time.
    pub timestamp: Timestamp,
    /// The key.
    pub key: Vec<u8>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// What a poll of the control topic returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlEvent {
    /// A record.
    Record(FetchedRecord),
    /// No record arrived in time.
    Nothing,
    /// The next record is not there any more, so the topic was deleted and created again. Start with a new reader.
    Gone,
}

/// Why the control topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such topic, or this client may not describe it.
    #[error(
        "the topic {0} does not exist, or is not shown to this client: nothing has been deployed. `switchboard deploy` \
         creates it; check --app, and that this client is allowed DESCRIBE on it"
    )]
    NoTopic(String),
    /// READ is missing.
    #[error("this client is not allowed to read the topic {0}: allow it READ on it")]
    NotAllowed(String),
    /// The topic was deleted and created again.
    #[error("the topic {0} was created again while it was read: try again")]
    Gone(String),
    /// The topic's id cannot be fetched.
    #[error("the id of the topic {topic} cannot be fetched: {source}")]
    NoId {
        /// The topic.
        topic: String,
        /// Why.
        source: AdminRequestError,
    },
    /// No broker answers.
    #[error("the brokers at {servers} do not answer: {source}")]
    Brokers {
        /// The brokers.
        servers: String,
        /// The last error.
        source: KafkaError,
    },
    /// The end was not reached in time.
    #[error("the topic {topic} was not read to its end within {timeout:?}: {read} of {end}")]
    Slow {
        /// The topic.
        topic: String,
        /// The time that it had.
        timeout: Duration,
        /// The offset that was reached.
        read: Offset,
        /// The end.
        end: Offset,
    },
}

impl ControlReader {
    /// A reader that has read nothing yet.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topic: &str) -> KafkaResult<Self> {
        let config = options.control_consumer();
        Ok(Self {
            consumer: new_client(&config)?,
            bounds: new_client(&config)?,
            servers: options.bootstrap_servers.clone(),
            topic: topic.to_owned(),
            position: None,
            trouble: ThrottledWarn::default(),
        })
    }

    /// Starts to read. `poll` returns no record before this has succeeded once.
    ///
    /// # Errors
    /// When the topic does not exist or may not be read, or no broker answers.
    pub fn start(&mut self) -> Result<(), ControlError> {
        if self.position.is_some() {
            return Ok(());
        }
        // The consumer itself has to know the leader, otherwise its first fetch waits for it in steps of 500 ms. It starts at an
        // absolute offset: a logical one costs another request, repeated after 500 ms.
        let metadata = self
            .consumer
            .fetch_metadata(Some(&self.topic), CONTROL_REQUEST_TIMEOUT)
            .map_err(|error| self.error(error))?;
        if let Some(code) = metadata.topics().first().and_then(rdkafka::metadata::MetadataTopic::error) {
            return Err(self.error(KafkaError::MetadataFetch(code.into())));
        }
        let start = self.bounds()?.start;
        let mut list = TopicPartitionList::new();
        let added = list.add_partition_offset(&self.topic, 0, convert::to_absolute(start));
        added.and_then(|()| self.consumer.assign(&list)).map_err(|error| self.error(error))?;
        self.position = Some(start);
        Ok(())
    }

    /// The topic's first offset, and the offset after the last record that a read_committed reader can see now.
    ///
    /// # Errors
    /// When the topic does not exist or may not be read, or no broker answers.
    pub fn bounds(&self) -> Result<Range<Offset>, ControlError> {
        let bounds = self.bounds.fetch_watermarks(&self.topic, 0, CONTROL_REQUEST_TIMEOUT);
        bounds.and_then(convert::watermarks).map_err(|error| self.error(error))
    }

    /// Whether this client may write to the topic. True if brokers do not say (before 2.3).
    pub(super) fn is_writable(&self) -> bool {
        let allowed = allowed_on_topics(self.bounds.client(), &[&self.topic], CONTROL_REQUEST_TIMEOUT);
        match allowed.map(|mut topics| topics.pop()) {
            Ok(Some(Ok(Some(allowed)))) => allowed.contains(&Operation::Write),
            _ => true,
        }
    }

    /// The next offset: after all records that `poll` returned and the transaction markers after them. `poll` moves it forward.
    /// [`Offset::ZERO`] before reading has started.
    pub fn position(&self) -> Offset {
        self.position.unwrap_or_default()
    }

    /// The topic's id; `None` if the brokers know no topic ids.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub fn topic_id(&self) -> Result<Option<TopicId>, ControlError> {
        let id = topic_id(self.bounds.client(), &self.topic, CONTROL_REQUEST_TIMEOUT);
        let id = id.map_err(|source| ControlError::NoId { topic: self.topic.clone(), source })?;
        // The id has random bits. Half of them suffice to distinguish two topics.
        Ok(id.map(|id| TopicId::new(u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default())))
    }

    /// The next record, waiting for at most `wait`. Trouble with brokers is logged and retried.
    pub fn poll(&mut self, wait: Duration) -> ControlEvent {
        let polled = match self.consumer.poll(wait) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => ControlEvent::Nothing,
            Some(Err(KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange))) => {
                ControlEvent::Gone
            }
            Some(Err(error)) => {
                self.trouble.report(error.to_string(), || {
                    tracing::warn!(topic = %self.topic, %error, "the control topic cannot be read; retrying");
                });
                ControlEvent::Nothing
            }
            Some(Ok(message)) => {
                let offset = convert::offset_of(&message);
                self.position = Some(offset.next());
                ControlEvent::Record(FetchedRecord {
                    offset,
                    timestamp: convert::timestamp_of(&message).unwrap_or_default(),
                    key: message.key().unwrap_or_default().to_vec(),
                    value: message.payload().map(<[u8]>::to_vec),
                })
            }
        };
        // librdkafka's own position moves past transaction markers, which no poll returns.
        if let (Some(position), Ok(positions)) = (&mut self.position, self.consumer.position())
            && let Some(found) = positions.find_partition(&self.topic, 0)
            && let Some(beyond) = convert::absolute(found.offset())
        {
            *position = beyond.max(*position);
        }
        polled
    }

    /// Reads to the topic's current end, into `control`. Malformed records are logged.
    ///
    /// # Errors
    /// When the topic does not exist, may not be read, or is not read to its end within `timeout`.
    pub fn read_to_end(&mut self, control: &mut RegistryState, timeout: Duration) -> Result<(), ControlError> {
        let deadline = Instant::now() + timeout;
        let end = loop {
            match self.start().and_then(|()| self.bounds()) {
                Ok(bounds) => break bounds.end,
                Err(ControlError::Brokers { .. }) if Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        };
        while self.position() < end {
            if !self.take(control, CONTROL_POLL)? && Instant::now() >= deadline {
                let (topic, read) = (self.topic.clone(), self.position());
                return Err(ControlError::Slow { topic, timeout, read, end });
            }
        }
        Ok(())
    }

    /// Takes the next record into `control`. Returns whether one arrived within `wait`. A malformed record is logged.
    ///
    /// # Errors
    /// When the topic was deleted and created again.
    pub fn take(&mut self, control: &mut RegistryState, wait: Duration) -> Result<bool, ControlError> {
        match self.poll(wait) {
            ControlEvent::Record(FetchedRecord { offset, timestamp, key, value }) => {
                if let Err(malformed) = control.apply(offset, timestamp, &key, value.as_deref()) {
                    tracing::warn!(offset = offset.get(), "{malformed}; it is treated as deleted");
                }
                Ok(true)
            }
            ControlEvent::Nothing => Ok(false),
            ControlEvent::Gone => Err(ControlError::Gone(self.topic.clone())),
        }
    }

    fn error(&self, error: KafkaError) -> ControlError {
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                ControlError::NoTopic(self.topic.clone())
            }
            Some(Code::TopicAuthorizationFailed) => ControlError::NotAllowed(self.topic.clone()),
            _ => ControlError::Brokers { servers: self.servers.clone(), source: error },
        }
    }
}
