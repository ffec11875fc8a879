use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use switchboard_core::worker::Restored;

use super::client::{Nag, PlainContext};

const METADATA: Duration = Duration::from_millis(500);

/// Reads changelogs, read_committed, by hand-made assignments, so that the group consumer goes on meanwhile.
pub(super) struct Restore {
    consumer: BaseConsumer<PlainContext>,
    changelog: String,
    reading: BTreeSet<i32>,
    nag: Nag,
}

impl Restore {
    pub(super) fn new(config: &ClientConfig, changelog: String) -> KafkaResult<Self> {
        let consumer = BaseConsumer::from_config_and_context(config, PlainContext::new(config))?;
        // Where the leaders are is known before the first assignment, which else waits for it in steps of 500 ms. When
        // no broker answers it will.
        if let Err(error) = consumer.fetch_metadata(Some(&changelog), METADATA) {
            tracing::debug!("metadata of {changelog}: {error}");
        }
        Ok(Self { consumer, changelog, reading: BTreeSet::new(), nag: Nag::default() })
    }

    /// The offset is one of a record or the log's start: a logical one costs a question more, asked again after 500 ms.
    pub(super) fn start(&mut self, shard: i32, offset: i64) -> KafkaResult<()> {
        self.reading.insert(shard);
        self.consumer.incremental_assign(&self.partition(shard, offset))
    }

    pub(super) fn stop(&mut self, shard: i32) {
        if self.reading.remove(&shard)
            && let Err(error) = self.consumer.incremental_unassign(&self.partition(shard, 0))
        {
            tracing::debug!(shard, "unassigning the changelog: {error}");
        }
    }

    pub(super) fn stop_all(&mut self) {
        for shard in std::mem::take(&mut self.reading) {
            self.reading.insert(shard);
            self.stop(shard);
        }
    }

    pub(super) fn poll(&mut self, wait: Duration) -> Restored {
        match self.consumer.poll(wait) {
            None => Restored::Nothing,
            // Reading began after the stable end had come up to the high watermark that is to be reached, so whichever
            // end this is, it is not before that.
            Some(Err(KafkaError::PartitionEOF(shard))) => Restored::End { shard },
            Some(Err(error)) => {
                self.nag.warn(format!("reading the changelog {}: {error}; trying on", self.changelog));
                Restored::Nothing
            }
            Some(Ok(message)) => Restored::Record {
                shard: message.partition(),
                key: message.key().unwrap_or_default().to_vec(),
                value: message.payload().map(<[u8]>::to_vec),
            },
        }
    }

    fn partition(&self, shard: i32, offset: i64) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.changelog, shard, Offset::Offset(offset)).expect("offsets are never negative");
        list
    }
}
