//! Fetches artifacts from the control topic.

use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use sha2::{Digest as _, Sha256};
use switchboard_core::record::Offset;
use switchboard_core::registry::Key;
use switchboard_core::routing::Digest;

use crate::clients::context::PlainContext;
use crate::clients::{ClientOptions, convert, new_client};

/// One poll for a chunk.
const CHUNK_POLL: Duration = Duration::from_millis(100);

/// Fetches artifacts by the offsets of their chunks, with a consumer of its own.
pub struct ArtifactReader {
    consumer: BaseConsumer<PlainContext>,
    topic: String,
}

/// Why an artifact cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A chunk is not at its offset any more.
    #[error(
        "chunk {number} of {release} is not at offset {offset} of {topic}: it was removed; deploy the artifact again"
    )]
    Missing {
        /// The short digest.
        release: String,
        /// The chunk's number.
        number: usize,
        /// Where it was written.
        offset: Offset,
        /// The control topic.
        topic: String,
    },
    /// The chunks are those of other bytes.
    #[error("the chunks of {release} do not have its digest, but {found}: deploy the artifact again")]
    Digest {
        /// The short digest.
        release: String,
        /// The short digest of the bytes that are there.
        found: String,
    },
    /// A chunk did not arrive in time.
    #[error("{release} was not read from {topic} within {timeout:?}; the last error: {error}")]
    Slow {
        /// The short digest.
        release: String,
        /// The control topic.
        topic: String,
        /// The time for one chunk.
        timeout: Duration,
        /// The last error of the consumer, or `none`.
        error: String,
    },
    /// The consumer refuses the assignment.
    #[error("{topic} cannot be read: {source}")]
    Kafka {
        /// The control topic.
        topic: String,
        /// Why it cannot be read.
        source: KafkaError,
    },
}

impl ArtifactReader {
    /// A reader of this control topic.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topic: &str) -> KafkaResult<Self> {
        Ok(Self { consumer: new_client(&options.control_consumer())?, topic: topic.to_owned() })
    }

    /// Fetches the bytes of an artifact and checks their digest. `offsets` are those of its chunks, from `RegistryState::chunks`.
    ///
    /// # Errors
    /// When a chunk is missing, the bytes have another digest, or one chunk takes longer than `timeout`.
    pub fn fetch(&self, release: &Digest, offsets: &[Offset], timeout: Duration) -> Result<Vec<u8>, FetchError> {
        let result = self.read(release, offsets, timeout);
        if let Err(error) = self.consumer.unassign() {
            tracing::debug!(topic = %self.topic, %error, "unassigning the control topic");
        }
        let artifact = result?;
        let found = Digest::new(Sha256::digest(&artifact).into());
        if found != *release {
            return Err(FetchError::Digest { release: release.short(), found: found.short() });
        }
        Ok(artifact)
    }

    fn read(&self, release: &Digest, offsets: &[Offset], timeout: Duration) -> Result<Vec<u8>, FetchError> {
        let kafka = |source| FetchError::Kafka { topic: self.topic.clone(), source };
        let (mut artifact, mut next, mut last) = (Vec::new(), None, String::from("none"));
        for (number, &offset) in offsets.iter().enumerate() {
            let missing = || {
                let topic = self.topic.clone();
                FetchError::Missing { release: release.short(), number, offset, topic }
            };
            // A deployment writes its chunks one after the other, so the consumer mostly continues where it is.
            if next != Some(offset) {
                let mut list = TopicPartitionList::new();
                let added = list.add_partition_offset(&self.topic, 0, convert::to_absolute(offset));
                added.and_then(|()| self.consumer.assign(&list)).map_err(kafka)?;
            }
            let deadline = Instant::now() + timeout;
            loop {
                match self.consumer.poll(CHUNK_POLL) {
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
                    // The offsets came from records that were read, so they are below the stable end.
                    Some(Err(
                        KafkaError::PartitionEOF(_)
                        | KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange),
                    )) => return Err(missing()),
                    Some(Err(error)) => last = error.to_string(),
                    None => {}
                }
                if Instant::now() >= deadline {
                    let (release, topic) = (release.short(), self.topic.clone());
                    return Err(FetchError::Slow { release, topic, timeout, error: last });
                }
            }
        }
        Ok(artifact)
    }
}
