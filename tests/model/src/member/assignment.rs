//! Generations, lost partitions, and the takeover of gained ones.

use crate::cluster::coordinator::Transaction;
use crate::cluster::group::{Group, Partition};
use crate::cluster::log::{Entry, Kind};
use crate::mistakes::Mistake;
use crate::small::Set;
use crate::state::{Model, State, Successors, tenant};
use crate::step::Step;

use super::path::Path;
use super::queue::{Item, Origin};
use super::{Member, ShardPhase, SourcePhase};

/// Steps by which a member crashes, or learns of a generation.
pub(crate) fn group_steps(model: &Model, state: &State, member: u8, out: &mut Successors<'_>) {
    let me = state.member(member);
    if state.budget.crashes > 0 && *me != Member::default() {
        out.add(Step::Crashes { member }, |next| {
            next.budget.crashes -= 1;
            *next.member_mut(member) = Member::default();
            next.end_attempt(model, member);
        });
    }
    let is_orphan = matches!(state.cluster.transactions[usize::from(member)], Transaction::Open(_));
    if me.transaction.is_none() && is_orphan {
        out.add(Step::AbortsOrphan { member }, |next| next.cluster.decide(member, false));
    }
    let group = state.cluster.group;
    let loses = Partition::ALL.map(|partition| me.has_lost(member, partition, group));
    let is_new = me.generation != group.generation;
    let join_step = Step::Joins { member, generation: group.generation, gives_back: loses != [false; 2] };
    if is_new && loses == [false; 2] || me.transaction.is_none() && loses != [false; 2] {
        out.add(join_step, |next| join(model, next, member));
    }
    if is_new && loses != [false; 2] && me.transaction.is_some() && model.has(Mistake::AnswerWhileOpen) {
        out.add(join_step, |next| {
            next.member_mut(member).generation = next.cluster.group.generation;
        });
    }
}

/// A member answers the rebalance: it gives lost partitions back, and gets its new ones.
pub(crate) fn join(model: &Model, next: &mut State, member: u8) {
    let group = next.cluster.group;
    let me = next.member_mut(member);
    let drops_all = drops_all(model, me, group.generation);
    let [loses_source, loses_shard] =
        Partition::ALL.map(|partition| drops_all || me.has_lost(member, partition, group));
    if loses_shard {
        me.lose_shard(model);
    }
    if loses_source {
        me.lose_source(model);
    }
    me.generation = group.generation;
    if me.path != Path::Opening {
        next.end_attempt(model, member);
    }
    let me = next.member_mut(member);
    if group.owner(Partition::Source) == member && me.source == SourcePhase::NotOwned {
        me.source = SourcePhase::ReadsOffset;
    }
    if group.owner(Partition::Shard) == member && me.shard == ShardPhase::NotOwned {
        let end = next.cluster.changelog.high_watermark();
        let restores_first = model.has(Mistake::RestoreBeforeOffset);
        next.member_mut(member).shard =
            if restores_first { ShardPhase::Restores { end } } else { ShardPhase::ReadsOffset };
    }
}

/// Whether a mistake drops everything by this generation, although nothing is lost.
fn drops_all(model: &Model, me: &Member, generation: u8) -> bool {
    me.generation != generation && me.transaction.is_none() && model.has(Mistake::DropAtEachGeneration)
}

/// Steps of a takeover.
pub(crate) fn takeover_steps(model: &Model, state: &State, member: u8, out: &mut Successors<'_>) {
    let me = state.member(member);
    if model.has(Mistake::ReadEndEarly) && me.shard == ShardPhase::NotOwned && me.early_end.is_none() {
        let end = state.cluster.changelog.high_watermark();
        out.add(Step::ReadsEndEarly { member, end }, |next| next.member_mut(member).early_end = Some(end));
    }
    let can_read = |partition| state.cluster.offsets.is_stable(partition) || model.has(Mistake::ReadUnstableOffset);
    if me.source == SourcePhase::ReadsOffset && can_read(Partition::Source) {
        out.add(Step::ReadsOffset { member, partition: Partition::Source }, |next| {
            let finished = finished_records(model, next, Partition::Source);
            let me = next.member_mut(member);
            me.source = SourcePhase::Owned;
            me.source_finished = finished;
            me.source_next = 0;
            me.skip_finished();
        });
    }
    if me.shard == ShardPhase::ReadsOffset && can_read(Partition::Shard) {
        out.add(Step::ReadsOffset { member, partition: Partition::Shard }, |next| {
            let changelog = &next.cluster.changelog;
            let to_stable = model.has(Mistake::RestoreToLastStableOffset);
            let end = if to_stable { changelog.last_stable_offset() } else { changelog.high_watermark() };
            let finished = finished_records(model, next, Partition::Shard);
            let me = next.member_mut(member);
            let is_restored = model.has(Mistake::RestoreBeforeOffset);
            me.shard = if is_restored { ShardPhase::Owned } else { ShardPhase::Restores { end } };
            if let (ShardPhase::Restores { end }, Some(early)) = (&mut me.shard, me.early_end.take()) {
                *end = early;
            }
            me.shard_finished = finished;
            me.shard_next = 0;
        });
    }
    if let ShardPhase::Restores { end } = me.shard
        && state.cluster.changelog.last_stable_offset() >= end
    {
        out.add(Step::Restores { member, end }, |next| restore(model, next, member, end));
    }
}

/// The finished records of a partition, as a new owner takes them from the committed offset and its map.
fn finished_records(model: &Model, state: &State, partition: Partition) -> Set {
    let committed = state.cluster.offsets.committed(partition);
    if model.has(Mistake::ForgetMap) {
        return committed.prefix();
    }
    if model.has(Mistake::MapOfOtherPartition) {
        let other = if partition == Partition::Source { Partition::Shard } else { Partition::Source };
        let other = state.cluster.offsets.committed(other);
        return committed.prefix().union(other.minus(other.prefix()));
    }
    committed
}

/// Reads the state of `s`, and its parked records, from the changelog.
fn restore(model: &Model, next: &mut State, member: u8, end: u8) {
    let cluster = next.cluster;
    let entries: Vec<Entry> =
        (0..end).map(|at| cluster.changelog.at(at)).filter(|entry| cluster.is_committed(entry)).collect();
    let me = next.member_mut(member);
    for entry in &entries {
        let queue = &mut me.queues[tenant(entry.record)];
        match entry.kind {
            Kind::Result => queue.committed.insert(entry.record),
            Kind::Parked if !model.has(Mistake::ForgetParkedRecords) => {
                let is_processed =
                    entries.iter().any(|other| other.record == entry.record && other.kind != Kind::Parked);
                if !is_processed || model.has(Mistake::LeaveParkedRecord) {
                    queue.items.push(Item { record: entry.record, origin: Origin::Parked, ..Item::default() });
                }
            }
            Kind::Parked | Kind::DeadLetter | Kind::Hop | Kind::Barrier(_) => {}
        }
    }
    me.queues.iter_mut().for_each(|queue| queue.start(model));
    me.shard = if model.has(Mistake::RestoreBeforeOffset) { ShardPhase::ReadsOffset } else { ShardPhase::Owned };
}

impl Member {
    /// Whether a partition that the member has was lost since it last learned of a generation.
    fn has_lost(&self, member: u8, partition: Partition, group: Group) -> bool {
        let has = match partition {
            Partition::Source => self.source != SourcePhase::NotOwned,
            Partition::Shard => self.shard != ShardPhase::NotOwned,
        };
        has && !group.owned_since(member, partition, self.generation)
    }

    fn lose_source(&mut self, model: &Model) {
        self.source = SourcePhase::NotOwned;
        self.source_finished = Set::EMPTY;
        self.source_next = 0;
        self.close_path(model);
        if !model.has(Mistake::KeepDirectRecords) {
            self.queues.iter_mut().for_each(|queue| queue.drop_direct(model));
        }
    }

    fn lose_shard(&mut self, model: &Model) {
        if self.source == SourcePhase::Owned && !model.has(Mistake::SkipDirectRecords) {
            let items = self.queues.iter().flat_map(|queue| queue.items.as_slice());
            let direct = items.filter(|item| item.origin == Origin::Direct).map(|item| item.record);
            self.source_next = direct.min().map_or(self.source_next, |first| first.min(self.source_next));
        }
        self.queues.iter_mut().for_each(|queue| queue.drop_all(model));
        self.shard = ShardPhase::NotOwned;
        self.shard_finished = Set::EMPTY;
        self.shard_next = 0;
        self.close_path(model);
    }

    fn close_path(&mut self, model: &Model) {
        let is_kept = match self.path {
            Path::Closed | Path::Open => model.has(Mistake::KeepPathOverLoss),
            Path::Opening => model.has(Mistake::KeepAttemptOverLoss),
        };
        if !is_kept {
            self.path = Path::Closed;
        }
    }
}
