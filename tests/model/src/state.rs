//! The whole state, the bounds of a search, and what is possible in a state.

use crate::checks;
use crate::cluster::coordinator::{Place, Transaction};
use crate::cluster::group::{Anchor, Fencing, Partition};
use crate::cluster::{Cluster, MEMBERS};
use crate::member::queue::Queue;
use crate::member::{Member, assignment, path, transaction};
use crate::mistakes::Mistake;
use crate::search::Explore;
use crate::small::Set;
use crate::step::Step;

/// How many tenants `s` has. The records of `p` belong to them in turn.
pub const TENANTS: usize = 2;

/// The tenant of a record.
pub fn tenant(record: u8) -> usize {
    usize::from(record) % TENANTS
}

/// How large a search is: what happens, and how often it may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Records of `p`.
    pub records: u8,
    /// Hops, results and parked records in one transaction.
    pub batch: u8,
    /// To which shard `p` is anchored.
    pub anchor: Anchor,
    /// By what the coordinator fences.
    pub fencing: Fencing,
    /// Whether messages run for some time. If not, each result is there at once, which leaves fewer states.
    pub messages_take_time: bool,
    /// How often each fault may happen.
    pub faults: Budget,
}

/// How often each fault may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Moves of `p` to the other member. With one anchor: unused.
    pub source_moves: u8,
    /// Moves of `s` to the other member. With one anchor: `p` moves too.
    pub shard_moves: u8,
    /// New generations in which nothing moves.
    pub rebalances: u8,
    /// Crashes of a member.
    pub crashes: u8,
    /// Aborts for no reason of the model.
    pub aborts: u8,
    /// Messages whose records the broker refuses.
    pub refusals: u8,
    /// Records that are parked.
    pub parks: u8,
    /// Attempts to open the direct path that are given up.
    pub give_ups: u8,
}

/// A state of the cluster and both members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Kafka.
    pub cluster: Cluster,
    /// The members.
    pub members: [Member; MEMBERS],
    /// The faults that may still happen.
    pub budget: Budget,
}

impl State {
    /// A member.
    pub fn member(&self, member: u8) -> &Member {
        &self.members[usize::from(member)]
    }

    /// A member, to be changed.
    pub fn member_mut(&mut self, member: u8) -> &mut Member {
        &mut self.members[usize::from(member)]
    }

    /// A marker reaches a place. An abort marker removes records, and each member's offsets move with the records behind them.
    fn write_marker(&mut self, model: &Model, member: u8, place: Place) {
        let removed = self.cluster.write_marker(member, place);
        if place == Place::Repartition {
            self.move_shard_offsets(removed);
            self.remove_former_barriers(model);
            return;
        }
        let removed: Vec<u8> = removed.iter().collect();
        for offset in removed.into_iter().rev() {
            self.members.iter_mut().for_each(|member| member.remove_changelog_offset(offset));
        }
    }

    /// A member's attempt to open the direct path has ended.
    pub(crate) fn end_attempt(&mut self, model: &Model, member: u8) {
        self.cluster.repartition.end_attempt(member);
        self.remove_former_barriers(model);
    }

    /// Removes barriers that every reader skips, which leaves fewer states. A mistake that reads them keeps them.
    fn remove_former_barriers(&mut self, model: &Model) {
        if !model.has(Mistake::OpenAtFormerBarrier) && !model.has(Mistake::OpenAtBarrierOfOther) {
            let removed = self.cluster.repartition.remove_former_barriers();
            self.move_shard_offsets(removed);
        }
    }

    /// Records were removed from the repartition topic.
    fn move_shard_offsets(&mut self, removed: Set) {
        let removed: Vec<u8> = removed.iter().collect();
        for offset in removed.into_iter().rev() {
            self.cluster.offsets.remove_shard_offset(offset);
            self.members.iter_mut().for_each(|member| member.remove_shard_offset(offset));
        }
    }
}

/// Collects the steps that are possible in a state.
#[derive(Debug)]
pub struct Successors<'a> {
    from: &'a State,
    out: &'a mut Vec<(Step, State)>,
}

impl Successors<'_> {
    /// Adds a step, with what it changes.
    pub fn add(&mut self, step: Step, change: impl FnOnce(&mut State)) {
        let mut next = *self.from;
        change(&mut next);
        self.out.push((step, next));
    }
}

/// The model within bounds, with one mistake or none.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// How large it is.
    pub bounds: Bounds,
    /// The rule that it breaks.
    pub mistake: Option<Mistake>,
}

impl Model {
    /// Whether the model makes this mistake.
    pub fn has(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// Moves and rebalances of the group.
    fn group_steps(&self, state: &State, out: &mut Successors<'_>) {
        let group = &state.cluster.group;
        if state.budget.source_moves > 0 && self.bounds.anchor == Anchor::OtherShard {
            let to = 1 - group.owner(Partition::Source);
            out.add(Step::Moves { partition: Partition::Source, to, with_source: false }, |next| {
                next.budget.source_moves -= 1;
                next.cluster.group.move_to_other(&[Partition::Source]);
            });
        }
        if state.budget.shard_moves > 0 {
            let to = 1 - group.owner(Partition::Shard);
            let with_source = self.bounds.anchor == Anchor::SameShard;
            out.add(Step::Moves { partition: Partition::Shard, to, with_source }, |next| {
                next.budget.shard_moves -= 1;
                let both = &Partition::ALL;
                next.cluster.group.move_to_other(if with_source { both } else { &[Partition::Shard] });
            });
        }
        if state.budget.rebalances > 0 {
            out.add(Step::Rebalances, |next| {
                next.budget.rebalances -= 1;
                next.cluster.group.move_to_other(&[]);
            });
        }
    }

    fn marker_steps(&self, state: &State, member: u8, out: &mut Successors<'_>) {
        let (commits, places) = match state.cluster.transactions[usize::from(member)] {
            Transaction::Committing(places) => (true, places),
            Transaction::Aborting(places) => (false, places),
            Transaction::Idle | Transaction::Open(_) => return,
        };
        for place in Place::ALL.into_iter().filter(|place| places.contains(*place)) {
            out.add(Step::WritesMarker { member, place, commits }, |next| next.write_marker(self, member, place));
        }
    }

    /// Messages end, in any order of the tenants.
    fn finish_steps(&self, state: &State, member: u8, out: &mut Successors<'_>) {
        for (tenant, queue) in state.member(member).queues.iter().enumerate() {
            let change = |next: &mut State, change: fn(&mut Queue, &Self)| {
                change(&mut next.member_mut(member).queues[tenant], self);
            };
            if let Some(job) = queue.job {
                out.add(Step::Finishes { member, record: job.record }, |next| {
                    change(next, Queue::finish);
                });
            }
            if self.has(Mistake::RunTenantTwice) {
                out.add(Step::FinishesSecond { member, tenant }, |next| change(next, |queue, _| queue.finish_second()));
            }
            if let Some(job) = queue.abandoned.filter(|_| state.member(member).owns_shard()) {
                out.add(Step::FinishesAbandoned { member, record: job.record }, |next| {
                    change(next, Queue::accept_abandoned);
                });
            }
        }
    }
}

impl Explore for Model {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        State { cluster: Cluster::start(), members: [Member::default(); MEMBERS], budget: self.bounds.faults }
    }

    fn steps(&self, state: &State, out: &mut Vec<(Step, State)>) {
        let mut out = Successors { from: state, out };
        self.group_steps(state, &mut out);
        for member in [0, 1] {
            self.marker_steps(state, member, &mut out);
            assignment::group_steps(self, state, member, &mut out);
            assignment::takeover_steps(self, state, member, &mut out);
            path::steps(self, state, member, &mut out);
            self.finish_steps(state, member, &mut out);
            transaction::steps(self, state, member, &mut out);
        }
    }

    fn violation(&self, state: &State) -> Option<String> {
        checks::violation(state)
    }

    fn is_end(&self, state: &State) -> bool {
        checks::is_end(state, self.bounds.records)
    }
}
