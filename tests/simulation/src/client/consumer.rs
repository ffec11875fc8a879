//! The consumers: the one in the group, the one of sources, and the one that restores state.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use switchboard_core::record::{Offset, ShardId};
use switchboard_core::worker::{Consumed, Event, Fault, GroupOffset, NotNow, Partition, Restored, Start};

use super::{Line, Turn};
use crate::faults::Kind;
use crate::kafka::{Cluster, Consumer, Membership, Place, ProducerId};

/// The group's consumer, the one of sources, and the one that restores state.
pub(super) struct Consuming<'a> {
    line: Line<'a>,
    /// The brokers' numbers of source topics, in the order of the aliases in `Consumer::consume`.
    topics: Vec<usize>,
    /// The number of partitions of each of these topics, as far as it is known here.
    partition_counts: Vec<u32>,
    restoring: BTreeMap<ShardId, Restoring>,
    /// Where the process runs: its disk has checkpoints.
    slot: ProducerId,
}

/// The restore of a shard.
struct Restoring {
    /// Entries of a checkpoint that the worker does not have yet.
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The position in the changelog.
    position: Offset,
}

impl<'a> Consuming<'a> {
    pub(super) fn new(line: Line<'a>, slot: ProducerId) -> Self {
        Self { line, topics: Vec::new(), partition_counts: Vec::new(), restoring: BTreeMap::new(), slot }
    }

    /// A partition as the brokers know it.
    pub(super) fn at_brokers(&self, partition: Partition) -> Partition {
        match partition {
            Partition::Source { topic, index } => Partition::Source { topic: self.topics[topic], index },
            Partition::Shard(_) => partition,
        }
    }

    fn all_at_brokers(&self, partitions: &[Partition]) -> Vec<Partition> {
        partitions.iter().map(|partition| self.at_brokers(*partition)).collect()
    }

    /// A partition as the worker knows it.
    fn at_worker(&self, partition: Partition) -> Partition {
        match partition {
            Partition::Source { topic, index } => {
                let place = self.topics.iter().position(|known| *known == topic);
                Partition::Source { topic: place.expect("only topics that were subscribed to are assigned"), index }
            }
            Partition::Shard(_) => partition,
        }
    }

    fn event(&self, event: Event) -> Event {
        match event {
            Event::Record(consumed) => {
                Event::Record(Consumed { partition: self.at_worker(consumed.partition), ..consumed })
            }
            other => other,
        }
    }

    pub(super) fn consume(&mut self, aliases: &[Arc<str>], consumed: &[usize]) {
        self.line.trace("consume", &consumed);
        let topics: Vec<_> = self.line.on(|cluster| {
            let number = |alias: &Arc<str>| cluster.sources.iter().position(|source| source == alias);
            aliases.iter().map(|alias| number(alias).expect("a topic")).collect()
        });
        assert!(topics.starts_with(&self.topics), "aliases only ever grow");
        self.partition_counts.resize(topics.len(), 0);
        self.topics = topics;
    }

    /// Clients learn late of partitions that were added.
    pub(super) fn partition_count(&mut self, topic: usize) -> u32 {
        let number = self.topics[topic];
        let known = &mut self.partition_counts[topic];
        self.line.on(|cluster| {
            if *known < cluster.partition_counts[number] && cluster.random.u8(0..4) == 0 {
                *known = cluster.partition_counts[number];
            }
        });
        *known
    }

    pub(super) fn join(&mut self) -> Result<(), Fault> {
        self.line.suspend(Turn::Call);
        if self.line.strikes(Kind::Abortable) {
            return Err(Fault::Fatal("no consumer can be made".into()));
        }
        self.line.trace("join", &());
        self.on_consumer(Consumer::join);
        Ok(())
    }

    fn on_consumer<T>(&self, act: impl FnOnce(&mut Consumer) -> T) -> T {
        self.line.on(|cluster| act(cluster.group.client(self.line.id)))
    }

    pub(super) fn poll(&mut self, wait: Duration) -> Event {
        for last in [false, true] {
            if self.line.strikes(Kind::Consumer) {
                self.on_consumer(|consumer| consumer.fail("the consumer is unusable"));
            }
            self.write_checkpoint();
            let event = self.event(self.line.on(|cluster| {
                let consumer = cluster.group.client(self.line.id);
                if let Some(event) = consumer.next_event() {
                    return event;
                }
                let reading: Vec<_> = consumer.reading().collect();
                // A record that is there does not always arrive at once.
                if cluster.random.u8(0..6) == 0 {
                    return Event::Nothing;
                }
                let from = cluster.random.usize(0..reading.len().max(1));
                for (partition, position) in reading[from..].iter().chain(&reading[..from]) {
                    let Some((offset, record)) = cluster.logs[&Place::Consumed(*partition)].read(*position) else {
                        continue;
                    };
                    let consumed = Consumed { partition: *partition, offset, record: record.clone() };
                    cluster.group.client(self.line.id).read(*partition, offset);
                    return Event::Record(consumed);
                }
                Event::Nothing
            }));
            if event != Event::Nothing || wait.is_zero() || last {
                if event != Event::Nothing {
                    self.line.trace("poll", &event);
                }
                return event;
            }
            // A job or a lookup that finishes wakes the worker.
            let now = self.line.on(|cluster| cluster.now);
            let wait = wait.min(self.line.wake.at().saturating_sub(now));
            self.line.suspend(if wait.is_zero() { Turn::Call } else { Turn::Wait(wait) });
        }
        Event::Nothing
    }

    pub(super) fn stable_offsets(&mut self, partitions: &[Partition]) -> Result<Vec<Option<GroupOffset>>, NotNow> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        self.line.suspend(Turn::Call);
        if self.line.strikes(Kind::Slow) || self.line.coordinators_move() {
            return self.line.not_now("no answer");
        }
        let partitions = self.all_at_brokers(partitions);
        let offsets = self.line.on(|cluster| cluster.group.stable_offsets(&partitions));
        self.line.trace("stable_offsets", &(partitions, &offsets));
        self.line.suspend(Turn::Call);
        match offsets {
            Some(offsets) => Ok(offsets),
            None => self.line.not_now("UNSTABLE_OFFSET_COMMIT"),
        }
    }

    pub(super) fn log_bounds(&self, partition: Partition) -> Range<Offset> {
        let place = Place::Consumed(self.at_brokers(partition));
        self.line.on(|cluster| cluster.log(place).stable_bounds())
    }

    pub(super) fn accept_assignment(&mut self) {
        self.on_consumer(Consumer::answer_assigned);
    }

    pub(super) fn give_back(&mut self, shards: &[ShardId]) {
        self.line.trace("give_back", &shards);
        self.line.on(|cluster| cluster.group.answer_revoked(self.line.id, shards));
    }

    pub(super) fn start(&mut self, starts: &[Start]) {
        self.line.trace("start", &starts);
        self.on_consumer(|consumer| {
            for start in starts {
                consumer.start(self.at_brokers(start.partition), start.offset, start.paused);
            }
        });
    }

    pub(super) fn stop(&mut self, sources: &[Partition]) {
        self.line.trace("stop", &sources);
        let sources = self.all_at_brokers(sources);
        self.on_consumer(|consumer| sources.iter().for_each(|partition| consumer.stop(*partition)));
    }

    pub(super) fn pause(&mut self, partitions: &[Partition]) {
        self.line.trace("pause", &partitions);
        let partitions = self.all_at_brokers(partitions);
        self.on_consumer(|consumer| partitions.iter().for_each(|partition| consumer.pause(*partition, true)));
    }

    pub(super) fn seek(&mut self, partition: Partition, offset: Offset) {
        self.line.trace("seek", &(partition, offset));
        self.on_consumer(|consumer| consumer.seek(self.at_brokers(partition), offset));
    }

    pub(super) fn resume(&mut self, partitions: &[Partition]) {
        self.line.trace("resume", &partitions);
        let partitions = self.all_at_brokers(partitions);
        self.on_consumer(|consumer| partitions.iter().for_each(|partition| consumer.pause(*partition, false)));
    }

    pub(super) fn changelog_end(&mut self, shard: ShardId) -> Result<Offset, NotNow> {
        self.line.suspend(Turn::Call);
        if self.line.strikes(Kind::Slow) {
            return self.line.not_now("no answer");
        }
        let end = self.line.on(|cluster| cluster.log(Place::Changelog(shard)).high_watermark());
        self.line.suspend(Turn::Call);
        Ok(end)
    }

    pub(super) fn changelog_stable_bounds(&self, shard: ShardId) -> Range<Offset> {
        self.line.suspend(Turn::Call);
        self.line.on(|cluster| cluster.log(Place::Changelog(shard)).stable_bounds())
    }

    /// The checkpointer of the process writes at any time, for shards that the process owns.
    fn write_checkpoint(&self) {
        self.line.on(|cluster| {
            if cluster.random.u8(..) == 0 {
                let shard = |partition| if let Partition::Shard(shard) = partition { Some(shard) } else { None };
                let reading: Vec<_> = cluster.group.client(self.line.id).reading().collect();
                let shards: Vec<_> = reading.into_iter().filter_map(|(partition, _)| shard(partition)).collect();
                if let Some(shard) = cluster.random.choice(shards) {
                    cluster.write_checkpoint(self.slot, shard);
                }
            }
        });
    }

    pub(super) fn start_restore(&mut self, shard: ShardId, bounds: Range<Offset>) {
        self.line.world.borrow_mut().takeovers.began(self.line.id, shard);
        let mut restoring = Restoring { entries: BTreeMap::new(), position: bounds.start };
        let checkpoint = self.line.on(|cluster| cluster.checkpoints.get(&(self.slot, shard)).cloned());
        if let Some(checkpoint) = checkpoint
            && bounds.contains(&checkpoint.end)
            && self.line.strikes(Kind::Checkpoint)
        {
            restoring = Restoring { entries: checkpoint.entries, position: checkpoint.end };
        }
        self.restoring.insert(shard, restoring);
    }

    pub(super) fn poll_restore(&mut self) -> Restored {
        self.line.suspend(Turn::Call);
        let shards: Vec<_> = self.restoring.keys().copied().collect();
        let Some(shard) = self.line.on(|cluster| cluster.random.choice(shards)) else { return Restored::Nothing };
        if self.line.strikes(Kind::SlowRestore) {
            return Restored::Nothing;
        }
        let restoring = self.restoring.get_mut(&shard).expect("chosen among them");
        if let Some((key, value)) = restoring.entries.pop_first() {
            return Restored::Record { shard, key, value: Some(value) };
        }
        let position = restoring.position;
        let read = self.line.on(|cluster| {
            let log = cluster.log(Place::Changelog(shard));
            log.read(position).map(|(offset, record)| (offset, record.clone()))
        });
        match read {
            Some((offset, record)) => {
                restoring.position = offset.next();
                Restored::Record { shard, key: record.key.unwrap_or_default(), value: record.value }
            }
            None => {
                self.line.trace("restored", &(shard, position));
                Restored::End { shard }
            }
        }
    }

    pub(super) fn stop_restore(&mut self, shard: ShardId) {
        self.restoring.remove(&shard);
    }

    pub(super) fn is_live_member(&self) -> bool {
        self.on_consumer(|consumer| consumer.is_live())
    }

    /// What is sent with offsets.
    pub(super) fn membership(&self) -> Option<Membership> {
        self.on_consumer(|consumer| consumer.membership())
    }

    /// Leaves the group. The next consumer has the same static identity.
    pub(super) fn leave(&mut self) {
        self.line.suspend(Turn::Call);
        self.line.trace("leave", &());
        self.line.on(|cluster| {
            let Cluster { group, random, .. } = cluster;
            group.leave(self.line.id, random);
            let next = Consumer::new(group.client(self.line.id).instance);
            group.clients.insert(self.line.id, next);
        });
    }
}
