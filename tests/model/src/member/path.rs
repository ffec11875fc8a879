//! Records that are read from `p` and `s`, and the direct path from `p` to the queues of `s`.

use crate::cluster::log::{Attempt, Kind, Mark};
use crate::mistakes::Mistake;
use crate::state::{Model, State, Successors, tenant};
use crate::step::Step;

use super::queue::{Item, Origin};
use super::{Member, ShardPhase};

/// The direct path from `p` to `s`.
///
/// ```text
///         the barrier          the barrier
///         is written           is read back
/// Closed ────────────▶ Opening ────────────▶ Open
///    ▲                    │                    │
///    └────────────────────┴────────────────────┘
///      p or s is lost; the barrier's transaction is aborted; the attempt is given up
/// ```
///
/// An attempt begins when records are held back, which is before the barrier is written. That is not a state here: a closed
/// path lets records hop at any time, or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Path {
    /// Records of `p` take the hop.
    #[default]
    Closed,
    /// Records of `p` are held back until the member has read its barrier.
    Opening,
    /// Records of `p` go directly to the queues.
    Open,
}

/// Steps that read records or open the path.
pub(crate) fn steps(model: &Model, state: &State, member: u8, out: &mut Successors<'_>) {
    let me = state.member(member);
    let end = state.cluster.repartition.high_watermark();
    if me.shard == ShardPhase::Owned
        && me.shard_next < end
        && state.cluster.repartition.at(me.shard_next).mark != Mark::Open
    {
        let (offset, entry) = (me.shard_next, state.cluster.repartition.at(me.shard_next));
        let is_barrier = matches!(entry.kind, Kind::Barrier(_));
        let step = if is_barrier {
            Step::ReadsBarrier { member, writer: entry.record }
        } else {
            Step::ReadsShard { member, offset }
        };
        out.add(step, |next| read_shard(model, next, member));
    }
    if me.path == Path::Opening && state.budget.give_ups > 0 {
        out.add(Step::GivesUp { member }, |next| {
            next.budget.give_ups -= 1;
            next.member_mut(member).path = Path::Closed;
            next.end_attempt(model, member);
        });
    }
    if me.has_both() && me.path == Path::Closed && model.has(Mistake::OpenAtOnce) {
        out.add(Step::OpensAtOnce { member }, |next| next.member_mut(member).path = Path::Open);
    }
    if me.owns_both() && me.path == Path::Open && me.source_next < model.bounds.records {
        let record = me.source_next;
        out.add(Step::ReadsDirectly { member, record }, |next| {
            let me = next.member_mut(member);
            let queue = &mut me.queues[tenant(record)];
            queue.items.push(Item { record, origin: Origin::Direct, ..Item::default() });
            queue.start(model);
            me.source_next += 1;
            me.skip_finished();
        });
    }
}

/// Reads the next record of `s`: a hop into its tenant's queue, or a barrier. Finished records are skipped.
fn read_shard(model: &Model, next: &mut State, member: u8) {
    let offset = next.member(member).shard_next;
    let entry = next.cluster.repartition.at(offset);
    let me = next.member_mut(member);
    me.shard_next += 1;
    if let Kind::Barrier(attempt) = entry.kind {
        if me.path == Path::Opening && opens(model, member, entry.record, attempt) {
            me.path = Path::Open;
            next.end_attempt(model, member);
        }
        return;
    }
    if me.shard_finished.contains(offset) {
        return;
    }
    let queue = &mut me.queues[tenant(entry.record)];
    let item = Item { record: entry.record, origin: Origin::Shard(offset), ..Item::default() };
    let parked = queue.items.as_slice().iter().position(|item| item.origin == Origin::Parked);
    match parked {
        Some(index) if model.has(Mistake::PutParkedRecordsLast) => {
            queue.items.insert(index, item);
            queue.drop_results(index, model);
        }
        _ => queue.items.push(item),
    }
    queue.start(model);
}

/// Whether a barrier of `writer` opens the path of `member`.
fn opens(model: &Model, member: u8, writer: u8, attempt: Attempt) -> bool {
    match attempt {
        _ if writer != member => model.has(Mistake::OpenAtBarrierOfOther),
        Attempt::Former => model.has(Mistake::OpenAtFormerBarrier),
        Attempt::Current => true,
    }
}

impl Member {
    /// Whether the next transaction may have a barrier.
    pub(crate) fn may_write_barrier(&self, model: &Model) -> bool {
        let is_early = self.has_both() && model.has(Mistake::WriteBarrierBeforeTakeover);
        self.path == Path::Closed && (self.owns_both() || is_early)
    }

    /// Whether records of `p` may take the hop.
    pub(crate) fn may_hop(&self, model: &Model) -> bool {
        match self.path {
            Path::Closed => true,
            Path::Opening => model.has(Mistake::HopBehindBarrier),
            Path::Open => false,
        }
    }
}
