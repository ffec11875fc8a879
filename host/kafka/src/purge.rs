//! Removes what is processed from the repartition topic, which itself lets nothing expire.

use std::time::Duration;

use rdkafka::admin::AdminOptions;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{PlainContext, ThrottledWarn};
use super::properties::ClientOptions;
use super::topics::Admin;
use super::topology::Topology;
use crate::Shutdown;

/// One request; a stop waits for its end.
const REQUEST: Duration = Duration::from_secs(2);

/// Deletes, every so often, the records of the repartition topic below the group's committed offsets, as Kafka Streams does with
/// its repartition topics. Every host of an application does it for all shards: what is deleted twice is deleted.
pub struct Purge {
    consumer: BaseConsumer<PlainContext>,
    admin: Admin,
    topic: String,
    shards: i32,
}

impl Purge {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topology: &Topology, admin: Admin) -> KafkaResult<Self> {
        let mut config = options.plain();
        // Asks for the group's offsets; a consumer that subscribes to nothing is no member.
        config.set("group.id", &options.app).set("isolation.level", "read_committed");
        let consumer = BaseConsumer::from_config_and_context(&config, PlainContext::new(&config))?;
        let shards = i32::try_from(topology.shard_count).unwrap_or(i32::MAX);
        Ok(Self { consumer, admin, topic: topology.shards.clone(), shards })
    }

    /// Goes on until a stop is asked for.
    pub fn run(&self, every: Duration, stop: &Shutdown) {
        let mut nag = ThrottledWarn::default();
        while !stop.wait(every) {
            if let Err(error) = self.purge() {
                nag.warn(format!("processed records of {} cannot be deleted: {error}; trying on", self.topic));
            }
        }
    }

    fn purge(&self) -> KafkaResult<()> {
        let mut shards = TopicPartitionList::new();
        shards.add_partition_range(&self.topic, 0, self.shards - 1);
        let committed = self.consumer.committed_offsets(shards, REQUEST)?;
        let mut processed = TopicPartitionList::new();
        for shard in committed.elements() {
            if let (Ok(()), Offset::Offset(offset)) = (shard.error(), shard.offset()) {
                processed.add_partition_offset(&self.topic, shard.partition(), Offset::Offset(offset))?;
            }
        }
        if processed.count() == 0 {
            return Ok(());
        }
        let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
        let deleted = futures_executor::block_on(self.admin.0.delete_records(&processed, &options))?;
        deleted.elements().iter().try_for_each(TopicPartitionListElem::error)
    }
}
