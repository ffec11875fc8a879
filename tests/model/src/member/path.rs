//! Records that are read from `p` and `s`, and the direct path from `p` to the queues of `s`.

use crate::cluster::log::Mark;
use crate::mistakes::Mistake;
use crate::state::{Model, State, Step, Successors, tenant};

use super::queue::{Item, Origin};
use super::{Member, ShardPhase};

/// The direct path from `p` to `s`.
///
/// ```text
/// Closed ──▶ Opening ──▶ Open
///    ▲          │          │
///    └──────────┴──────────┘  p or s is lost
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Path {
    /// Records of `p` take the hop.
    #[default]
    Closed,
    /// Records of `p` are held back until `s` is read up to the target.
    Opening {
        /// The high watermark of `s` in the repartition topic when the path began to open.
        target: u8,
    },
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
        let offset = me.shard_next;
        out.add(Step::ReadsShard { member, offset }, |next| read_shard(model, next, member));
    }
    // The takeovers need not have ended: what a former owner writes from now on is refused with its offsets.
    if me.has_both() && me.path == Path::Closed {
        let has_own_hops = me.transaction.is_some_and(|transaction| !transaction.hops.is_empty());
        if !has_own_hops || model.has(Mistake::ForgetOwnHops) {
            let target = target(model, state, member, has_own_hops);
            out.add(Step::StartsOpening { member, target }, |next| {
                let me = next.member_mut(member);
                me.path = Path::Opening { target };
                me.open_at_target();
            });
        }
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

/// Up to where `s` must be read before the path opens.
fn target(model: &Model, state: &State, member: u8, has_own_hops: bool) -> u8 {
    let log = &state.cluster.repartition;
    if model.has(Mistake::OpenAtOnce) {
        return 0;
    }
    if model.has(Mistake::OpenAtLastStableOffset) {
        return log.last_stable_offset();
    }
    if has_own_hops {
        // What is sent and not yet acknowledged may be missing in the log.
        let is_own = |at: &u8| log.at(*at).writer == member && log.at(*at).mark == Mark::Open;
        return (0..log.high_watermark()).find(is_own).unwrap_or(log.high_watermark());
    }
    log.high_watermark()
}

/// Reads the next record of `s` into its tenant's queue. Finished records are skipped.
fn read_shard(model: &Model, next: &mut State, member: u8) {
    let repartition = next.cluster.repartition;
    let me = next.member_mut(member);
    let offset = me.shard_next;
    let entry = repartition.at(offset);
    me.shard_next += 1;
    if !me.shard_finished.contains(offset) {
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
    me.open_at_target();
}

impl Member {
    /// Opens the path if `s` was read up to the target.
    pub(crate) fn open_at_target(&mut self) {
        if let Path::Opening { target } = self.path
            && self.owns_both()
            && self.shard_next >= target
        {
            self.path = Path::Open;
        }
    }

    /// Whether records of `p` may take the hop.
    pub(crate) fn may_hop(&self, model: &Model) -> bool {
        match self.path {
            Path::Closed => true,
            Path::Opening { .. } => model.has(Mistake::HopWhileOpening),
            Path::Open => false,
        }
    }
}
