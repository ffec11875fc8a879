use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;

use super::client::{GroupContext, Rebalance, unassign_ours};
use super::native;
use super::properties::ClientOptions;

/// A worker's membership of the group. Dropping it leaves the group.
pub(super) struct Member {
    consumer: BaseConsumer<GroupContext>,
    /// A rebalance that was handed out and is not yet answered. librdkafka does not close a consumer that owes an answer:
    /// rdkafka would wait for its end for ever.
    unanswered: Option<Rebalance>,
    /// When librdkafka's main thread was last woken.
    woken: Instant,
}

/// At least as often as heartbeats are due.
const WAKE_EVERY: Duration = Duration::from_millis(100);

impl Member {
    /// Joins the group for these topics; the partitions come as a rebalance.
    pub(super) fn join(options: &ClientOptions, topics: &[String], worker: usize) -> KafkaResult<Self> {
        let config = options.group_consumer(worker);
        let consumer = BaseConsumer::from_config_and_context(&config, GroupContext::new(&config))?;
        let member = Self { consumer, unanswered: None, woken: Instant::now() };
        member.subscribe(topics)?;
        Ok(member)
    }

    /// From now on other topics; the change comes as a rebalance.
    pub(super) fn subscribe(&self, topics: &[String]) -> KafkaResult<()> {
        self.consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub(super) fn consumer(&self) -> &BaseConsumer<GroupContext> {
        &self.consumer
    }

    /// To be called while nothing comes in. librdkafka's main thread sends heartbeats, and when nothing wakes it it looks
    /// for what is due only once a second: an idle member would hear of a rebalance so late, and all the others wait for it.
    pub(super) fn keep_pace(&mut self) {
        if self.woken.elapsed() >= WAKE_EVERY {
            native::is_member(&self.consumer);
            self.woken = Instant::now();
        }
    }

    /// The next rebalance, to be answered by `assign` or `unassign`.
    pub(super) fn next_rebalance(&mut self) -> Option<Rebalance> {
        let rebalance = self.consumer.context().next_rebalance()?;
        self.unanswered = Some(rebalance.clone());
        Some(rebalance)
    }

    /// Adds partitions, some of them paused. Nothing is polled in between, so no record of these gets through.
    pub(super) fn assign(&mut self, list: &TopicPartitionList, paused: &TopicPartitionList) -> KafkaResult<()> {
        self.consumer.incremental_assign(list)?;
        self.unanswered.take_if(|rebalance| matches!(rebalance, Rebalance::Assign(_)));
        self.consumer.pause(paused)
    }

    pub(super) fn unassign(&mut self, list: &TopicPartitionList) -> KafkaResult<()> {
        // In librdkafka a pause outlives the assignment: a partition that comes back would never be read again.
        self.consumer.resume(list)?;
        self.consumer.incremental_unassign(list)?;
        self.unanswered.take_if(|rebalance| matches!(rebalance, Rebalance::Revoke { .. }));
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let context = self.consumer.context();
        context.close();
        while let Some(rebalance) = self.unanswered.take().or_else(|| context.next_rebalance()) {
            let answered = match rebalance {
                Rebalance::Assign(_) => self.consumer.incremental_assign(&TopicPartitionList::new()),
                Rebalance::Revoke { partitions, .. } => unassign_ours(&self.consumer, &partitions),
            };
            if let Err(error) = answered {
                tracing::debug!("answering a rebalance at the end: {error}");
            }
        }
    }
}
