//! Which partitions are ours, and how they are taken over.
//!
//! The group assigns shards. The source partitions that are [anchored](anchor) to a shard come and go with it. Each is read
//! from its stable committed offset, also while the shard restores or is halted.
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
use std::sync::Arc;
use std::time::Duration;

use super::config::{StartFrom, WorkerConfig};
use super::fault::{Cause, NotNow};
use super::ports::{Changelog, Consumer, GroupOffset, Partition, Restored, Start, anchor};
use super::positions::{MetadataError, Positions};
use crate::record::{Offset, PartitionIndex, ShardId};
use crate::state::Shard;

/// The pause before a broker is asked again that gave no answer. Each question may hold up the worker's other work.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// The pause before the brokers are asked again about a topic for which they gave no answer.
const ASK_TOPIC_AGAIN: Duration = Duration::from_secs(1);
/// How long offsets of idle sources wait after a transaction that included them failed.
const UNSAVED_PAUSE: Duration = Duration::from_secs(5);
/// The most records that are restored before the worker does something else.
const RESTORE_BURST: usize = 5000;

/// Where a shard stands. It goes through these in order.
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
}

/// A shard whose first offset is known.
#[derive(Debug)]
struct Owned {
    phase: Phase,
    /// Whether the group has a committed offset for it. Without one there must be no state.
    has_offset: bool,
    positions: Positions,
    state: Shard,
}

impl Owned {
    fn new(has_offset: bool, positions: Positions) -> Self {
        Self { phase: Phase::Assigned, has_offset, positions, state: Shard::default() }
    }

    /// Takes the steps up to the reading of the changelog. Returns false while an open transaction holds that up.
    fn start_restore(&mut self, shard: ShardId, broker: &mut impl Changelog) -> Result<bool, NotNow> {
        // Rule: takeover-order.
        if self.phase == Phase::Assigned {
            self.phase = Phase::Unstable { end: broker.changelog_end(shard)? };
        }
        if let Phase::Unstable { end } = self.phase {
            let stable = broker.changelog_stable_bounds(shard)?;
            // Rule: restore-to-high-watermark.
            if stable.end < end && !mutated!("restore-to-the-stable-end") {
                return Ok(false);
            }
            broker.start_restore(shard, stable);
            self.phase = Phase::Restoring;
        }
        Ok(true)
    }
}

/// A source partition that is read.
#[derive(Debug)]
struct Source {
    positions: Positions,
    /// When its offset was committed last.
    committed: Duration,
}

/// A source partition that cannot be read on. Its committed offset is kept as it is.
#[derive(Debug)]
struct HaltedSource {
    offset: GroupOffset,
    /// When it was committed last.
    committed: Duration,
}

/// A consumed topic, as far as this worker has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SourceTopic {
    /// The index of its alias.
    topic: usize,
    /// The number of its partitions; 0: not known yet.
    partitions: u32,
}

/// The partitions of one worker.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    /// The shards that the group assigned to this worker, whatever became of them.
    assigned: BTreeSet<ShardId>,
    /// The topics that are consumed.
    topics: Vec<SourceTopic>,
    /// The number of partitions that a topic had when this worker first saw it, by the index of its alias.
    first_seen: BTreeMap<usize, u32>,
    /// Shards, topics or their partitions have changed since the last `follow_sources`.
    changed: bool,
    /// Partitions whose first offset is not known yet.
    arriving: BTreeSet<Partition>,
    /// Source partitions that are read.
    sources: BTreeMap<Partition, Source>,
    /// Source partitions whose offset the next transaction commits, though none of their records is settled. The brokers
    /// forget offsets of topics without a subscriber some time after their last commit. And a first offset at the log's
    /// end has to be kept: the next owner would start at its own log end, and skip the records between the two.
    unsaved: BTreeSet<Partition>,
    /// They are not part of a transaction before. The group may refuse the offset of one topic, as when this client may not
    /// read it, and must not refuse all transactions for that.
    unsaved_due: Duration,
    /// When the brokers are asked again about topics for which they gave no answer, by the index of the alias.
    topics_due: BTreeMap<usize, Duration>,
    /// The committed offsets of halted source partitions. They are renewed too: without them the next owner would not halt.
    halted_sources: BTreeMap<Partition, HaltedSource>,
    /// No offset has to be committed again before.
    next_renewal: Duration,
    shards: BTreeMap<ShardId, Owned>,
    halted: BTreeMap<Partition, String>,
    /// Partitions that are not read on, because their committed offset could not list what is settled beyond it, each with the
    /// offset of its next record.
    full: BTreeMap<Partition, Offset>,
    /// Why the last attempt to go on failed. Each reason is logged once.
    waiting: Option<Cause>,
    /// When the next attempt is due.
    due: Duration,
}

impl Assignment {
    /// The group assigned these shards. It gets its answer at once: until then, librdkafka holds back the records of all
    /// partitions. Each partition is read as soon as its offset is known.
    pub(super) fn assigned(&mut self, shards: Vec<ShardId>, broker: &mut impl Consumer) {
        broker.accept_assignment();
        // Rule: keep-across-generations.
        self.assigned.extend(shards.iter().copied());
        self.arriving.extend(shards.into_iter().map(Partition::Shard));
        self.due = Duration::ZERO;
        self.changed = true;
    }

    /// Consumes the topics of these aliases from now on.
    pub(super) fn consume(&mut self, topics: &[usize]) {
        let known = std::mem::take(&mut self.topics);
        let partitions = |topic| known.iter().find(|known| known.topic == topic).map_or(0, |known| known.partitions);
        self.topics =
            topics.iter().map(|topic| SourceTopic { topic: *topic, partitions: partitions(*topic) }).collect();
        self.changed = true;
    }

    /// Takes over source partitions that are ours now, and gives up those of topics that are no longer consumed. Returns
    /// whether anything changed, and the partitions that were given up.
    pub(super) fn follow_sources(&mut self, shards: u32, broker: &mut impl Consumer) -> (bool, Vec<Partition>) {
        for known in &mut self.topics {
            let partitions = broker.partition_count(known.topic);
            if partitions > known.partitions {
                self.first_seen.entry(known.topic).or_insert(partitions);
                known.partitions = partitions;
                self.changed = true;
            }
        }
        if !std::mem::take(&mut self.changed) {
            return (false, Vec::new());
        }
        let wanted = self.anchored(shards);
        let gone: Vec<_> = self.known_sources().filter(|partition| !wanted.contains(partition)).collect();
        self.forget_sources(&gone, broker);
        let known: BTreeSet<_> = self.known_sources().collect();
        let new: Vec<_> = wanted.difference(&known).copied().collect();
        if !new.is_empty() {
            self.arriving.extend(new);
            self.due = Duration::ZERO;
        }
        (true, gone)
    }

    /// The partitions of consumed topics that are anchored to our shards.
    fn anchored(&self, shards: u32) -> BTreeSet<Partition> {
        let of_topic = |known: &SourceTopic| {
            let topic = known.topic;
            let indices =
                (0..known.partitions).map(|index| PartitionIndex::try_from(index).expect("Kafka counts in i32"));
            let anchor = |index: PartitionIndex| {
                #[cfg(feature = "mutations")]
                if mutated!("anchors-follow-the-partition-count") {
                    let moved = u32::try_from(index.get()).expect("never negative") + known.partitions;
                    return anchor(PartitionIndex::try_from(moved).expect("few partitions"), shards);
                }
                anchor(index, shards)
            };
            let ours = indices.filter(|index| self.assigned.contains(&anchor(*index)));
            ours.map(move |index| Partition::Source { topic, index }).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(of_topic).collect()
    }

    /// The source partitions of this worker, in whatever state.
    fn known_sources(&self) -> impl Iterator<Item = Partition> {
        let is_source = |partition: &Partition| matches!(partition, Partition::Source { .. });
        let others = self.arriving.iter().chain(self.halted.keys()).copied().filter(is_source);
        self.sources.keys().copied().chain(others)
    }

    /// The source partitions that are anchored to these shards.
    pub(super) fn sources_of(&self, given_back: &[ShardId], shards: u32) -> Vec<Partition> {
        let belongs = |partition: &Partition| match partition {
            Partition::Source { index, .. } => given_back.contains(&anchor(*index, shards)),
            Partition::Shard(_) => false,
        };
        self.known_sources().filter(belongs).collect()
    }

    fn forget_sources(&mut self, sources: &[Partition], broker: &mut impl Consumer) {
        let mut started = Vec::new();
        for partition in sources {
            self.unsaved.remove(partition);
            self.full.remove(partition);
            let read = self.sources.remove(partition).is_some();
            let halted = self.halted.remove(partition).is_some();
            self.halted_sources.remove(partition);
            if read || halted {
                started.push(*partition);
            }
            self.arriving.remove(partition);
        }
        if !started.is_empty() {
            broker.stop(&started);
        }
    }

    /// Gives these shards back to the group, and forgets them and these source partitions. Sources first: the answer to the
    /// group lets the next owner begin.
    pub(super) fn give_back(
        &mut self,
        shards: &[ShardId],
        sources: &[Partition],
        broker: &mut (impl Consumer + Changelog),
    ) {
        self.forget_sources(sources, broker);
        let mut started = Vec::new();
        for shard in shards {
            let partition = Partition::Shard(*shard);
            self.assigned.remove(shard);
            if self.arriving.remove(&partition) {
                continue;
            }
            started.push(*shard);
            self.halted.remove(&partition);
            self.full.remove(&partition);
            if self.shards.remove(shard).is_some_and(|owned| owned.phase == Phase::Restoring) {
                broker.stop_restore(*shard);
            }
        }
        broker.give_back(&started);
        self.changed = true;
    }

    /// Forgets everything, as the worker leaves the group. The topics stay.
    pub(super) fn clear(&mut self, broker: &mut impl Changelog) {
        for (shard, owned) in &self.shards {
            if owned.phase == Phase::Restoring {
                broker.stop_restore(*shard);
            }
        }
        let (topics, first_seen) = (std::mem::take(&mut self.topics), std::mem::take(&mut self.first_seen));
        *self = Self { topics, first_seen, ..Self::default() };
    }

    /// Our shards and source partitions, for logs: `shards 0-3, IN 0 2`. `aliases`: the names of topics by index.
    pub(super) fn describe(&self, aliases: &[Arc<str>]) -> String {
        let mut parts = vec![format!("shards {}", ranges(self.assigned.iter().map(|shard| shard.get())))];
        for known in &self.topics {
            let own = self.known_sources().filter_map(|partition| match partition {
                Partition::Source { topic, index } if topic == known.topic => Some(index.get()),
                _ => None,
            });
            let own: BTreeSet<_> = own.collect();
            parts.push(format!("{} {}", aliases[known.topic], ranges(own)));
        }
        parts.join(", ")
    }

    /// Whether records of this partition are taken in.
    pub(super) fn takes(&self, partition: Partition) -> bool {
        match partition {
            Partition::Source { .. } => self.sources.contains_key(&partition),
            Partition::Shard(shard) => self.shards.get(&shard).is_some_and(|owned| owned.phase == Phase::Ready),
        }
    }

    /// The partitions whose records are taken in.
    pub(super) fn reading(&self) -> Vec<Partition> {
        let ready = self.shards.iter().filter(|(_, owned)| owned.phase == Phase::Ready);
        self.sources.keys().copied().chain(ready.map(|(shard, _)| Partition::Shard(*shard))).collect()
    }

    /// How far a partition is settled that is being read.
    pub(super) fn positions(&mut self, partition: Partition) -> Option<&mut Positions> {
        match partition {
            Partition::Source { .. } => self.sources.get_mut(&partition).map(|source| &mut source.positions),
            Partition::Shard(shard) => {
                let owned = self.shards.get_mut(&shard).filter(|owned| owned.phase == Phase::Ready);
                owned.map(|owned| &mut owned.positions)
            }
        }
    }

    /// What to commit for a partition.
    pub(super) fn offset_to_commit(&mut self, partition: Partition) -> Option<GroupOffset> {
        match self.halted_sources.get(&partition) {
            Some(halted) => Some(halted.offset.clone()),
            None => self.positions(partition).map(|positions| positions.to_commit()),
        }
    }

    /// A record of a partition arrives. Returns whether there is room for it in what the partition's offset can list. If not,
    /// the partition is full until `emptied` says otherwise.
    pub(super) fn has_room_for(&mut self, partition: Partition, offset: Offset) -> bool {
        let has_room = self.positions(partition).is_none_or(|positions| positions.has_room_for(offset));
        if !has_room {
            self.full.insert(partition, offset);
        }
        has_room
    }

    /// Whether a partition has no room for another record.
    pub(super) fn is_full(&self, partition: Partition) -> bool {
        self.full.contains_key(&partition)
    }

    /// The partitions that have room again.
    pub(super) fn emptied(&mut self) -> Vec<Partition> {
        let full = std::mem::take(&mut self.full);
        let (full, emptied): (BTreeMap<_, _>, BTreeMap<_, _>) = full.into_iter().partition(|(partition, offset)| {
            self.positions(*partition).is_some_and(|positions| !positions.has_much_room_for(*offset))
        });
        self.full = full;
        emptied.into_keys().collect()
    }

    /// The source partitions that are read.
    pub(super) fn reading_sources(&self) -> Vec<Partition> {
        self.sources.keys().copied().collect()
    }

    /// The shards whose records are taken in, each with the offset after the last one that was read.
    pub(super) fn ready_shards(&self) -> Vec<(ShardId, Offset)> {
        let ready = self.shards.iter().filter(|(_, owned)| owned.phase == Phase::Ready);
        ready.map(|(shard, owned)| (*shard, owned.positions.read_up_to())).collect()
    }

    /// The state of a shard whose records may be processed.
    pub(super) fn ready(&mut self, shard: ShardId) -> Option<&mut Shard> {
        self.shards.get_mut(&shard).filter(|owned| owned.phase == Phase::Ready).map(|owned| &mut owned.state)
    }

    /// Whether partitions are being taken over, so that the worker should look again soon.
    pub(super) fn is_busy(&self) -> bool {
        !self.arriving.is_empty() || self.shards.values().any(|owned| owned.phase == Phase::Restoring)
    }

    /// Whether the next transaction commits offsets, though no record of their partitions is settled.
    pub(super) fn has_unsaved(&self, now: Duration) -> bool {
        now >= self.unsaved_due && !self.unsaved.is_empty()
    }

    /// Partitions whose offsets the next transaction commits, though no record of theirs is settled.
    pub(super) fn unsaved(&self, now: Duration) -> BTreeSet<Partition> {
        if now < self.unsaved_due { BTreeSet::new() } else { self.unsaved.clone() }
    }

    /// A transaction failed. The next ones do without the offsets that need no transaction of their own.
    pub(super) fn postpone_unsaved(&mut self, now: Duration) {
        if !self.unsaved.is_empty() {
            self.unsaved_due = now + UNSAVED_PAUSE;
        }
    }

    /// A transaction with the offsets of these partitions is committed.
    pub(super) fn committed(&mut self, partitions: impl IntoIterator<Item = Partition>, now: Duration) {
        for partition in partitions {
            self.unsaved.remove(&partition);
            if let Some(source) = self.sources.get_mut(&partition) {
                source.committed = now;
            }
            if let Some(halted) = self.halted_sources.get_mut(&partition) {
                halted.committed = now;
            }
        }
    }

    /// Has the offsets of source partitions without new records committed again when that is due.
    fn renew_offsets(&mut self, config: &WorkerConfig, now: Duration) {
        if now < self.next_renewal || mutated!("idle-offsets-expire") {
            return;
        }
        let mut next = now.saturating_add(config.offset_renewal);
        let halted = self.halted_sources.iter().map(|(partition, halted)| (*partition, halted.committed));
        let read = self.sources.iter().map(|(partition, source)| (*partition, source.committed));
        for (partition, committed) in read.chain(halted) {
            let due = committed.saturating_add(config.offset_renewal);
            if due <= now {
                self.unsaved.insert(partition);
            } else {
                next = next.min(due);
            }
        }
        self.next_renewal = next;
    }

    /// Goes on with the take-over of assigned partitions, as far as that is possible without waiting.
    pub(super) fn advance(&mut self, config: &WorkerConfig, broker: &mut (impl Consumer + Changelog)) {
        self.renew_offsets(config, broker.now());
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

    fn take_arriving(&mut self, config: &WorkerConfig, broker: &mut impl Consumer) -> Result<(), NotNow> {
        if self.arriving.is_empty() {
            return Ok(());
        }
        let arriving = |wanted: Option<usize>| {
            let topic = |partition: &Partition| match partition {
                Partition::Source { topic, .. } => Some(*topic),
                Partition::Shard(_) => None,
            };
            self.arriving.iter().copied().filter(|partition| topic(partition) == wanted).collect::<Vec<_>>()
        };
        let shards = arriving(None);
        let sources: Vec<_> = self.topics.iter().map(|known| (known.topic, arriving(Some(known.topic)))).collect();
        #[cfg(feature = "mutations")]
        if mutated!("restore-before-stable-offsets") {
            self.own_shards_early(&shards);
        }
        // Shards first, and one topic after the other: a topic that was deleted, or that this client may not read, gives no
        // answer for ever, and must not hold up others.
        let mut result = self.take_all(shards, config, broker);
        for (topic, partitions) in sources {
            if broker.now() < self.topics_due.get(&topic).copied().unwrap_or_default() {
                continue;
            }
            if let Err(why) = self.take_all(partitions, config, broker) {
                self.topics_due.insert(topic, broker.now() + ASK_TOPIC_AGAIN);
                result = result.and(Err(why));
                // The question may have taken long.
                break;
            }
        }
        result
    }

    fn take_all(
        &mut self,
        partitions: Vec<Partition>,
        config: &WorkerConfig,
        broker: &mut impl Consumer,
    ) -> Result<(), NotNow> {
        if partitions.is_empty() {
            return Ok(());
        }
        // Rule: read-ends-after-generation.
        // Rule: read-stable-offset.
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
                self.shards.entry(*shard).or_insert_with(|| Owned::new(true, Positions::default()));
            }
        }
    }

    /// Starts to read a partition. Returns why it has to wait, if it has to.
    fn take(
        &mut self,
        partition: Partition,
        committed: Option<GroupOffset>,
        bounds: Range<Offset>,
        config: &WorkerConfig,
        broker: &mut impl Consumer,
    ) -> Option<String> {
        let is_shard = matches!(partition, Partition::Shard(_));
        let read = match &committed {
            Some(committed) => Positions::of_former_owner(committed).map_err(|why| unreadable(committed.offset, &why)),
            // Only records with committed offsets are ever deleted from it.
            None if is_shard && bounds.start > Offset::ZERO => {
                Err(lost_offset("processed records were deleted from it"))
            }
            None if is_shard || self.reads_from_start(partition, config) => Ok(Positions::from(bounds.start)),
            None => Ok(Positions::from(bounds.end)),
        };
        let read = read.and_then(|read| match &committed {
            Some(committed) if committed.offset < bounds.start => Err(below_log_start(committed.offset, bounds.start)),
            _ => Ok(read),
        });
        if let (Ok(read), Some(committed)) = (&read, &committed) {
            let end = read.known_end().unwrap_or(committed.offset);
            if end > bounds.end {
                // A new leader may not know the end yet. For a topic that was deleted and created again, this never ends.
                return Some(beyond_log_end(partition, end, bounds.end));
            }
            if committed.metadata.is_empty() {
                tracing::warn!(
                    ?partition,
                    offset = committed.offset.get(),
                    "the group's offset has no metadata, as after a reset by a tool: it is read on from there, and records \
                     beyond that were settled before are handled again"
                );
            }
        }
        let restored_early = mutated!("restore-before-stable-offsets") && self.takes(partition);
        let offset = read.as_ref().map_or(bounds.end, Positions::read_up_to);
        let paused = read.is_err() || is_shard && !restored_early;
        broker.start(&[Start { partition, offset, paused }]);
        self.arriving.remove(&partition);
        let now = broker.now();
        match (partition, read) {
            (_, Err(problem)) => {
                if let (Partition::Source { .. }, Some(offset)) = (partition, committed) {
                    self.halted_sources.insert(partition, HaltedSource { offset, committed: now });
                    self.unsaved.insert(partition);
                }
                self.halt(partition, problem);
            }
            (Partition::Source { .. }, Ok(positions)) => {
                self.sources.insert(partition, Source { positions, committed: now });
                self.unsaved.insert(partition);
            }
            (Partition::Shard(shard), Ok(positions)) => {
                let owned = Owned::new(committed.is_some(), positions);
                if !mutated!("restore-before-stable-offsets") {
                    let before = self.shards.insert(shard, owned);
                    assert!(before.is_none(), "shard {shard} is taken over while it is in the phase {before:?}");
                }
            }
        }
        None
    }

    /// Whether a source partition without a committed offset is read from its log's start.
    fn reads_from_start(&self, partition: Partition, config: &WorkerConfig) -> bool {
        // A partition that was added while the topic was consumed has no records from before that.
        let is_added = match partition {
            Partition::Source { topic, index } => self
                .first_seen
                .get(&topic)
                .is_some_and(|first| u32::try_from(index.get()).is_ok_and(|index| index >= *first)),
            Partition::Shard(_) => false,
        };
        is_added || config.start_from == StartFrom::Earliest
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
    fn start_restores(&mut self, broker: &mut impl Changelog) -> Result<(), NotNow> {
        let mut result = Ok(());
        for (shard, owned) in &mut self.shards {
            if !owned.start_restore(*shard, broker)? {
                result = Err(NotNow(format!("an open transaction in the changelog of shard {shard}").into()));
            }
        }
        result
    }

    fn restore(&mut self, broker: &mut (impl Consumer + Changelog)) {
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

    fn restored(&mut self, shard: ShardId, broker: &mut (impl Consumer + Changelog)) {
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

/// Numbers in ascending order as text: `0-3 7`, or `none`.
fn ranges(numbers: impl IntoIterator<Item = i32>) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    if ranges.is_empty() {
        return "none".into();
    }
    let text = |(first, last): &(i32, i32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(text).collect::<Vec<_>>().join(" ")
}

fn lost_offset(traces: &str) -> String {
    format!(
        "the group has no offset for it, but {traces}: its committed offsets expired or were deleted. Set the group's offset \
         of this partition to the first record to process, and restart"
    )
}

/// `offset`: the committed one.
fn unreadable(offset: Offset, why: &MetadataError) -> String {
    format!(
        "the metadata of the group's committed offset {offset} lists which later records are settled, but cannot be read: {why}. \
         If another version of Switchboard wrote it, run that version. Otherwise set the group's offset of this partition to the \
         first record to process, which leaves the metadata empty, and restart: records beyond it may be processed again"
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
