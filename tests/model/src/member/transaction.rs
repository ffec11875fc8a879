//! What enters a member's transaction, and what its commit, its abort or a refused record means.

use crate::cluster::coordinator::{Place, Transaction};
use crate::cluster::group::Partition;
use crate::cluster::log::{Attempt, Entry, Kind, Mark};
use crate::mistakes::Mistake;
use crate::small::{List, Set};
use crate::state::{Model, State, Successors, TENANTS, tenant};
use crate::step::Step;

use super::assignment::join;
use super::path::Path;
use super::queue::{Item, Origin, Outcome};
use super::{Member, ShardPhase, SourcePhase};

/// The open transaction of a member. The results in it are marked in the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OwnTransaction {
    /// The records of `p` that take the hop.
    pub hops: Set,
    /// It has a barrier.
    pub has_barrier: bool,
    /// Its records are written.
    pub has_written: bool,
    /// Its offsets were sent and accepted, or it has none.
    pub has_sent_offsets: bool,
}

/// What one transaction holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Content {
    hops: Set,
    has_barrier: bool,
    /// The results of each tenant: indices of its queue.
    results: [(usize, usize); TENANTS],
    /// The record of each tenant that is parked.
    parked: [Option<usize>; TENANTS],
}

impl Content {
    /// How many records of `p` it settles or parks.
    fn len(&self) -> usize {
        let results: usize = self.results.iter().map(|(start, end)| end - start).sum();
        self.hops.len() + results + usize::from(self.parks())
    }

    /// How many records it parks.
    fn parks(&self) -> u8 {
        self.parked.iter().map(|parked| u8::from(parked.is_some())).sum()
    }
}

/// Steps of a transaction, from its begin to its decision.
pub(crate) fn steps(model: &Model, state: &State, member: u8, out: &mut Successors<'_>) {
    let me = state.member(member);
    let Some(transaction) = me.transaction else {
        if state.cluster.transactions[usize::from(member)] == Transaction::Idle {
            begin_steps(model, state, member, out);
        }
        return;
    };
    if transaction.has_sent_offsets && transaction.has_written {
        out.add(Step::Commits { member }, |next| commit(model, next, member));
    } else if transaction.has_sent_offsets {
        out.add(Step::WritesRecords { member }, |next| write(model, next, member));
    } else {
        offset_steps(model, state, member, transaction, out);
        refusal_steps(model, state, member, out);
    }
    if state.budget.aborts > 0 {
        out.add(Step::Aborts { member }, |next| {
            next.budget.aborts -= 1;
            abort(model, next, member);
        });
    }
}

/// A transaction may hold any number of hops, results and parked records, each in the order of its partition or queue, and a
/// barrier.
fn begin_steps(model: &Model, state: &State, member: u8, out: &mut Successors<'_>) {
    let mut contents = vec![Content::default()];
    if state.member(member).shard == ShardPhase::Owned {
        for queue in 0..TENANTS {
            contents = contents.iter().flat_map(|content| with_results(model, state, member, queue, content)).collect();
        }
    }
    let hops = possible_hops(model, state.member(member));
    for content in &contents {
        for count in 0..=hops.len() {
            let content = Content { hops: hops.iter().take(count).collect(), ..*content };
            if content.len() > usize::from(model.bounds.batch) {
                continue;
            }
            let has_barrier = may_have_barrier(model, state.member(member), &content);
            let barriers =
                [false, true].into_iter().filter(|barrier| if *barrier { has_barrier } else { content.len() > 0 });
            for has_barrier in barriers {
                let content = Content { has_barrier, ..content };
                let [results, parked] = records(state.member(member), &content);
                let step = Step::Begins { member, has_barrier, hops: content.hops, results, parked };
                out.add(step, |next| begin(model, next, member, &content));
            }
        }
    }
}

/// Whether a transaction with this content may have a barrier. No other transaction of the member is open, so its hops of
/// earlier transactions have ended.
fn may_have_barrier(model: &Model, me: &Member, content: &Content) -> bool {
    let takes_hops = model.has(Mistake::WriteBarrierBeforeOwnHops) || model.has(Mistake::WriteBarrierBehindOwnHops);
    me.may_write_barrier(model) && (content.hops.is_empty() || takes_hops)
}

/// The records of `p` that may take the hop next.
fn possible_hops(model: &Model, me: &Member) -> Set {
    let mut probe = *me;
    let mut hops = Set::EMPTY;
    while probe.source == SourcePhase::Owned
        && probe.may_hop(model)
        && probe.source_next < model.bounds.records
        && hops.len() < usize::from(model.bounds.batch)
    {
        hops.insert(probe.source_next);
        probe.source_next += 1;
        probe.skip_finished();
    }
    hops
}

/// The content with each number of results of one tenant, and with or without a parked record.
fn with_results(model: &Model, state: &State, member: u8, index: usize, content: &Content) -> Vec<Content> {
    let queue = &state.member(member).queues[index];
    let items = queue.items.as_slice();
    let finished = queue.finished(model);
    let mut contents = Vec::new();
    for end in finished.start..=finished.end {
        let mut next = *content;
        next.results[index] = (finished.start, end);
        contents.push(next);
        let may_be_parked = |item: &Item| item.outcome.is_none() && item.origin != Origin::Parked;
        let mut candidates = (end..items.len()).filter(|at| may_be_parked(&items[*at]));
        let parked = if model.has(Mistake::ParkOverflowOnly) { candidates.nth(1) } else { candidates.next() };
        let Some(parked) = parked else { continue };
        // What stands before it in the queue is in this transaction, or parked.
        let is_in_order = items[end..parked].iter().all(|item| item.origin == Origin::Parked);
        let already = content.parked.iter().flatten().count();
        if usize::from(state.budget.parks) > already && (is_in_order || model.has(Mistake::ParkOverflowOnly)) {
            next.parked[index] = Some(parked);
            contents.push(next);
        }
    }
    contents
}

/// The records whose results are in the content, and those that it parks.
fn records(me: &Member, content: &Content) -> [Set; 2] {
    let (mut results, mut parked) = (Set::EMPTY, Set::EMPTY);
    for (queue, (range, at)) in me.queues.iter().zip(content.results.iter().zip(content.parked)) {
        let items = queue.items.as_slice();
        results = items[range.0..range.1].iter().fold(results, |results, item| results.with(item.record));
        parked = at.iter().fold(parked, |parked, at| parked.with(items[*at].record));
    }
    [results, parked]
}

/// Begins a transaction and writes its records.
fn begin(model: &Model, next: &mut State, member: u8, content: &Content) {
    let me = next.member_mut(member);
    let Content { hops, has_barrier, .. } = *content;
    let has_sent_offsets = content.len() == 0;
    me.transaction = Some(OwnTransaction { hops, has_barrier, has_written: false, has_sent_offsets });
    if let Some(last) = hops.iter().last() {
        me.source_next = last + 1;
    }
    if has_barrier {
        me.path = Path::Opening;
    }
    me.skip_finished();
    for (queue, (range, parked)) in me.queues.iter_mut().zip(content.results.iter().zip(content.parked)) {
        let items = queue.items.as_mut_slice();
        items[range.0..range.1].iter_mut().for_each(|item| item.is_sent = true);
        if let Some(item) = parked.and_then(|at| items.get_mut(at)) {
            item.is_being_parked = true;
        }
    }
    next.budget.parks -= content.parks();
    if !model.has(Mistake::SendOffsetsFirst) {
        write(model, next, member);
    }
}

/// Writes the records of the open transaction.
fn write(model: &Model, next: &mut State, member: u8) {
    let me = next.member_mut(member);
    let Some(transaction) = &mut me.transaction else { return };
    transaction.has_written = true;
    let OwnTransaction { hops, has_barrier, .. } = *transaction;
    let queues = me.queues;
    let entry = |record, kind, base| Entry { record, kind, base, writer: member, mark: Mark::Open };
    let is_behind = model.has(Mistake::WriteBarrierBehindOwnHops);
    let barrier = has_barrier.then(|| entry(member, Kind::Barrier(Attempt::Current), Set::EMPTY));
    let hops = hops.iter().map(|record| entry(record, Kind::Hop, Set::EMPTY));
    let first = barrier.filter(|_| !is_behind);
    for entry in first.into_iter().chain(hops).chain(barrier.filter(|_| is_behind)) {
        next.cluster.write(Place::Repartition, entry);
    }
    for item in queues.iter().flat_map(|queue| queue.items.as_slice()) {
        let (kind, base) = match item.outcome {
            Some(Outcome::Processed(base)) if item.is_sent => (Kind::Result, base),
            Some(Outcome::DeadLetter) if item.is_sent => (Kind::DeadLetter, Set::EMPTY),
            _ if item.is_being_parked => (Kind::Parked, Set::EMPTY),
            _ => continue,
        };
        next.cluster.write(Place::Changelog, entry(item.record, kind, base));
    }
}

/// The member sends its offsets in one request, and the coordinator accepts or refuses them.
fn offset_steps(model: &Model, state: &State, member: u8, transaction: OwnTransaction, out: &mut Successors<'_>) {
    let me = state.member(member);
    let offsets = me.offsets(model, transaction);
    let group = &state.cluster.group;
    let is_accepted = Partition::ALL.iter().zip(offsets).all(|(partition, offset)| {
        offset.is_none()
            || group.accepts(model.bounds.fencing, member, me.generation, *partition)
            || model.has(Mistake::SendOffsetsWithoutMembership)
    });
    if !is_accepted {
        // It sends nothing more before it has joined: each attempt would be refused.
        out.add(Step::IsFenced { member }, |next| {
            abort(model, next, member);
            join(model, next, member);
        });
        return;
    }
    let [source, shard] = offsets;
    out.add(Step::SendsOffsets { member, source, shard }, |next| {
        next.cluster.send_offsets(member, offsets);
        next.member_mut(member).transaction = Some(OwnTransaction { has_sent_offsets: true, ..transaction });
    });
}

/// The broker refuses the records of one message.
fn refusal_steps(model: &Model, state: &State, member: u8, out: &mut Successors<'_>) {
    if state.budget.refusals == 0 {
        return;
    }
    for queue in &state.member(member).queues {
        for item in queue.items.as_slice() {
            if item.is_sent && matches!(item.outcome, Some(Outcome::Processed(_))) {
                let record = item.record;
                out.add(Step::IsRefused { member, record }, |next| {
                    next.budget.refusals -= 1;
                    abort(model, next, member);
                    refuse(model, next.member_mut(member), record);
                });
            }
        }
    }
}

/// The message becomes a dead letter. The tenant's later results were made from its changes of state, and are dropped.
fn refuse(model: &Model, me: &mut Member, record: u8) {
    let queue = &mut me.queues[tenant(record)];
    let Some(index) = queue.items.as_slice().iter().position(|item| item.record == record) else { return };
    if model.has(Mistake::SkipRefusedMessage) {
        let origin = queue.items.as_slice()[index].origin;
        queue.items.retain(|item| item.record != record);
        queue.drop_results(index, model);
        me.count_finished(record, origin);
        return;
    }
    queue.items.as_mut_slice()[index].outcome = Some(Outcome::DeadLetter);
    if !model.has(Mistake::KeepResultsBehindRefused) {
        queue.drop_results(index + 1, model);
    }
}

/// The transaction is committed: its results leave the queues, and become committed state.
fn commit(model: &Model, next: &mut State, member: u8) {
    next.cluster.decide(member, true);
    let me = next.member_mut(member);
    if me.transaction.is_some_and(|transaction| transaction.has_barrier) && model.has(Mistake::OpenAtCommitOfBarrier) {
        me.path = Path::Open;
    }
    me.count_transaction(true);
    for queue in &mut me.queues {
        for item in queue.items.as_mut_slice() {
            if std::mem::take(&mut item.is_being_parked) {
                item.origin = Origin::Parked;
            }
            if item.is_sent && matches!(item.outcome, Some(Outcome::Processed(_))) {
                queue.committed.insert(item.record);
            }
        }
        queue.items.retain(|item| !item.is_sent);
        queue.update_job_origin();
        queue.start(model);
    }
    me.transaction = None;
}

/// The transaction is aborted: hops are read again, and results are sent again from the queues. A barrier is lost.
fn abort(model: &Model, next: &mut State, member: u8) {
    next.cluster.decide(member, false);
    let me = next.member_mut(member);
    if me.transaction.is_some_and(|transaction| transaction.has_barrier) && me.path == Path::Opening {
        me.path = Path::Closed;
        next.end_attempt(model, member);
    }
    let me = next.member_mut(member);
    if model.has(Mistake::CountAbortedAsFinished) {
        me.count_transaction(false);
    }
    if model.has(Mistake::ForgetMapOnAbort) {
        me.source_finished = me.source_finished.prefix();
        me.shard_finished = me.shard_finished.prefix();
    }
    if let Some(first) = me.transaction.and_then(|transaction| transaction.hops.iter().next()) {
        me.source_next = me.source_next.min(first);
    }
    for queue in &mut me.queues {
        let has_later = queue.items.as_slice().iter().any(|item| item.outcome.is_some() && !item.is_sent);
        let runs_again = has_later && model.has(Mistake::SendLaterResultsFirst);
        for item in queue.items.as_mut_slice() {
            if std::mem::take(&mut item.is_sent) && runs_again {
                item.outcome = None;
            }
            item.is_being_parked = false;
        }
        if runs_again {
            queue.job = None;
            queue.start(model);
        }
    }
    me.transaction = None;
}

impl Member {
    /// The offsets that the transaction sends, for `p` and for `s`.
    fn offsets(&self, model: &Model, transaction: OwnTransaction) -> [Option<Set>; 2] {
        let items = || self.queues.iter().flat_map(|queue| queue.items.as_slice());
        let touched = || items().filter(|item| item.is_sent || item.is_being_parked);
        let direct: Set = touched().filter(|item| item.origin == Origin::Direct).map(|item| item.record).collect();
        let from_shard: Set = touched().filter_map(|item| item.origin.shard_offset()).collect();

        let has_direct = !direct.is_empty() && !model.has(Mistake::SkipOffsetOfDirectSource);
        let source = (has_direct || !transaction.hops.is_empty())
            .then(|| self.source_finished.union(direct).union(transaction.hops));
        let is_touched = touched().next().is_some();
        let sends_shard =
            if model.has(Mistake::SkipOffsetOfTouchedShard) { !from_shard.is_empty() } else { is_touched };
        let shard = sends_shard.then(|| {
            let queued = if model.has(Mistake::CommitPastQueued) { Set::below(self.shard_next) } else { Set::EMPTY };
            self.shard_finished.union(from_shard).union(queued)
        });
        let cut = |set: Set| if model.has(Mistake::TruncateMap) { set.prefix() } else { set };
        [source.map(cut), shard.map(cut)]
    }

    /// Counts the records of the transaction as finished.
    fn count_transaction(&mut self, with_hops: bool) {
        let items = self.queues.map(|queue| queue.items);
        for item in items.iter().flat_map(List::as_slice) {
            if item.is_sent || item.is_being_parked {
                self.count_finished(item.record, item.origin);
            }
        }
        if let Some(transaction) = self.transaction.filter(|_| with_hops) {
            self.source_finished = self.source_finished.union(transaction.hops);
        }
    }

    fn count_finished(&mut self, record: u8, origin: Origin) {
        match origin {
            Origin::Direct => self.source_finished.insert(record),
            Origin::Shard(offset) => self.shard_finished.insert(offset),
            Origin::Parked => {}
        }
    }
}
