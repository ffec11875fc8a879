use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, TopicPartitionList};

use switchboard_core::record::{Offset, ShardId};

use super::client::{PlainContext, ThrottledWarn};
use super::convert;
use switchboard_checkpoint::Polled;

const METADATA: Duration = Duration::from_millis(500);

/// Reads partitions of the changelog, read_committed, by hand-made assignments: a member of no group.
pub(super) struct ChangelogReader {
    consumer: BaseConsumer<PlainContext>,
    changelog: String,
    /// Shards being read -> whether anything has been heard of them.
    reading: BTreeMap<ShardId, bool>,
    nag: ThrottledWarn,
}

impl ChangelogReader {
    pub(super) fn new(config: &ClientConfig, changelog: String) -> KafkaResult<Self> {
        let consumer = BaseConsumer::from_config_and_context(config, PlainContext::new(config))?;
        Ok(Self { consumer, changelog, reading: BTreeMap::new(), nag: ThrottledWarn::default() })
    }

    /// Asks where the leaders are: the first assignment would wait for it in steps of 500 ms. When no broker answers it will.
    pub(super) fn find_leaders(&self) {
        if let Err(error) = self.consumer.fetch_metadata(Some(&self.changelog), METADATA) {
            tracing::debug!("metadata of {}: {error}", self.changelog);
        }
    }

    /// The offset is an absolute one: a logical one costs a question more, asked again after 500 ms.
    pub(super) fn start(&mut self, shard: ShardId, offset: Offset) -> KafkaResult<()> {
        self.reading.insert(shard, false);
        self.consumer.incremental_assign(&self.partition(shard, offset))
    }

    pub(super) fn stop(&mut self, shard: ShardId) {
        if self.reading.remove(&shard).is_some()
            && let Err(error) = self.consumer.incremental_unassign(&self.partition(shard, Offset::ZERO))
        {
            tracing::debug!(shard = shard.get(), "unassigning the changelog: {error}");
        }
    }

    /// The offset to go on from. Control records count: they are given out to nobody, but the position moves past them.
    pub(super) fn position(&self, shard: ShardId) -> Option<Offset> {
        // librdkafka forgets the position of a former assignment only some time after its end.
        if self.reading.get(&shard) != Some(&true) {
            return None;
        }
        let positions = self.consumer.position().ok()?;
        convert::absolute(positions.find_partition(&self.changelog, shard.get())?.offset())
    }

    pub(super) fn poll(&mut self, wait: Duration) -> Polled {
        match self.consumer.poll(wait) {
            None => Polled::Nothing,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                let shard = convert::partition(partition).into();
                self.reading.entry(shard).and_modify(|heard| *heard = true);
                Polled::End { shard }
            }
            Some(Err(KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange))) => {
                Polled::Gone(format!("records of {} were deleted before they were read", self.changelog))
            }
            Some(Err(error)) => {
                self.nag.warn(format!("reading the changelog {}: {error}; trying on", self.changelog));
                Polled::Nothing
            }
            Some(Ok(message)) => {
                let shard = convert::partition(message.partition()).into();
                self.reading.entry(shard).and_modify(|heard| *heard = true);
                Polled::Record {
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
