use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use switchboard_core::worker::{Consumed, Event, NotNow, Partition, Restored, Start};

use super::{Line, Turn};
use crate::faults::Kind;
use crate::kafka::{Cluster, Consumer, Metadata, Place};

/// The group's consumer, and the one that restores state.
pub(super) struct Consuming<'a> {
    line: Line<'a>,
    instance: Option<u32>,
    /// Shard -> position in its changelog.
    restoring: BTreeMap<i32, i64>,
}

impl<'a> Consuming<'a> {
    pub(super) fn new(line: Line<'a>, instance: Option<u32>) -> Self {
        Self { line, instance, restoring: BTreeMap::new() }
    }

    fn on_consumer<T>(&self, act: impl FnOnce(&mut Consumer) -> T) -> T {
        self.line.on(|cluster| act(cluster.group.client(self.line.id)))
    }

    pub(super) fn poll(&mut self, wait: Duration) -> Event {
        for last in [false, true] {
            if self.line.strikes(Kind::Consumer) {
                self.on_consumer(|consumer| consumer.fail("the consumer is of no more use"));
            }
            let event = self.line.on(|cluster| {
                let consumer = cluster.group.client(self.line.id);
                if let Some(event) = consumer.next_event() {
                    return event;
                }
                let reading: Vec<_> = consumer.reading().collect();
                // What is there does not always come at once.
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
            });
            if event != Event::Nothing || wait.is_zero() || last {
                if event != Event::Nothing {
                    self.line.tell("poll", &event);
                }
                return event;
            }
            self.line.suspend(Turn::Wait(wait));
        }
        Event::Nothing
    }

    pub(super) fn stable_offsets(&mut self, partitions: &[Partition]) -> Result<Vec<Option<i64>>, NotNow> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        self.line.suspend(Turn::Call);
        if self.line.strikes(Kind::Slow) {
            return self.line.not_now("no answer");
        }
        let offsets = self.line.on(|cluster| cluster.group.stable_offsets(partitions));
        self.line.tell("stable_offsets", &(partitions, &offsets));
        self.line.suspend(Turn::Call);
        match offsets {
            Some(offsets) => Ok(offsets),
            None => self.line.not_now("UNSTABLE_OFFSET_COMMIT"),
        }
    }

    pub(super) fn log_bounds(&mut self, partition: Partition) -> Result<Range<i64>, NotNow> {
        Ok(self.line.on(|cluster| cluster.log(Place::Consumed(partition)).stable_bounds()))
    }

    pub(super) fn assign(&mut self, starts: &[Start]) {
        self.on_consumer(|consumer| {
            consumer.answer_assigned();
            for start in starts {
                consumer.assign(start.partition, start.offset, start.paused);
            }
        });
    }

    pub(super) fn unassign(&mut self, partitions: &[Partition]) {
        self.line.tell("unassign", &partitions);
        self.line.on(|cluster| cluster.group.answer_revoked(self.id, partitions));
    }

    pub(super) fn pause(&mut self, partitions: &[Partition]) {
        self.on_consumer(|consumer| partitions.iter().for_each(|partition| consumer.pause(*partition, true)));
    }

    pub(super) fn resume(&mut self, partitions: &[Partition]) {
        self.on_consumer(|consumer| partitions.iter().for_each(|partition| consumer.pause(*partition, false)));
    }

    pub(super) fn changelog_end(&mut self, shard: i32) -> Result<i64, NotNow> {
        self.line.suspend(Turn::Call);
        if self.line.strikes(Kind::Slow) {
            return self.line.not_now("no answer");
        }
        let end = self.line.on(|cluster| cluster.log(Place::Changelog(shard)).high_watermark());
        self.line.suspend(Turn::Call);
        Ok(end)
    }

    pub(super) fn changelog_stable_bounds(&mut self, shard: i32) -> Result<Range<i64>, NotNow> {
        self.line.suspend(Turn::Call);
        Ok(self.line.on(|cluster| cluster.log(Place::Changelog(shard)).stable_bounds()))
    }

    pub(super) fn start_restore(&mut self, shard: i32, bounds: Range<i64>) {
        self.restoring.insert(shard, bounds.start);
    }

    pub(super) fn poll_restore(&mut self) -> Restored {
        self.line.suspend(Turn::Call);
        let shards: Vec<_> = self.restoring.keys().copied().collect();
        let Some(shard) = self.line.on(|cluster| cluster.random.choice(shards)) else { return Restored::Nothing };
        if self.line.strikes(Kind::SlowRestore) {
            return Restored::Nothing;
        }
        let position = self.restoring[&shard];
        let read = self.line.on(|cluster| {
            let log = cluster.log(Place::Changelog(shard));
            log.read(position).map(|(offset, record)| (offset, record.clone()))
        });
        match read {
            Some((offset, record)) => {
                self.restoring.insert(shard, offset + 1);
                Restored::Record { shard, key: record.key.unwrap_or_default(), value: record.value }
            }
            None => {
                self.line.tell("restored", &(shard, position));
                Restored::End { shard }
            }
        }
    }

    pub(super) fn stop_restore(&mut self, shard: i32) {
        self.restoring.remove(&shard);
    }

    pub(super) fn is_live_member(&self) -> bool {
        self.on_consumer(|consumer| consumer.is_live())
    }

    /// What is sent with offsets.
    pub(super) fn metadata(&self) -> Option<Metadata> {
        self.on_consumer(|consumer| consumer.metadata())
    }

    /// Leaves the group and is made anew.
    pub(super) fn restart(&mut self) {
        self.restoring.clear();
        self.line.on(|cluster| {
            let Cluster { group, random, .. } = cluster;
            group.leave(self.line.id, random);
            group.clients.insert(self.line.id, Consumer::new(self.instance));
        });
    }
}
