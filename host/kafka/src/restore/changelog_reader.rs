//! A consumer that reads partitions of the changelog.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, TopicPartitionList};
use switchboard_checkpoint::{ChangelogEvent, ThrottledWarn};
use switchboard_core::record::{Offset, ShardId};

use crate::clients::context::PlainContext;
use crate::clients::{convert, new_client};

/// How long the request for the changelog's leaders may take.
const METADATA_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// Reads partitions of the changelog, read_committed. Its partitions are assigned by hand; it joins no group.
pub(super) struct ChangelogReader {
    consumer: BaseConsumer<PlainContext>,
    changelog: String,
    /// Shards that are being read -> whether the current assignment has brought a record or an end.
    reading: BTreeMap<ShardId, bool>,
    trouble: ThrottledWarn,
}

impl ChangelogReader {
    pub(super) fn new(config: &ClientConfig, changelog: String) -> KafkaResult<Self> {
        Ok(Self {
            consumer: new_client(config)?,
            changelog,
            reading: BTreeMap::new(),
            trouble: ThrottledWarn::default(),
        })
    }

    /// Asks for the leaders: otherwise the first assignment waits for them in steps of 500 ms. It still does if no broker answers.
    pub(super) fn find_leaders(&self) {
        if let Err(error) = self.consumer.fetch_metadata(Some(&self.changelog), METADATA_REQUEST_TIMEOUT) {
            tracing::debug!(topic = %self.changelog, %error, "requesting metadata");
        }
    }

    /// Starts to read a shard. The offset is absolute: a logical one costs another request, repeated after 500 ms.
    pub(super) fn start(&mut self, shard: ShardId, offset: Offset) -> KafkaResult<()> {
        self.reading.insert(shard, false);
        self.consumer.incremental_assign(&self.partition(shard, offset))
    }

    pub(super) fn stop(&mut self, shard: ShardId) {
        if self.reading.remove(&shard).is_some()
            && let Err(error) = self.consumer.incremental_unassign(&self.partition(shard, Offset::ZERO))
        {
            tracing::debug!(shard = shard.get(), %error, "unassigning the changelog");
        }
    }

    /// The next offset. Control records count: no poll returns them, but the position moves past them.
    pub(super) fn position(&self, shard: ShardId) -> Option<Offset> {
        // librdkafka keeps the position of a previous assignment for some time after its end.
        if self.reading.get(&shard) != Some(&true) {
            return None;
        }
        let positions = self.consumer.position().ok()?;
        convert::absolute(positions.find_partition(&self.changelog, shard.get())?.offset())
    }

    pub(super) fn poll(&mut self, wait: Duration) -> ChangelogEvent {
        match self.consumer.poll(wait) {
            None => ChangelogEvent::Nothing,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                let shard = convert::partition(partition).into();
                self.reading.entry(shard).and_modify(|started| *started = true);
                ChangelogEvent::End { shard }
            }
            Some(Err(KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange))) => {
                ChangelogEvent::Gone(format!("records of {} were deleted before they were read", self.changelog))
            }
            Some(Err(error)) => {
                self.trouble.report(error.to_string(), || {
                    tracing::warn!(topic = %self.changelog, %error, "the changelog cannot be read; retrying");
                });
                ChangelogEvent::Nothing
            }
            Some(Ok(message)) => {
                let shard = convert::partition(message.partition()).into();
                self.reading.entry(shard).and_modify(|started| *started = true);
                ChangelogEvent::Record {
                    shard,
                    offset: convert::offset_of(&message),
                    key: message.key().unwrap_or_default().to_vec(),
                    value: message.payload().map(<[u8]>::to_vec),
                }
            }
        }
    }

    fn partition(&self, shard: ShardId, offset: Offset) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        let offset = convert::to_absolute(offset);
        list.add_partition_offset(&self.changelog, shard.get(), offset).expect("offsets are never negative");
        list
    }
}
