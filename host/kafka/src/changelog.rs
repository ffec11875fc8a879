use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::client::{PlainContext, ThrottledWarn};
use switchboard_checkpoint::Polled;

const METADATA: Duration = Duration::from_millis(500);

/// Reads partitions of the changelog, read_committed, by hand-made assignments: a member of no group.
pub(super) struct ChangelogReader {
    consumer: BaseConsumer<PlainContext>,
    changelog: String,
    /// Shards being read -> whether anything has been heard of them.
    reading: BTreeMap<i32, bool>,
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
    pub(super) fn start(&mut self, shard: i32, offset: i64) -> KafkaResult<()> {
        self.reading.insert(shard, false);
        self.consumer.incremental_assign(&self.partition(shard, offset))
    }

    pub(super) fn stop(&mut self, shard: i32) {
        if self.reading.remove(&shard).is_some()
            && let Err(error) = self.consumer.incremental_unassign(&self.partition(shard, 0))
        {
            tracing::debug!(shard, "unassigning the changelog: {error}");
        }
    }

    /// The offset to go on from. Control records count: they are given out to nobody, but the position moves past them.
    pub(super) fn position(&self, shard: i32) -> Option<i64> {
        // librdkafka forgets the position of a former assignment only some time after its end.
        if self.reading.get(&shard) != Some(&true) {
            return None;
        }
        let positions = self.consumer.position().ok()?;
        match positions.find_partition(&self.changelog, shard)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    pub(super) fn poll(&mut self, wait: Duration) -> Polled {
        match self.consumer.poll(wait) {
            None => Polled::Nothing,
            Some(Err(KafkaError::PartitionEOF(shard))) => {
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
                let shard = message.partition();
                self.reading.entry(shard).and_modify(|heard| *heard = true);
                Polled::Record {
                    shard,
                    offset: message.offset(),
                    key: message.key().unwrap_or_default().to_vec(),
                    value: message.payload().map(<[u8]>::to_vec),
                }
            }
        }
    }

    fn partition(&self, shard: i32, offset: i64) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.changelog, shard, Offset::Offset(offset)).expect("offsets are never negative");
        list
    }
}
