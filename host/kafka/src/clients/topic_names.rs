//! Translates between the worker's partitions and the topics of the broker.

use std::sync::Arc;

use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};
use switchboard_core::record::{PartitionIndex, Record, ShardId};
use switchboard_core::worker::{Consumed, GroupOffset, Partition};

use super::convert;
use crate::sys;
use crate::topics::Topology;

/// The names of the topics that a worker reads.
pub(super) struct TopicNames {
    /// Topics of all aliases that were ever consumed. `Partition::Source` has indices into this list.
    sources: Vec<String>,
    repartition: String,
}

impl TopicNames {
    /// No source topic is consumed yet.
    pub(super) fn new(topology: &Topology) -> Self {
        Self { sources: Vec::new(), repartition: topology.repartition.clone() }
    }

    /// Replaces the list of aliases that were ever consumed.
    pub(super) fn set_aliases(&mut self, aliases: &[Arc<str>], topology: &Topology) {
        self.sources = aliases.iter().map(|alias| topology.name(alias)).collect();
    }

    /// The source topic of this index.
    pub(super) fn source(&self, topic: usize) -> &str {
        &self.sources[topic]
    }

    /// The worker's name of a partition; `None` for a topic that was never consumed.
    pub(super) fn partition(&self, topic: &str, index: i32) -> Option<Partition> {
        let index = convert::partition(index);
        if topic == self.repartition {
            return Some(Partition::Shard(index.into()));
        }
        let topic = self.sources.iter().position(|source| source == topic)?;
        Some(Partition::Source { topic, index })
    }

    /// The inverse of `partition`.
    pub(super) fn topic_partition(&self, partition: Partition) -> (&str, PartitionIndex) {
        match partition {
            Partition::Source { topic, index } => (&self.sources[topic], index),
            Partition::Shard(shard) => (&self.repartition, shard.into()),
        }
    }

    /// The shards among these partitions of topics.
    pub(super) fn shards(&self, names: &[(String, i32)]) -> Vec<ShardId> {
        let shard = |(topic, index): &(String, i32)| match self.partition(topic, *index)? {
            Partition::Shard(shard) => Some(shard),
            Partition::Source { .. } => None,
        };
        names.iter().filter_map(shard).collect()
    }

    /// librdkafka's list of these partitions and offsets.
    pub(super) fn offset_list(
        &self,
        partitions: impl IntoIterator<Item = (Partition, KafkaOffset)>,
    ) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in partitions {
            let (topic, index) = self.topic_partition(partition);
            list.add_partition_offset(topic, index.get(), offset).expect("offsets of records are never negative");
        }
        list
    }

    /// librdkafka's list of these partitions, with offsets and metadata.
    pub(super) fn group_offset_list(&self, offsets: &[(Partition, GroupOffset)]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, GroupOffset { offset, metadata }) in offsets {
            let (topic, index) = self.topic_partition(*partition);
            let mut element = list.add_partition(topic, index.get());
            element.set_offset(convert::to_absolute(*offset)).expect("offsets of records are never negative");
            if !metadata.is_empty() {
                element.set_metadata(metadata);
            }
        }
        list
    }

    /// librdkafka's list of these partitions.
    pub(super) fn partition_list(&self, partitions: impl IntoIterator<Item = Partition>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            let (topic, index) = self.topic_partition(partition);
            list.add_partition(topic, index.get());
        }
        list
    }

    /// The worker's form of a record; `None` for a topic that was never consumed.
    pub(super) fn consumed(&self, message: &BorrowedMessage<'_>) -> Option<Consumed> {
        Some(Consumed {
            partition: self.partition(message.topic(), message.partition())?,
            offset: convert::offset_of(message),
            record: Record {
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                headers: message.headers().map(sys::read_headers).unwrap_or_default(),
                timestamp: convert::timestamp_of(message),
            },
        })
    }
}
