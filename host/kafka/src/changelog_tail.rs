//! The changelog for checkpoints: a consumer that stays, beside questions about the topic.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, KafkaResult};

use switchboard_core::record::{Offset, ShardId};

use super::changelog::ChangelogReader;
use super::client::PlainContext;
use super::properties::ClientOptions;
use super::sys;
use super::topology::Topology;
use super::watermarks::Watermarks;
use switchboard_checkpoint::{Changelog, ChangelogError, Polled, Topic};

/// One request: the checkpointer may be late, restores that wait for it should not be.
const REQUEST: Duration = Duration::from_secs(1);

/// Follows the changelog.
pub struct ChangelogTail {
    reader: ChangelogReader,
    readers: Arc<Watermarks>,
    admin: AdminClient<PlainContext>,
    topic: String,
}

impl ChangelogTail {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions, topology: &Topology, readers: Arc<Watermarks>) -> KafkaResult<Self> {
        let (config, topic) = (options.plain(), topology.changelog.clone());
        Ok(Self {
            reader: ChangelogReader::new(&options.tail_consumer(), topic.clone())?,
            readers,
            admin: AdminClient::from_config_and_context(&config, PlainContext::new(&config))?,
            topic,
        })
    }

    /// The topic's actual `delete.retention.ms`.
    fn tombstones(&self) -> Result<Duration, ChangelogError> {
        let topic = &self.topic;
        let (resource, options) =
            ([ResourceSpecifier::Topic(topic)], AdminOptions::new().request_timeout(Some(REQUEST)));
        let described = futures_executor::block_on(self.admin.describe_configs(&resource, &options));
        let described = described.map_err(|error| ChangelogError::call(format!("describing {topic}"), error))?;
        let described = described.into_iter().next();
        let config = described.ok_or_else(|| ChangelogError::Unfit(format!("describing {topic}: no answer")))?;
        let config = config.map_err(|code| {
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
    fn describe(&mut self) -> Result<Topic, ChangelogError> {
        let topic = &self.topic;
        let id = sys::topic_id(self.admin.inner(), topic, REQUEST);
        let id = id.map_err(|error| ChangelogError::call(format!("the topic id of {topic} cannot be had"), error))?;
        // By offsets alone a topic that was made anew and has as many records is the old one.
        let unknown = "the brokers know no topic ids (KIP-516), so that a changelog made anew would not be noticed";
        let id = id.ok_or_else(|| ChangelogError::Unfit(unknown.into()))?;
        Ok(Topic { id, tombstones: self.tombstones()? })
    }

    fn bounds(&mut self, shard: ShardId) -> Result<Range<Offset>, ChangelogError> {
        let bounds = self.readers.stable_bounds(&self.topic, shard.into(), REQUEST);
        let what = || format!("the bounds of {}[{shard}] cannot be had", self.topic);
        bounds.map_err(|error| ChangelogError::call(what(), error))
    }

    fn start(&mut self, shard: ShardId, offset: Offset) -> Result<(), ChangelogError> {
        let started = self.reader.start(shard, offset);
        started.map_err(|error| ChangelogError::call(format!("reading {}[{shard}]", self.topic), error))
    }

    fn stop(&mut self, shard: ShardId) {
        self.reader.stop(shard);
    }

    fn position(&mut self, shard: ShardId) -> Option<Offset> {
        self.reader.position(shard)
    }

    fn poll(&mut self) -> Polled {
        self.reader.poll(Duration::ZERO)
    }
}
