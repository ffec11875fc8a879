//! Deletes processed records from the repartition topic, in which nothing expires by itself.

use std::time::Duration;

use rdkafka::admin::AdminOptions;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::internal_topics::Admin;
use super::topology::Topology;
use super::{TOPIC_REQUEST_TIMEOUT, block_on};
use crate::clients::context::PlainContext;
use crate::clients::{ClientOptions, new_client};
use crate::{Shutdown, ThrottledWarn};

/// Deletes the records of the repartition topic below the group's committed offsets, at an interval, as Kafka Streams does with its
/// repartition topics. Every host of an application does it for all shards: to delete records twice does no harm.
pub struct Purge {
    consumer: BaseConsumer<PlainContext>,
    admin: Admin,
    topic: String,
    shard_count: i32,
}

impl Purge {
    /// A purge of the application's repartition topic, which has a partition for each shard.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topology: &Topology, shards: u32, admin: Admin) -> KafkaResult<Self> {
        let mut config = options.plain();
        // This consumer only asks for the group's offsets. Without a subscription it is no member. read_committed asks for stable
        // offsets: while one is pending in a transaction, the coordinator refuses to answer.
        config.set("group.id", &options.app).set("isolation.level", "read_committed");
        let shard_count = i32::try_from(shards).unwrap_or(i32::MAX);
        Ok(Self { consumer: new_client(&config)?, admin, topic: topology.repartition.clone(), shard_count })
    }

    /// Runs until a stop is requested.
    pub fn run(&self, interval: Duration, stop: &Shutdown) {
        let mut trouble = ThrottledWarn::default();
        while !stop.wait(interval) {
            if let Err(error) = self.purge() {
                trouble.report(error.to_string(), || {
                    tracing::warn!(topic = %self.topic, %error, "processed records cannot be deleted; retrying");
                });
            }
        }
    }

    fn purge(&self) -> KafkaResult<()> {
        let mut shards = TopicPartitionList::new();
        shards.add_partition_range(&self.topic, 0, self.shard_count - 1);
        let committed = self.consumer.committed_offsets(shards, TOPIC_REQUEST_TIMEOUT)?;
        let mut processed = TopicPartitionList::new();
        for shard in committed.elements() {
            if let (Ok(()), Offset::Offset(offset)) = (shard.error(), shard.offset()) {
                processed.add_partition_offset(&self.topic, shard.partition(), Offset::Offset(offset))?;
            }
        }
        if processed.count() == 0 {
            return Ok(());
        }
        let timeout = Some(TOPIC_REQUEST_TIMEOUT);
        let options = AdminOptions::new().request_timeout(timeout).operation_timeout(timeout);
        let deleted = block_on(self.admin.0.delete_records(&processed, &options))?;
        deleted.elements().iter().try_for_each(TopicPartitionListElem::error)
    }
}
