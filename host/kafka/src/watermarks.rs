use std::ops::Range;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;

use switchboard_core::record::{Offset, PartitionIndex};

use super::client::PlainContext;
use super::convert;
use super::properties::ClientOptions;

/// Clients that ask where logs begin and end; one pair serves all workers of a process.
///
/// They fetch nothing: a broker answers the requests of a connection one after the other, so on a consumer's own
/// connection the question would wait behind a fetch for up to `fetch.wait.max.ms`.
pub struct Watermarks {
    committed: BaseConsumer<PlainContext>,
    uncommitted: BaseConsumer<PlainContext>,
}

impl Watermarks {
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions) -> KafkaResult<Self> {
        let reader = |isolation: &str| {
            let mut config = options.plain();
            config.set("isolation.level", isolation);
            BaseConsumer::from_config_and_context(&config, PlainContext::new(&config))
        };
        Ok(Self { committed: reader("read_committed")?, uncommitted: reader("read_uncommitted")? })
    }

    /// The log's start and its last stable offset.
    pub(super) fn stable_bounds(
        &self,
        topic: &str,
        partition: PartitionIndex,
        wait: Duration,
    ) -> KafkaResult<Range<Offset>> {
        self.committed.fetch_watermarks(topic, partition.get(), wait).and_then(convert::watermarks)
    }

    /// The log's high watermark, open transactions included.
    pub(super) fn high_watermark(&self, topic: &str, partition: PartitionIndex, wait: Duration) -> KafkaResult<Offset> {
        let watermarks = self.uncommitted.fetch_watermarks(topic, partition.get(), wait);
        watermarks.and_then(convert::watermarks).map(|watermarks| watermarks.end)
    }
}
