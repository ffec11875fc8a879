use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use sha2::{Digest as _, Sha256};
use switchboard_core::record::Offset;
use switchboard_core::registry::Key;
use switchboard_core::routing::Digest;

use super::super::client::PlainContext;
use super::super::convert;
use super::super::properties::ClientOptions;

/// One look at what has come.
const LOOK: Duration = Duration::from_millis(100);

/// Fetches artifacts by the offsets of their chunks, on a consumer of its own.
pub struct ArtifactReader {
    consumer: BaseConsumer<PlainContext>,
    topic: String,
}

/// Why an artifact is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(
        "chunk {number} of {release} is not at offset {offset} of {topic}: it was removed; deploy the artifact again"
    )]
    Missing { release: String, number: usize, offset: Offset, topic: String },
    #[error("the chunks of {release} do not have its digest, but {found}: deploy the artifact again")]
    Digest { release: String, found: String },
    #[error("{release} was not read from {topic} within {patience:?}; the last error: {error}")]
    Slow { release: String, topic: String, patience: Duration, error: String },
    #[error("reading {topic}: {error}")]
    Kafka { topic: String, error: KafkaError },
}

impl ArtifactReader {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topic: &str) -> KafkaResult<Self> {
        let config = options.control_consumer();
        let consumer = BaseConsumer::from_config_and_context(&config, PlainContext::new(&config))?;
        Ok(Self { consumer, topic: topic.to_owned() })
    }

    /// The bytes of an artifact, which have its digest. `offsets`: of its chunks, as `RegistryState::chunks` gives them.
    ///
    /// # Errors
    /// When a chunk is gone, the bytes are others, or one chunk takes longer than `patience`.
    pub fn fetch(&self, release: &Digest, offsets: &[Offset], patience: Duration) -> Result<Vec<u8>, FetchError> {
        let result = self.read(release, offsets, patience);
        if let Err(error) = self.consumer.unassign() {
            tracing::debug!("unassigning {}: {error}", self.topic);
        }
        let artifact = result?;
        let found = Digest::new(Sha256::digest(&artifact).into());
        if found != *release {
            return Err(FetchError::Digest { release: release.short(), found: found.short() });
        }
        Ok(artifact)
    }

    fn read(&self, release: &Digest, offsets: &[Offset], patience: Duration) -> Result<Vec<u8>, FetchError> {
        let kafka = |error| FetchError::Kafka { topic: self.topic.clone(), error };
        let (mut artifact, mut next, mut last) = (Vec::new(), None, String::from("none"));
        for (number, &offset) in offsets.iter().enumerate() {
            let missing = || {
                let topic = self.topic.clone();
                FetchError::Missing { release: release.short(), number, offset, topic }
            };
            // One deployment writes its chunks side by side.
            if next != Some(offset) {
                let mut list = TopicPartitionList::new();
                let added = list.add_partition_offset(&self.topic, 0, convert::to_absolute(offset));
                added.and_then(|()| self.consumer.assign(&list)).map_err(kafka)?;
            }
            let deadline = Instant::now() + patience;
            loop {
                match self.consumer.poll(LOOK) {
                    Some(Ok(message)) => {
                        let number = u32::try_from(number).unwrap_or(u32::MAX);
                        let key = Key::Chunk { release: *release, number }.to_string();
                        if convert::offset_of(&message) != offset || message.key() != Some(key.as_bytes()) {
                            return Err(missing());
                        }
                        artifact.extend_from_slice(message.payload().ok_or_else(missing)?);
                        next = Some(offset.next());
                        break;
                    }
                    // What was read before is below the stable end.
                    Some(Err(
                        KafkaError::PartitionEOF(_)
                        | KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange),
                    )) => return Err(missing()),
                    Some(Err(error)) => last = error.to_string(),
                    None => {}
                }
                if Instant::now() >= deadline {
                    let (release, topic) = (release.short(), self.topic.clone());
                    return Err(FetchError::Slow { release, topic, patience, error: last });
                }
            }
        }
        Ok(artifact)
    }
}
