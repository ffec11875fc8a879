//! Which partitions are ours, and whether their tenants' state is there.
//!
//! A shard is taken over in this order, and no other is safe: its stable committed offset (waits for a predecessor's
//! open transaction), then the changelog's high watermark seen after that, then the last stable offset must have come
//! up to it (the group's commit marker may be written before the changelog's), then the changelog is read to its
//! stable end; then records are processed. Meanwhile other shards go on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::broker::{Broker, Cause, NotNow, Partition, Restored, Start};
use super::config::{StartFrom, WorkerConfig};
use crate::record::{Offset, ShardId};
use crate::state::Shard;

/// The pause before a question is asked again that could not be answered: each may hold up the worker's other work.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Restored records between two looks at the rest of the worker's duties.
const RESTORE_BURST: usize = 5000;

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// The changelog's end is to be asked for.
    Assigned,
    /// The changelog is to be read as soon as it is stable up to here.
    Unstable {
        end: Offset,
    },
    Restoring,
    Ready,
    /// Its next record's tenant cannot go on.
    Waiting,
}

#[derive(Debug)]
struct Owned {
    phase: Phase,
    /// Whether the group has an offset for it: without one there must be no state.
    has_offset: bool,
    state: Shard,
}

impl Owned {
    /// Goes on towards reading the changelog; false: an open transaction in it is waited for.
    fn start_restore(&mut self, shard: ShardId, broker: &mut impl Broker) -> Result<bool, NotNow> {
        if self.phase == Phase::Assigned {
            self.phase = Phase::Unstable { end: broker.changelog_end(shard)? };
        }
        if let Phase::Unstable { end } = self.phase {
            let stable = broker.changelog_stable_bounds(shard)?;
            if stable.end < end {
                return Ok(false);
            }
            broker.start_restore(shard, stable);
            self.phase = Phase::Restoring;
        }
        Ok(true)
    }
}

/// The partitions of one worker.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    /// Assigned by the group; where to read them from is not known yet.
    arriving: BTreeSet<Partition>,
    /// Sources that begin at the log's end: the group has no offset for them yet, and what comes before it has one would be
    /// passed over by the next owner.
    initial_offsets: BTreeMap<Partition, Offset>,
    sources: BTreeSet<Partition>,
    shards: BTreeMap<ShardId, Owned>,
    halted: BTreeMap<Partition, String>,
    /// What the last attempt to go on is waiting for, to be told once.
    waiting: Option<Cause>,
    /// When the next attempt is due.
    due: Duration,
}

impl Assignment {
    /// The group is answered at once, and each partition is read as soon as it is known from where: until the answer
    /// librdkafka holds back the records of all others too.
    pub(super) fn assigned(&mut self, partitions: Vec<Partition>, broker: &mut impl Broker) {
        broker.assign(&[]);
        self.arriving.extend(partitions);
        self.due = Duration::ZERO;
    }

    /// Nothing of these partitions is kept.
    pub(super) fn dropped(&mut self, partitions: &[Partition], broker: &mut impl Broker) {
        let mut taken = Vec::new();
        for partition in partitions {
            self.initial_offsets.remove(partition);
            if self.arriving.remove(partition) {
                continue;
            }
            taken.push(*partition);
            self.sources.remove(partition);
            self.halted.remove(partition);
            if let Partition::Shard(shard) = partition
                && let Some(owned) = self.shards.remove(shard)
                && owned.phase == Phase::Restoring
            {
                broker.stop_restore(*shard);
            }
        }
        broker.unassign(&taken);
    }

    /// Whether a record of this partition may be taken in.
    pub(super) fn takes(&self, partition: Partition) -> bool {
        match partition {
            Partition::Source { .. } => self.sources.contains(&partition),
            Partition::Shard(shard) => self.shards.get(&shard).is_some_and(|owned| owned.phase == Phase::Ready),
        }
    }

    /// A shard's records are not read on before `wake`, and then from this one on.
    pub(super) fn wait(&mut self, shard: ShardId, offset: Offset, broker: &mut impl Broker) {
        let Some(owned) = self.shards.get_mut(&shard).filter(|owned| owned.phase == Phase::Ready) else { return };
        owned.phase = Phase::Waiting;
        broker.pause(&[Partition::Shard(shard)]);
        broker.seek(Partition::Shard(shard), offset);
    }

    /// Shards that wait are read on.
    pub(super) fn wake(&mut self, broker: &mut impl Broker) {
        let mut woken = Vec::new();
        for (shard, owned) in &mut self.shards {
            if owned.phase == Phase::Waiting {
                owned.phase = Phase::Ready;
                woken.push(Partition::Shard(*shard));
            }
        }
        if !woken.is_empty() {
            broker.resume(&woken);
        }
    }

    /// The partitions whose records are taken in.
    pub(super) fn reading(&self) -> Vec<Partition> {
        let ready = self.shards.iter().filter(|(_, owned)| owned.phase == Phase::Ready);
        self.sources.iter().copied().chain(ready.map(|(shard, _)| Partition::Shard(*shard))).collect()
    }

    /// The state of a shard whose records may be processed.
    pub(super) fn ready(&mut self, shard: ShardId) -> Option<&mut Shard> {
        self.shards.get_mut(&shard).filter(|owned| owned.phase == Phase::Ready).map(|owned| &mut owned.state)
    }

    /// Whether something is under way that wants to be looked at soon.
    pub(super) fn is_busy(&self) -> bool {
        !self.arriving.is_empty() || self.shards.values().any(|owned| owned.phase == Phase::Restoring)
    }

    /// Where sources begin that have no offset yet: to be committed with the next transaction.
    pub(super) fn initial_offsets(&self) -> &BTreeMap<Partition, Offset> {
        &self.initial_offsets
    }

    /// The transaction that had `initial_offsets` is committed.
    pub(super) fn begun(&mut self) {
        self.initial_offsets.clear();
    }

    /// Goes on with taking over what has been assigned, as far as it goes without waiting.
    pub(super) fn advance(&mut self, rules: &WorkerConfig, broker: &mut impl Broker) {
        if broker.now() >= self.due {
            let taken = self.take_arriving(rules, broker);
            match taken.and(self.start_restores(broker)) {
                Ok(()) => self.waiting = None,
                Err(NotNow(why)) => {
                    if self.waiting.as_ref() != Some(&why) {
                        tracing::info!("taking over partitions waits: {why}");
                    }
                    self.waiting = Some(why);
                    self.due = broker.now() + ASK_AGAIN;
                }
            }
        }
        self.restore(broker);
    }

    fn take_arriving(&mut self, rules: &WorkerConfig, broker: &mut impl Broker) -> Result<(), NotNow> {
        if self.arriving.is_empty() {
            return Ok(());
        }
        let partitions: Vec<_> = self.arriving.iter().copied().collect();
        let offsets = broker.stable_offsets(&partitions)?;
        let mut result = Ok(());
        for (partition, committed) in partitions.into_iter().zip(offsets) {
            let bounds = broker.log_bounds(partition)?;
            if let Some(why) = self.take(partition, committed, bounds, rules, broker) {
                result = Err(NotNow(why.into()));
            }
        }
        result
    }

    /// Starts to read a partition; otherwise why it has to wait.
    fn take(
        &mut self,
        partition: Partition,
        committed: Option<Offset>,
        bounds: Range<Offset>,
        rules: &WorkerConfig,
        broker: &mut impl Broker,
    ) -> Option<String> {
        let is_shard = matches!(partition, Partition::Shard(_));
        let (offset, problem) = match committed {
            Some(offset) if offset < bounds.start => (bounds.end, Some(below_log_start(offset, bounds.start))),
            // A new leader may not know the end yet; a topic that was made anew never will.
            Some(offset) if offset > bounds.end => return Some(beyond_log_end(partition, offset, bounds.end)),
            Some(offset) => (offset, None),
            // Only what is committed is ever deleted from it.
            None if is_shard && bounds.start > Offset::ZERO => {
                (bounds.end, Some(lost_offset("processed records were deleted from it")))
            }
            None if is_shard || rules.start_from == StartFrom::Earliest => (bounds.start, None),
            None => {
                self.initial_offsets.insert(partition, bounds.end);
                (bounds.end, None)
            }
        };
        broker.assign(&[Start { partition, offset, paused: is_shard || problem.is_some() }]);
        self.arriving.remove(&partition);
        match (partition, problem) {
            (_, Some(problem)) => self.halt(partition, problem),
            (Partition::Source { .. }, None) => {
                self.sources.insert(partition);
            }
            (Partition::Shard(shard), None) => {
                let has_offset = committed.is_some();
                self.shards.insert(shard, Owned { phase: Phase::Assigned, has_offset, state: Shard::default() });
            }
        }
        None
    }

    fn halt(&mut self, partition: Partition, problem: String) {
        tracing::error!(?partition, "partition halted: {problem}");
        self.sources.remove(&partition);
        if let Partition::Shard(shard) = partition {
            self.shards.remove(&shard);
        }
        self.halted.insert(partition, problem);
    }

    /// Goes past a shard that waits, but not past a question without an answer: each may take its time.
    fn start_restores(&mut self, broker: &mut impl Broker) -> Result<(), NotNow> {
        let mut result = Ok(());
        for (shard, owned) in &mut self.shards {
            if !owned.start_restore(*shard, broker)? {
                result = Err(NotNow(format!("an open transaction in the changelog of shard {shard}").into()));
            }
        }
        result
    }

    fn restore(&mut self, broker: &mut impl Broker) {
        for _ in 0..RESTORE_BURST {
            if !self.shards.values().any(|owned| owned.phase == Phase::Restoring) {
                return;
            }
            match broker.poll_restore(Duration::ZERO) {
                Restored::Nothing => return,
                Restored::Record { shard, key, value } => {
                    let Some(owned) = self.shards.get_mut(&shard) else { continue };
                    if let Err(error) = owned.state.restore(&key, value) {
                        tracing::warn!(shard = shard.get(), "left out of the restored state: {error}");
                    }
                }
                Restored::End { shard } => self.restored(shard, broker),
            }
        }
    }

    fn restored(&mut self, shard: ShardId, broker: &mut impl Broker) {
        let Some(owned) = self.shards.get_mut(&shard).filter(|owned| owned.phase == Phase::Restoring) else { return };
        broker.stop_restore(shard);
        if !owned.has_offset && !owned.state.is_empty() {
            let problem = lost_offset(&format!("{} tenants have state", owned.state.len()));
            self.halt(Partition::Shard(shard), problem);
            return;
        }
        owned.phase = Phase::Ready;
        tracing::debug!(shard = shard.get(), tenants = owned.state.len(), "shard restored");
        broker.resume(&[Partition::Shard(shard)]);
    }
}

fn lost_offset(traces: &str) -> String {
    format!(
        "the group has no offset for it, but {traces}: its committed offsets expired or were deleted. Set the group's offset \
         of this partition to where processing shall go on, and restart"
    )
}

fn below_log_start(offset: Offset, start: Offset) -> String {
    format!(
        "the group's committed offset {offset} is below the log's start {start}: records were deleted before they were \
         processed. Set the group's offset of this partition to where processing shall go on, and restart"
    )
}

fn beyond_log_end(partition: Partition, offset: Offset, end: Offset) -> String {
    format!(
        "the group's committed offset {offset} of {partition:?} is beyond the log's end {end}. If the topic was deleted and \
         made anew, set the group's offset of this partition to where processing shall go on"
    )
}
