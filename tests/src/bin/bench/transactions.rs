//! The number of committed transactions of an application, from the broker's transaction log.
//!
//! The topic `__transaction_state` has a record for each change of a transactional id. Its key has a version (2 bytes)
//! and the transactional id, prefixed by its length (2 bytes). Its value begins with a version (2 bytes), the producer
//! id (8), the producer epoch (2), the time-out (4) and the state (1).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use switchboard_tests::app::App;
use switchboard_tests::client::unique;
use switchboard_tests::kafka::Kafka;
use switchboard_tests::progress::Stall;

use crate::clients::{STALL_LIMIT, consumer};

const TOPIC: &str = "__transaction_state";
/// The position of the state in a value.
const STATE_AT: usize = 2 + 8 + 2 + 4;
/// The state of a transaction that is committed, with all its markers.
const COMPLETE_COMMIT: u8 = 4;

/// A count that runs.
pub(crate) struct TransactionCount<'a> {
    kafka: &'a Kafka,
    app: &'a App,
    /// The ends of the log's partitions when the count began.
    from: Vec<i64>,
}

impl<'a> TransactionCount<'a> {
    /// Begins to count the committed transactions of an application.
    pub(crate) fn start(kafka: &'a Kafka, app: &'a App) -> Result<Self> {
        Ok(Self { kafka, app, from: app.client.ends(TOPIC, false)? })
    }

    /// The number of transactions that were committed since then.
    pub(crate) fn finish(self) -> Result<u64> {
        let ends = self.app.client.ends(TOPIC, false)?;
        let mut left = BTreeMap::new();
        let mut assignment = TopicPartitionList::new();
        for (partition, (from, end)) in (0..).zip(self.from.iter().zip(&ends)) {
            if from < end {
                left.insert(partition, *end);
                assignment.add_partition_offset(TOPIC, partition, Offset::Offset(*from))?;
            }
        }
        let consumer: BaseConsumer = consumer(self.kafka, &unique("transactions"))?;
        consumer.assign(&assignment)?;
        let prefix = format!("{}-", self.app.name);
        let (mut read, mut count) = (0_u64, 0);
        let mut stall = Stall::with_limit(read, STALL_LIMIT);
        while !left.is_empty() {
            stall.check(read).context("the transaction log is not read to its end")?;
            let Some(message) = consumer.poll(Duration::from_millis(50)) else { continue };
            let message = message?;
            read += 1;
            if left.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                left.remove(&message.partition());
            }
            count += u64::from(is_commit(message.key(), message.payload(), &prefix));
        }
        Ok(count)
    }
}

/// Whether a record of the log says that a transaction of an id with this prefix is committed.
fn is_commit(key: Option<&[u8]>, value: Option<&[u8]>, prefix: &str) -> bool {
    let id = key.and_then(|key| key.get(4..));
    let state = value.and_then(|value| value.get(STATE_AT));
    id.is_some_and(|id| id.starts_with(prefix.as_bytes())) && state == Some(&COMPLETE_COMMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Vec<u8> {
        [&[0, 0, 0, u8::try_from(id.len()).unwrap()], id.as_bytes()].concat()
    }

    fn value(state: u8) -> Vec<u8> {
        [vec![0; STATE_AT], vec![state, 0, 0]].concat()
    }

    #[test]
    fn only_complete_commits_of_the_application_count() {
        let is_commit = |id, state| is_commit(Some(&key(id)), Some(&value(state)), "app-1-");
        assert!(is_commit("app-1-switchboard-0-0", 4));
        assert!(!is_commit("app-1-switchboard-0-0", 2), "its markers are not written");
        assert!(!is_commit("app-1-switchboard-0-0", 5), "it was aborted");
        assert!(!is_commit("app-10-switchboard-0-0", 4), "another application");
    }

    #[test]
    fn a_deleted_id_is_no_commit() {
        assert!(!is_commit(Some(&key("app-1-0")), None, "app-1-"));
    }
}
