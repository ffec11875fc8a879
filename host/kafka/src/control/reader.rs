use std::ops::Range;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use switchboard_core::record::{Offset, Timestamp, TopicId};
use switchboard_core::registry::RegistryState;

use super::super::client::{PlainContext, ThrottledWarn};
use super::super::convert;
use super::super::properties::ClientOptions;
use super::super::sys::describe::{Operation, allowed_on_topics};
use super::super::sys::{self, TopicIdError};

/// One request.
const REQUEST: Duration = Duration::from_secs(2);
/// One look at what has come.
const LOOK: Duration = Duration::from_millis(20);

/// Reads the control topic, read_committed, from its beginning: a member of no group.
pub struct ControlReader {
    consumer: BaseConsumer<PlainContext>,
    /// Asks where the topic ends: on the consumer's own connection the question would wait behind a fetch.
    bounds: BaseConsumer<PlainContext>,
    servers: String,
    topic: String,
    /// The offset to go on from; `None`: reading has not begun.
    position: Option<Offset>,
    nag: ThrottledWarn,
}

/// A record of the control topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedRecord {
    pub offset: Offset,
    /// The broker's time.
    pub timestamp: Timestamp,
    pub key: Vec<u8>,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
}

/// What a look at the control topic gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Polled {
    Record(FetchedRecord),
    /// Nothing came within the time given.
    Nothing,
    /// What was to be read next is not there any more, so the topic was deleted and made anew: begin with a new reader.
    Gone,
}

/// Why the control topic cannot be read, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(
        "the topic {0} does not exist, or is not shown to this client: nothing has been deployed. `switchboard deploy` \
         creates it; check --app, and that this client is allowed DESCRIBE on it"
    )]
    NoTopic(String),
    #[error("this client is not allowed to read the topic {0}: allow it READ on it")]
    NotAllowed(String),
    #[error("the topic {0} was made anew while it was read: try again")]
    Gone(String),
    #[error("the id of the topic {topic} cannot be had: {error}")]
    NoId {
        topic: String,
        #[source]
        error: TopicIdError,
    },
    #[error("the brokers at {servers} do not answer: {error}")]
    Brokers {
        servers: String,
        #[source]
        error: KafkaError,
    },
    #[error("the topic {topic} was not read to its end within {patience:?}: {read} of {end}")]
    Slow { topic: String, patience: Duration, read: Offset, end: Offset },
}

impl ControlReader {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topic: &str) -> KafkaResult<Self> {
        let config = options.control_consumer();
        let client = || BaseConsumer::from_config_and_context(&config, PlainContext::new(&config));
        let (consumer, bounds) = (client()?, client()?);
        let servers = options.bootstrap_servers.clone();
        Ok(Self { consumer, bounds, servers, topic: topic.to_owned(), position: None, nag: ThrottledWarn::default() })
    }

    /// Begins to read. Until it has succeeded once nothing comes.
    ///
    /// # Errors
    /// When the topic is not there, may not be read, or no broker answers.
    pub fn start(&mut self) -> Result<(), ControlError> {
        if self.position.is_some() {
            return Ok(());
        }
        // The consumer itself has to know the leader, or its first fetch waits for it in steps of 500 ms. It starts at an
        // absolute offset: a logical one costs a question more, asked again after 500 ms.
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), REQUEST).map_err(|error| self.error(error))?;
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

    /// The topic's first offset, and the one after the last record that a read_committed reader is shown as of now.
    ///
    /// # Errors
    /// When the topic is not there, may not be read, or no broker answers.
    pub fn bounds(&self) -> Result<Range<Offset>, ControlError> {
        let bounds = self.bounds.fetch_watermarks(&self.topic, 0, REQUEST);
        bounds.and_then(convert::watermarks).map_err(|error| self.error(error))
    }

    /// Whether this client may write to the topic, as far as brokers tell (from 2.3 on).
    pub(super) fn is_writable(&self) -> bool {
        let allowed = allowed_on_topics(self.bounds.client(), &[&self.topic], REQUEST);
        match allowed.map(|mut topics| topics.pop()) {
            Ok(Some(Ok(Some(allowed)))) => allowed.contains(&Operation::Write),
            _ => true,
        }
    }

    /// The offset to go on from: beyond all that was given out, and beyond the markers of transactions after it. It is moved
    /// on by `poll`. [`Offset::ZERO`] before reading has begun.
    pub fn position(&self) -> Offset {
        self.position.unwrap_or_default()
    }

    /// The topic's id; `None` where brokers know no topic ids.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn topic_id(&self) -> Result<Option<TopicId>, ControlError> {
        let id = sys::topic_id(self.bounds.client(), &self.topic, REQUEST);
        let id = id.map_err(|error| ControlError::NoId { topic: self.topic.clone(), error })?;
        // Random bits, of which half are enough to tell two apart.
        Ok(id.map(|id| TopicId::new(u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default())))
    }

    /// The next record, waiting for at most `wait`. Trouble with brokers is told, and passes or goes on.
    pub fn poll(&mut self, wait: Duration) -> Polled {
        let polled = match self.consumer.poll(wait) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => Polled::Nothing,
            Some(Err(KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange))) => Polled::Gone,
            Some(Err(error)) => {
                self.nag.warn(format!("reading the topic {}: {error}; trying on", self.topic));
                Polled::Nothing
            }
            Some(Ok(message)) => {
                let offset = convert::offset_of(&message);
                self.position = Some(offset.next());
                Polled::Record(FetchedRecord {
                    offset,
                    timestamp: convert::timestamp_of(&message).unwrap_or_default(),
                    key: message.key().unwrap_or_default().to_vec(),
                    value: message.payload().map(<[u8]>::to_vec),
                })
            }
        };
        // librdkafka's own position passes the markers of transactions, which are given out to nobody.
        if let (Some(position), Ok(positions)) = (&mut self.position, self.consumer.position())
            && let Some(found) = positions.find_partition(&self.topic, 0)
            && let Some(beyond) = convert::absolute(found.offset())
        {
            *position = beyond.max(*position);
        }
        polled
    }

    /// Reads on to the topic's end as of now, into `control`. Records that cannot be read are told.
    ///
    /// # Errors
    /// When the topic is not there, may not be read, or is not read so far within `patience`.
    pub fn read_to_end(&mut self, control: &mut RegistryState, patience: Duration) -> Result<(), ControlError> {
        let deadline = Instant::now() + patience;
        let end = loop {
            match self.start().and_then(|()| self.bounds()) {
                Ok(bounds) => break bounds.end,
                Err(ControlError::Brokers { .. }) if Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        };
        while self.position() < end {
            if !self.take(control, LOOK)? && Instant::now() >= deadline {
                let (topic, read) = (self.topic.clone(), self.position());
                return Err(ControlError::Slow { topic, patience, read, end });
            }
        }
        Ok(())
    }

    /// Takes the next record into `control`; whether there was one within `wait`. One that cannot be read is told.
    ///
    /// # Errors
    /// When the topic was made anew.
    pub fn take(&mut self, control: &mut RegistryState, wait: Duration) -> Result<bool, ControlError> {
        match self.poll(wait) {
            Polled::Record(FetchedRecord { offset, timestamp, key, value }) => {
                if let Err(malformed) = control.apply(offset, timestamp, &key, value.as_deref()) {
                    tracing::warn!(offset = offset.get(), "{malformed}; it is taken for deleted");
                }
                Ok(true)
            }
            Polled::Nothing => Ok(false),
            Polled::Gone => Err(ControlError::Gone(self.topic.clone())),
        }
    }

    fn error(&self, error: KafkaError) -> ControlError {
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                ControlError::NoTopic(self.topic.clone())
            }
            Some(Code::TopicAuthorizationFailed) => ControlError::NotAllowed(self.topic.clone()),
            _ => ControlError::Brokers { servers: self.servers.clone(), error },
        }
    }
}
