//! Where logs start and end.

use std::ops::Range;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use switchboard_core::record::{Offset, PartitionIndex};

use crate::clients::context::PlainContext;
use crate::clients::{ClientOptions, convert, new_client};

/// Clients that ask where logs start and end. One pair serves all workers of a process.
///
/// They fetch no records. A broker answers the requests of a connection one after the other, so on a consumer's connection the
/// request would wait behind a fetch for up to `fetch.wait.max.ms`.
pub struct Watermarks {
    committed: BaseConsumer<PlainContext>,
    uncommitted: BaseConsumer<PlainContext>,
}

impl Watermarks {
    /// Creates the clients.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(options: &ClientOptions) -> KafkaResult<Self> {
        let client = |isolation: &str| new_client(options.plain().set("isolation.level", isolation));
        Ok(Self { committed: client("read_committed")?, uncommitted: client("read_uncommitted")? })
    }

    /// The log's start and its last stable offset.
    pub(crate) fn stable_bounds(
        &self,
        topic: &str,
        partition: PartitionIndex,
        timeout: Duration,
    ) -> KafkaResult<Range<Offset>> {
        self.committed.fetch_watermarks(topic, partition.get(), timeout).and_then(convert::watermarks)
    }

    /// The log's high watermark: its end, open transactions included.
    pub(crate) fn high_watermark(
        &self,
        topic: &str,
        partition: PartitionIndex,
        timeout: Duration,
    ) -> KafkaResult<Offset> {
        let watermarks = self.uncommitted.fetch_watermarks(topic, partition.get(), timeout);
        watermarks.and_then(convert::watermarks).map(|watermarks| watermarks.end)
    }
}
