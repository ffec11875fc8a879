//! The model reaches what it says it can do. A model that reaches nothing would hold, and show nothing.

use switchboard_model::cluster::coordinator::Transaction;
use switchboard_model::cluster::group::Partition;
use switchboard_model::cluster::log::{Attempt, Entry, Kind, Mark};
use switchboard_model::member::path::Path;
use switchboard_model::member::queue::{Item, Origin};
use switchboard_model::member::{ShardPhase, SourcePhase};
use switchboard_model::scopes;
use switchboard_model::search::{Ending, Explore, Options, search};
use switchboard_model::state::{Bounds, Model, State};
use switchboard_model::step::Step;

/// A model in which a state that is looked for counts as a violation.
struct Looks {
    model: Model,
    for_state: fn(&State) -> bool,
}

impl Explore for Looks {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        self.model.start()
    }

    fn steps(&self, state: &State, out: &mut Vec<(Step, State)>) {
        self.model.steps(state, out);
    }

    fn violation(&self, state: &State) -> Option<String> {
        (self.for_state)(state).then(|| "reached".to_owned())
    }

    fn is_end(&self, _: &State) -> bool {
        false
    }
}

fn bounds(scope: &str) -> Bounds {
    scopes::find(scope).expect("a scope").bounds
}

fn assert_reached(bounds: Bounds, for_state: fn(&State) -> bool) {
    let looks = Looks { model: Model { bounds, mistake: None }, for_state };
    let report = search(&looks, Options { checks_end: false, max_states: 3_000_000 });
    assert_eq!(report.ending, Ending::Violation, "not among {} states", report.states);
}

fn items(state: &State, member: usize) -> impl Iterator<Item = &Item> {
    state.members[member].queues.iter().flat_map(|queue| queue.items.as_slice())
}

#[test]
fn all_four_layers_of_a_tenants_state_are_in_use_at_once() {
    // Four records of one tenant.
    let mut bounds = Bounds { records: 7, batch: 1, ..bounds("refusals") };
    bounds.faults.refusals = 0;
    bounds.faults.aborts = 0;
    assert_reached(bounds, |state| {
        state.members[0].queues.iter().any(|queue| {
            let items = || queue.items.as_slice().iter();
            let (sent, finished) =
                (items().any(|item| item.is_sent), items().any(|item| item.outcome.is_some() && !item.is_sent));
            !queue.committed.is_empty() && sent && finished && queue.job.is_some()
        })
    });
}

#[test]
fn a_transaction_holds_hops_and_results() {
    assert_reached(bounds("shard-moves"), |state| {
        let hops = state.members[0].transaction.is_some_and(|transaction| !transaction.hops.is_empty());
        hops && items(state, 0).any(|item| item.is_sent)
    });
}

#[test]
fn a_message_finishes_while_a_transaction_is_open_that_aborts() {
    assert_reached(bounds("aborts"), |state| {
        let aborts = matches!(state.cluster.transactions[0], Transaction::Aborting(_));
        let queue = &state.members[0].queues[0];
        aborts && queue.items.as_slice().iter().filter(|item| item.outcome.is_some()).count() == 2
    });
}

#[test]
fn a_dead_letter_and_a_later_result_of_its_tenant_are_committed() {
    assert_reached(bounds("refusals"), |state| {
        let entries = state.cluster.changelog.entries();
        let settled = |record, kind| {
            let is_it = |entry: &&_| state.cluster.is_committed(entry);
            entries.iter().filter(is_it).any(|entry| entry.record == record && entry.kind == kind)
        };
        settled(0, Kind::DeadLetter) && settled(2, Kind::Result)
    });
}

#[test]
fn a_new_owner_restores_a_parked_record() {
    assert_reached(bounds("parks"), |state| items(state, 1).any(|item| item.origin == Origin::Parked));
}

#[test]
fn a_new_owner_skips_records_that_are_finished_beyond_the_offset() {
    assert_reached(bounds("source-moves"), |state| {
        let member = &state.members[1];
        let finished = member.source_finished;
        member.source == SourcePhase::Owned && finished != finished.prefix()
    });
    assert_reached(bounds("shard-moves"), |state| {
        let member = &state.members[1];
        let finished = member.shard_finished;
        member.shard == ShardPhase::Owned && finished != finished.prefix()
    });
}

#[test]
fn a_takeover_waits_for_the_transaction_of_a_crashed_member() {
    assert_reached(bounds("crashes"), |state| {
        let has_crashed = state.budget.crashes == 0 && state.members[0].transaction.is_none();
        let is_open = matches!(state.cluster.transactions[0], Transaction::Open(_));
        has_crashed && is_open && matches!(state.members[1].shard, ShardPhase::Restores { end: 1.. })
    });
}

#[test]
fn a_barrier_is_committed_behind_a_record_whose_marker_is_missing() {
    assert_reached(bounds("source-moves"), |state| {
        let log = state.cluster.repartition;
        let behind = &log.entries()[log.last_stable_offset().into()..];
        behind.iter().any(|entry| entry.mark == Mark::Committed && matches!(entry.kind, Kind::Barrier(_)))
    });
}

#[test]
fn a_former_owner_commits_a_barrier_after_the_path_of_the_new_owner_has_opened() {
    assert_reached(bounds("two-records"), |state| {
        let owner = state.cluster.group.owner(Partition::Shard);
        let has_opened = state.member(owner).path == Path::Open;
        let of_other = |entry: &&Entry| entry.record != owner && entry.kind == Kind::Barrier(Attempt::Current);
        let entries = state.cluster.repartition.entries();
        has_opened && entries.iter().filter(of_other).any(|entry| entry.mark == Mark::Committed)
    });
}

#[test]
fn an_attempt_is_given_up_while_its_barrier_is_being_committed() {
    assert_reached(bounds("attempts"), |state| {
        let transaction = state.cluster.transactions[0];
        let has =
            |attempt| state.cluster.repartition.entries().iter().any(|entry| entry.kind == Kind::Barrier(attempt));
        has(Attempt::Former) && matches!(transaction, Transaction::Committing(_))
    });
}
