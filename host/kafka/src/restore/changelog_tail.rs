//! The changelog for checkpoints: a consumer that follows it, and requests about the topic.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::error::{KafkaError, KafkaResult};
use switchboard_checkpoint::{Changelog, ChangelogError, ChangelogEvent, ChangelogTopic};
use switchboard_core::record::{Offset, ShardId};

use super::changelog_reader::ChangelogReader;
use crate::clients::ClientOptions;
use crate::clients::context::PlainContext;
use crate::clients::new_client;
use crate::sys::describe;
use crate::topics::{Topology, Watermarks, block_on};

/// One request. The checkpointer may be slow, but restores wait for it.
const CHANGELOG_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Follows the changelog for the checkpointer.
pub struct ChangelogTail {
    reader: ChangelogReader,
    watermarks: Arc<Watermarks>,
    admin: AdminClient<PlainContext>,
    topic: String,
}

impl ChangelogTail {
    /// A tail that reads nothing yet.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topology: &Topology, watermarks: Arc<Watermarks>) -> KafkaResult<Self> {
        let topic = topology.changelog.clone();
        Ok(Self {
            reader: ChangelogReader::new(&options.tail_consumer(), topic.clone())?,
            watermarks,
            admin: new_client(&options.plain())?,
            topic,
        })
    }

    /// The topic's actual `delete.retention.ms`.
    fn tombstone_retention(&self) -> Result<Duration, ChangelogError> {
        let topic = &self.topic;
        let (resource, options) =
            ([ResourceSpecifier::Topic(topic)], AdminOptions::new().request_timeout(Some(CHANGELOG_REQUEST_TIMEOUT)));
        let described = block_on(self.admin.describe_configs(&resource, &options))
            .map_err(|error| ChangelogError::call(format!("the configuration of {topic} cannot be fetched"), error))?;
        let described = described.into_iter().next();
        let no_answer = || ChangelogError::Unfit(format!("the answer has no configuration of {topic}"));
        let config = described.ok_or_else(no_answer)?.map_err(|code| {
            let what = format!(
                "delete.retention.ms of {topic} cannot be read (allow this client DESCRIBE_CONFIGS on the topic)"
            );
            ChangelogError::call(what, KafkaError::AdminOp(code))
        })?;
        let value = config.get("delete.retention.ms").and_then(|entry| entry.value.as_deref()?.parse().ok());
        value
            .map(Duration::from_millis)
            .ok_or_else(|| ChangelogError::Unfit(format!("{topic} has no delete.retention.ms")))
    }
}

impl Changelog for ChangelogTail {
    fn describe(&mut self) -> Result<ChangelogTopic, ChangelogError> {
        let topic = &self.topic;
        let id = describe::topic_id(self.admin.inner(), topic, CHANGELOG_REQUEST_TIMEOUT)
            .map_err(|error| ChangelogError::call(format!("the topic id of {topic} cannot be fetched"), error))?;
        // Offsets alone do not show that a topic was created again if the new one has as many records.
        let unknown =
            "the brokers know no topic ids (KIP-516), so a changelog that was created again could not be recognized";
        let id = id.ok_or_else(|| ChangelogError::Unfit(unknown.into()))?;
        Ok(ChangelogTopic { id, tombstone_retention: self.tombstone_retention()? })
    }

    fn bounds(&mut self, shard: ShardId) -> Result<Range<Offset>, ChangelogError> {
        let bounds = self.watermarks.stable_bounds(&self.topic, shard.into(), CHANGELOG_REQUEST_TIMEOUT);
        let what = || format!("the bounds of {}[{shard}] cannot be fetched", self.topic);
        bounds.map_err(|error| ChangelogError::call(what(), error))
    }

    fn start(&mut self, shard: ShardId, offset: Offset) -> Result<(), ChangelogError> {
        let started = self.reader.start(shard, offset);
        started.map_err(|error| ChangelogError::call(format!("{}[{shard}] cannot be read", self.topic), error))
    }

    fn stop(&mut self, shard: ShardId) {
        self.reader.stop(shard);
    }

    fn position(&mut self, shard: ShardId) -> Option<Offset> {
        self.reader.position(shard)
    }

    fn poll(&mut self) -> ChangelogEvent {
        self.reader.poll(Duration::ZERO)
    }
}
