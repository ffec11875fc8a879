//! Which partitions are ours, and how a shard is taken over.
//!
//! A shard is taken over in these steps, while other shards go on. No other order is safe:
//!
//! 1. Read the stable committed offset. It waits for a predecessor's open transaction.
//! 2. Read the changelog's high watermark.
//! 3. Wait until the changelog's last stable offset has reached it. The group's commit marker may be written before the
//!    changelog's, so the stable offset of step 1 does not imply this.
//! 4. Read the changelog up to its last stable offset.
//! 5. Process records.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use super::broker::{Broker, Cause, NotNow, Partition, Restored, Start};
use super::config::{StartFrom, WorkerConfig};
use super::transaction::Receipt;
use crate::record::{Offset, ShardId};
use crate::state::Shard;

/// The pause before a broker is asked again that gave no answer. Each question may hold up the worker's other work.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// The most records that are restored before the worker does something else.
const RESTORE_BURST: usize = 5000;

/// Where a shard stands. It leaves `Waiting` for `Ready`, and otherwise goes through these in order.
#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// The changelog's high watermark is not known yet.
    Assigned,
    /// The changelog is read as soon as its last stable offset reaches `end`.
    Unstable { end: Offset },
    /// The changelog is being read.
    Restoring,
    /// Its records are processed.
    Ready,
    /// The tenant of its next record has to wait for another routing.
    Waiting,
}

#[derive(Debug)]
struct Owned {
    phase: Phase,
    /// Whether the group has a committed offset for it. Without one there must be no state.
    has_offset: bool,
    state: Shard,
}

impl Owned {
    fn new(has_offset: bool) -> Self {
        Self { phase: Phase::Assigned, has_offset, state: Shard::default() }
    }

    /// Takes the steps up to the reading of the changelog. Returns false while an open transaction holds that up.
    fn start_restore(&mut self, shard: ShardId, broker: &mut impl Broker) -> Result<bool, NotNow> {
        if self.phase == Phase::Assigned {
            self.phase = Phase::Unstable { end: broker.changelog_end(shard)? };
        }
        if let Phase::Unstable { end } = self.phase {
            let stable = broker.changelog_stable_bounds(shard)?;
            if stable.end < end && !mutated!("restore-to-the-stable-end") {
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
    /// Assigned by the group. The offset to read from is not known yet.
    arriving: BTreeSet<Partition>,
    /// Source partitions without a committed offset that are read from the log's end. The offset is committed with the next
    /// transaction. Otherwise the next owner would start at its own log end and skip the records between the two.
    initial_offsets: BTreeMap<Partition, Offset>,
    sources: BTreeSet<Partition>,
    shards: BTreeMap<ShardId, Owned>,
    halted: BTreeMap<Partition, String>,
    /// Why the last attempt to go on failed. Each reason is logged once.
    waiting: Option<Cause>,
    /// When the next attempt is due.
    due: Duration,
}

impl Assignment {
    /// Answers the group at once: until the answer, librdkafka holds back the records of all partitions. Each partition is
    /// read as soon as its offset is known.
    pub(super) fn assigned(&mut self, partitions: Vec<Partition>, broker: &mut impl Broker) {
        broker.assign(&[]);
        self.arriving.extend(partitions);
        self.due = Duration::ZERO;
    }

    /// Forgets these partitions.
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

    /// Whether records of this partition are taken in.
    pub(super) fn takes(&self, partition: Partition) -> bool {
        match partition {
            Partition::Source { .. } => self.sources.contains(&partition),
            Partition::Shard(shard) => self.shards.get(&shard).is_some_and(|owned| owned.phase == Phase::Ready),
        }
    }

    /// Stops reading a shard until `wake`. Reading goes on at this offset.
    pub(super) fn wait(&mut self, shard: ShardId, offset: Offset, broker: &mut impl Broker) {
        let Some(owned) = self.shards.get_mut(&shard).filter(|owned| owned.phase == Phase::Ready) else { return };
        owned.phase = Phase::Waiting;
        broker.pause(&[Partition::Shard(shard)]);
        broker.seek(Partition::Shard(shard), offset);
    }

    /// Goes on with the shards that wait.
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

    /// What a transaction staged in these shards becomes committed state.
    pub(super) fn promote(&mut self, shards: &BTreeSet<ShardId>, receipt: &Receipt) {
        for shard in shards {
            if let Some(state) = self.ready(*shard) {
                state.promote(receipt);
            }
        }
    }

    /// Whether no shard has staged changes.
    pub(super) fn is_settled(&self) -> bool {
        self.shards.values().all(|owned| owned.state.is_settled())
    }

    /// Whether partitions are being taken over, so that the worker should look again soon.
    pub(super) fn is_busy(&self) -> bool {
        !self.arriving.is_empty() || self.shards.values().any(|owned| owned.phase == Phase::Restoring)
    }

    /// The first offsets of source partitions without a committed one. The next transaction commits them.
    pub(super) fn initial_offsets(&self) -> &BTreeMap<Partition, Offset> {
        &self.initial_offsets
    }

    /// The transaction with the `initial_offsets` is committed.
    pub(super) fn initial_offsets_committed(&mut self) {
        self.initial_offsets.clear();
    }

    /// Goes on with the take-over of assigned partitions, as far as that is possible without waiting.
    pub(super) fn advance(&mut self, config: &WorkerConfig, broker: &mut impl Broker) {
        if broker.now() >= self.due {
            let taken = self.take_arriving(config, broker);
            match taken.and(self.start_restores(broker)) {
                Ok(()) => self.waiting = None,
                Err(NotNow(why)) => {
                    if self.waiting.as_ref() != Some(&why) {
                        tracing::info!(reason = %why, "taking over partitions waits");
                    }
                    self.waiting = Some(why);
                    self.due = broker.now() + ASK_AGAIN;
                }
            }
        }
        self.restore(broker);
    }

    fn take_arriving(&mut self, config: &WorkerConfig, broker: &mut impl Broker) -> Result<(), NotNow> {
        if self.arriving.is_empty() {
            return Ok(());
        }
        let partitions: Vec<_> = self.arriving.iter().copied().collect();
        #[cfg(feature = "mutations")]
        if mutated!("restore-before-stable-offsets") {
            self.own_shards_early(&partitions);
        }
        let offsets = broker.stable_offsets(&partitions)?;
        let mut result = Ok(());
        for (partition, committed) in partitions.into_iter().zip(offsets) {
            let bounds = broker.log_bounds(partition)?;
            if let Some(why) = self.take(partition, committed, bounds, config, broker) {
                result = Err(NotNow(why.into()));
            }
        }
        result
    }

    /// Restores shards before their stable offsets are known: a mistake that only a mutation makes.
    #[cfg(feature = "mutations")]
    fn own_shards_early(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Partition::Shard(shard) = partition {
                self.shards.entry(*shard).or_insert_with(|| Owned::new(true));
            }
        }
    }

    /// Starts to read a partition. Returns why it has to wait, if it has to.
    fn take(
        &mut self,
        partition: Partition,
        committed: Option<Offset>,
        bounds: Range<Offset>,
        config: &WorkerConfig,
        broker: &mut impl Broker,
    ) -> Option<String> {
        let is_shard = matches!(partition, Partition::Shard(_));
        let (offset, problem) = match committed {
            Some(offset) if offset < bounds.start => (bounds.end, Some(below_log_start(offset, bounds.start))),
            // A new leader may not know the end yet. For a topic that was deleted and created again, this never ends.
            Some(offset) if offset > bounds.end => return Some(beyond_log_end(partition, offset, bounds.end)),
            Some(offset) => (offset, None),
            // Only records with committed offsets are ever deleted from it.
            None if is_shard && bounds.start > Offset::ZERO => {
                (bounds.end, Some(lost_offset("processed records were deleted from it")))
            }
            None if is_shard || config.start_from == StartFrom::Earliest => (bounds.start, None),
            None => {
                self.initial_offsets.insert(partition, bounds.end);
                (bounds.end, None)
            }
        };
        let restored_early = mutated!("restore-before-stable-offsets") && self.takes(partition);
        let paused = problem.is_some() || is_shard && !restored_early;
        broker.assign(&[Start { partition, offset, paused }]);
        self.arriving.remove(&partition);
        match (partition, problem) {
            (_, Some(problem)) => self.halt(partition, problem),
            (Partition::Source { .. }, None) => {
                self.sources.insert(partition);
            }
            (Partition::Shard(shard), None) => {
                let owned = Owned::new(committed.is_some());
                if !mutated!("restore-before-stable-offsets") {
                    let before = self.shards.insert(shard, owned);
                    assert!(before.is_none(), "shard {shard} is taken over while it is in the phase {before:?}");
                }
            }
        }
        None
    }

    fn halt(&mut self, partition: Partition, problem: String) {
        tracing::error!(?partition, reason = %problem, "partition halted");
        self.sources.remove(&partition);
        if let Partition::Shard(shard) = partition {
            self.shards.remove(&shard);
        }
        self.halted.insert(partition, problem);
    }

    /// Starts the restores of all shards. A shard that waits does not stop the others. A question without an answer does,
    /// because each such question may take long.
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
                        tracing::warn!(shard = shard.get(), %error, "a changelog record is ignored");
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
         of this partition to the first record to process, and restart"
    )
}

fn below_log_start(offset: Offset, start: Offset) -> String {
    format!(
        "the group's committed offset {offset} is below the log's start {start}: records were deleted before they were \
         processed. Set the group's offset of this partition to the first record to process, and restart"
    )
}

fn beyond_log_end(partition: Partition, offset: Offset, end: Offset) -> String {
    format!(
        "the group's committed offset {offset} of {partition:?} is beyond the log's end {end}. If the topic was deleted and \
         created again, set the group's offset of this partition to the first record to process"
    )
}
