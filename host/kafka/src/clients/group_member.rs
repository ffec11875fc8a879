//! A worker's membership of the consumer group: joining, rebalances, assignment and leaving.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use switchboard_core::record::{Offset, PartitionIndex};

use super::context::{GroupContext, Rebalance};
use super::convert;
use super::options::ClientOptions;
use super::wake_up::WakeUp;
use crate::sys::{self, QueuedConsumer};

/// A worker's membership of the group, which assigns partitions of the repartition topic. Dropping it leaves the group.
pub(super) struct GroupMember {
    consumer: QueuedConsumer<GroupContext>,
    /// A rebalance that the worker got and has not answered yet. librdkafka does not close a consumer that owes an answer:
    /// rdkafka would wait for ever for the close.
    unanswered: Option<Rebalance>,
    /// Partitions were added outside of a rebalance since the queue was last seen empty: see `read_on`.
    added: bool,
    /// The offset from which each partition was last started.
    starts: HashMap<(String, i32), KafkaOffset>,
    /// Partitions that were started paused, and where they start. They are assigned when they are resumed. librdkafka's own resume
    /// does not wake the thread that fetches: without another partition to fetch, the first record could come a second later.
    held: BTreeMap<(String, i32), KafkaOffset>,
    /// When librdkafka's main thread was last woken.
    woken: Instant,
}

/// How often librdkafka's main thread is woken: at least as often as heartbeats are due.
pub(super) const WAKE_INTERVAL: Duration = Duration::from_millis(100);

impl GroupMember {
    /// Joins the group for this topic. The partitions arrive as a rebalance. `wake_up` is woken when there is something to poll.
    pub(super) fn join(options: &ClientOptions, topic: &str, worker: usize, wake_up: WakeUp) -> KafkaResult<Self> {
        let config = options.group_consumer(worker);
        let consumer = BaseConsumer::from_config_and_context(&config, GroupContext::new(&config))?;
        let consumer = QueuedConsumer::new(consumer, move || wake_up.wake_for_consumer());
        consumer.subscribe(&[topic])?;
        let (starts, held) = (HashMap::new(), BTreeMap::new());
        Ok(Self { consumer, unanswered: None, added: false, starts, held, woken: Instant::now() })
    }

    pub(super) fn consumer(&self) -> &BaseConsumer<GroupContext> {
        &self.consumer
    }

    /// The next record or error. Does not wait. A poll may find a rebalance instead: ask for it before and after.
    ///
    /// librdkafka's main thread sends heartbeats. If nothing wakes it, it checks only once a second what is due. A member without
    /// records would notice a rebalance that late, and all other members wait for it. So this wakes the thread at intervals, and
    /// polls then in any case: `max.poll.interval.ms` counts polls, also of an empty queue.
    pub(super) fn poll(&mut self, now: Instant) -> Option<KafkaResult<BorrowedMessage<'_>>> {
        let is_empty = self.consumer.is_empty();
        if is_empty && self.unanswered.is_none() && !self.consumer.context().has_rebalance() {
            self.added = false;
        }
        if now.saturating_duration_since(self.woken) >= WAKE_INTERVAL {
            sys::is_member(&self.consumer);
            self.woken = now;
        } else if is_empty {
            return None;
        }
        self.consumer.poll(Duration::ZERO)
    }

    /// Whether a poll would find nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.consumer.is_empty()
    }

    /// The next rebalance. Answer it by `assign` or `unassign`.
    pub(super) fn next_rebalance(&mut self) -> Option<Rebalance> {
        let rebalance = self.consumer.context().next_rebalance()?;
        self.unanswered = Some(rebalance.clone());
        Some(rebalance)
    }

    /// Adds partitions. Also the answer to an assignment.
    pub(super) fn assign(&mut self, list: &TopicPartitionList) -> KafkaResult<()> {
        self.consumer.incremental_assign(list)?;
        for element in list.elements() {
            self.starts.insert((element.topic().to_owned(), element.partition()), element.offset());
        }
        if self.unanswered.take_if(|rebalance| matches!(rebalance, Rebalance::Assign(_))).is_none() {
            self.added = true;
        } else if std::mem::take(&mut self.added) {
            self.read_on()?;
        }
        Ok(())
    }

    /// Adds partitions that are not read before `resume`.
    pub(super) fn hold(&mut self, list: &TopicPartitionList) {
        for element in list.elements() {
            self.held.insert((element.topic().to_owned(), element.partition()), element.offset());
        }
    }

    /// librdkafka drops what it has read ahead of these partitions, and fetches it again after `resume`.
    pub(super) fn pause(&self, list: &TopicPartitionList) -> KafkaResult<()> {
        let mut assigned = TopicPartitionList::new();
        for element in list.elements() {
            if !self.held.contains_key(&(element.topic().to_owned(), element.partition())) {
                assigned.add_partition(element.topic(), element.partition());
            }
        }
        self.consumer.pause(&assigned)
    }

    pub(super) fn resume(&mut self, list: &TopicPartitionList) -> KafkaResult<()> {
        let (held, assigned) = self.take_held(list)?;
        if held.count() > 0 {
            self.assign(&held)?;
        }
        self.consumer.resume(&assigned)
    }

    /// Those of the partitions that were held, with their offsets, and the others.
    fn take_held(&mut self, list: &TopicPartitionList) -> KafkaResult<(TopicPartitionList, TopicPartitionList)> {
        let (mut held, mut assigned) = (TopicPartitionList::new(), TopicPartitionList::new());
        for element in list.elements() {
            match self.held.remove(&(element.topic().to_owned(), element.partition())) {
                Some(start) => held.add_partition_offset(element.topic(), element.partition(), start)?,
                None => drop(assigned.add_partition(element.topic(), element.partition())),
            }
        }
        Ok((held, assigned))
    }

    /// Makes librdkafka read partitions again that it may hold back for ever.
    ///
    /// librdkafka pauses all assigned partitions at a rebalance. The first `incremental_assign` after that resumes them, even if it
    /// was not meant as the answer to this rebalance. Pauses are queued, and a resume of a partition that is not paused yet has no
    /// effect (`rd_kafka_toppar_op_pause_resume`, 2.12). So if partitions are added at the very moment when the next rebalance
    /// begins, the pauses take effect after the resumes. Giving up a partition and taking it again ends its pause too.
    fn read_on(&mut self) -> KafkaResult<()> {
        tracing::debug!("reassigning all partitions at their positions: one was added while a rebalance began");
        let list = self.consumer.position()?;
        for mut element in list.elements() {
            let start = self.starts.get_mut(&(element.topic().to_owned(), element.partition()));
            let start = start.expect("only partitions that were added are assigned");
            match element.offset() {
                // No record has arrived from this partition.
                KafkaOffset::Invalid => element.set_offset(*start)?,
                position => *start = position,
            }
        }
        self.consumer.incremental_unassign(&list)?;
        self.consumer.incremental_assign(&list)?;
        self.added = true;
        Ok(())
    }

    /// Continues an assigned partition at this offset. It returns when librdkafka has dropped what it had read ahead, so no record
    /// of that arrives after the seek.
    pub(super) fn seek(
        &mut self,
        topic: &str,
        partition: PartitionIndex,
        offset: Offset,
        timeout: Duration,
    ) -> KafkaResult<()> {
        let (partition, offset) = (partition.get(), convert::to_absolute(offset));
        if let Some(start) = self.held.get_mut(&(topic.to_owned(), partition)) {
            *start = offset;
            return Ok(());
        }
        self.starts.insert((topic.to_owned(), partition), offset);
        self.consumer.seek(topic, partition, offset, timeout)
    }

    /// Gives up partitions. Also the answer to a revocation.
    pub(super) fn unassign(&mut self, list: &TopicPartitionList) -> KafkaResult<()> {
        let (_, assigned) = self.take_held(list)?;
        // In librdkafka a pause outlives the assignment: a partition that is assigned again would never be read.
        self.consumer.resume(&assigned)?;
        self.consumer.incremental_unassign(&assigned)?;
        for element in assigned.elements() {
            self.starts.remove(&(element.topic().to_owned(), element.partition()));
        }
        self.unanswered.take_if(|rebalance| matches!(rebalance, Rebalance::Revoke { .. }));
        Ok(())
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        let context = self.consumer.context();
        context.close();
        while let Some(rebalance) = self.unanswered.take().or_else(|| context.next_rebalance()) {
            let answered = match rebalance {
                Rebalance::Assign(_) => self.consumer.incremental_assign(&TopicPartitionList::new()),
                Rebalance::Revoke { partitions, .. } => unassign_assigned(&self.consumer, &partitions),
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "answering a rebalance while closing");
            }
        }
    }
}

/// Gives up those of the partitions that are assigned. To give up one that is not assigned is an error, and answers nothing.
fn unassign_assigned(consumer: &BaseConsumer<GroupContext>, partitions: &[(String, i32)]) -> KafkaResult<()> {
    let assigned = consumer.assignment()?;
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        if assigned.find_partition(topic, *partition).is_some() {
            list.add_partition(topic, *partition);
        }
    }
    consumer.incremental_unassign(&list)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rdkafka::Message as _;

    use super::super::mock::Mock;
    use super::*;

    fn starts(topics: &[&str]) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for topic in topics {
            list.add_partition_offset(topic, 0, KafkaOffset::Offset(0)).unwrap();
        }
        list
    }

    /// Polls until `next` finds something.
    fn until<T>(member: &mut GroupMember, mut next: impl FnMut(&mut GroupMember) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_mins(1);
        while Instant::now() < deadline {
            if let Some(found) = next(member) {
                return found;
            }
        }
        panic!("nothing was found within a minute");
    }

    fn join(options: &ClientOptions) -> GroupMember {
        GroupMember::join(options, "one", 0, WakeUp::default()).unwrap()
    }

    fn next_rebalance(member: &mut GroupMember) -> Option<Rebalance> {
        assert!(member.poll(Instant::now()).is_none());
        member.next_rebalance()
    }

    fn next_offset(member: &mut GroupMember) -> Option<i64> {
        Some(member.poll(Instant::now())?.unwrap().offset())
    }

    /// librdkafka's log on the group while a member is dropped that has not polled since it joined. `pace` sets how long ago that was.
    fn log_of_a_drop(options: &ClientOptions, pace: u32) -> String {
        let log = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(Arc::new(log.reopen().unwrap()));
        tracing::subscriber::with_default(subscriber.finish(), || {
            let member = join(options);
            while !sys::is_member(&member.consumer) {}
            // Each call is a request to the thread that serves the group.
            for _ in 0..pace {
                sys::is_member(&member.consumer);
            }
        });
        std::fs::read_to_string(log.path()).unwrap()
    }

    /// A second answer may arrive when the group has ended, and would wait for ever.
    #[test]
    fn a_close_answers_one_of_two_pending_rebalances() {
        let mock = Mock::with_topics(&["one"]);
        let options = mock.options(&[("debug", "cgrp")]);
        let deadline = Instant::now() + Duration::from_mins(1);
        // Counts closes after an assignment that no poll has seen. The last events are not always logged.
        let mut found = 0;
        for pace in (0..50).cycle() {
            let log = log_of_a_drop(&options, pace);
            let times = |what: &str| log.matches(what).count();
            assert!(times("received op ASSIGN") <= 1, "{log}");
            found += times("delegating incremental assign") * times("delegating incremental revoke");
            if found >= 100 {
                break;
            }
            assert!(Instant::now() < deadline, "only {found} times: {log}");
        }
    }

    /// The mock cluster suffices: the test is about the client's side of a rebalance.
    #[test]
    fn partitions_are_still_read_after_others_were_added_while_a_rebalance_began() {
        let mock = Mock::with_topics(&["one", "other"]);
        let options = mock.options(&[]);
        let mut member = join(&options);
        until(&mut member, next_rebalance);
        member.assign(&starts(&["one"])).unwrap();
        mock.produce("one", 1);
        assert_eq!(until(&mut member, next_offset), 0);

        member.consumer.subscribe(&["one", "other"]).unwrap();
        // So that a call is always under way when the rebalance begins.
        let (consumer, done) = (member.consumer(), AtomicBool::new(false));
        let rebalance = std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        consumer.incremental_assign(&TopicPartitionList::new()).unwrap();
                    }
                });
            }
            let deadline = Instant::now() + Duration::from_mins(1);
            let mut rebalance = None;
            while rebalance.is_none() && Instant::now() < deadline {
                assert!(consumer.poll(Duration::ZERO).is_none());
                rebalance = consumer.context().next_rebalance();
            }
            done.store(true, Ordering::Relaxed);
            rebalance.expect("a rebalance comes")
        });
        (member.added, member.unanswered) = (true, Some(rebalance));
        member.assign(&starts(&["other"])).unwrap();
        for offset in 1..4 {
            mock.produce("one", 1);
            assert_eq!(until(&mut member, next_offset), offset);
        }
    }
}
