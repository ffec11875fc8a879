//! Transactions that fail: nothing is lost, and nothing happens twice.

use switchboard_core::worker::{FatalError, Fault};

use super::fake_broker::Effect;
use super::rig::{Rig, SHARD_A};

fn abortable() -> Fault {
    Fault::Abortable("for a test".into())
}

fn counting() -> Rig {
    let rig = Rig::ready();
    rig.repartitioned(&[("A", "count"), ("A", "count"), ("D", "count")]);
    rig
}

fn assert_counted_once(rig: &mut Rig, what: &str) {
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "A2", "D1"], "{what}");
    // Later messages run on the committed state.
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "A2", "D1", "A3"], "{what}");
}

#[test]
fn an_aborted_transaction_is_sent_again_from_its_results_and_runs_nothing_again() {
    for call in ["begin", "send", "flush", "send_offsets", "commit"] {
        for abort_fails in [false, true] {
            let mut rig = counting();
            rig.kafka().fail(call, 1, Effect::None, abortable());
            if abort_fails {
                rig.kafka().fail("abort", 1, Effect::None, abortable());
            }
            assert_counted_once(&mut rig, call);
            assert_eq!(rig.ran(), ["A count", "A count", "D count", "A count"], "{call}");
            assert_eq!((rig.count("leave"), rig.discarded.borrow().len()), (0, 0), "{call}: all wasm instances stay");
        }
    }
}

#[test]
fn what_finishes_meanwhile_is_sent_after_the_results_of_an_aborted_transaction() {
    let mut rig = Rig::ready();
    rig.held().hold("D");
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    rig.kafka().fail("commit", 1, Effect::None, abortable());
    while rig.count("abort") == 0 {
        rig.step().unwrap();
    }
    assert_eq!((rig.outputs(), rig.held().out()), (vec![], 1));
    rig.held().finish("D");
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "D1", "A2"]);
    assert_eq!((rig.ran().len(), rig.count("commit")), (3, 2), "the one that failed, and one with all results");
}

#[test]
fn messages_run_on_results_that_are_not_committed_yet() {
    let mut rig = Rig::ready();
    rig.kafka().fail("flush", 3, Effect::None, abortable());
    for _ in 0..3 {
        rig.repartitioned(&[("A", "count")]);
        rig.step().unwrap();
    }
    assert_eq!((rig.outputs(), rig.ran().len()), (vec![], 3));
    rig.run();
    assert_eq!((rig.outputs(), rig.ran().len()), (["A1", "A2", "A3"].map(String::from).to_vec(), 0));
}

#[test]
fn a_restart_replaces_the_wasm_instances_of_tenants_with_results_that_are_dropped() {
    let mut rig = counting();
    rig.repartitioned(&[("B", "count")]);
    rig.run();
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    rig.kafka().fail("commit", 1, Effect::None, Fault::Fatal("gone".into()));
    rig.run();
    assert_eq!(*rig.discarded.borrow(), ["A", "D"], "they have seen messages that run again");
    assert_eq!(rig.outputs().len(), 6);
}

#[test]
fn a_retriable_call_is_repeated_within_its_transaction() {
    for call in ["send", "flush", "send_offsets", "commit"] {
        let mut rig = counting();
        rig.kafka().fail(call, 3, Effect::None, Fault::Retriable("not yet".into()));
        rig.run();
        assert_eq!((rig.count("abort"), rig.count("leave")), (0, 0), "{call}");
        assert_counted_once(&mut rig, call);
    }
}

#[test]
fn the_outcome_of_a_commit_without_an_answer_is_read_from_kafka() {
    for effect in [Effect::None, Effect::Done] {
        let faults = [
            (1, Fault::Fatal("gone".into())),
            (1, Fault::TimedOut("late".into())),
            (11, Fault::Retriable("not yet".into())),
        ];
        for (times, fault) in faults {
            let mut rig = counting();
            let what = format!("{fault:?}, {effect:?}");
            if let (Fault::Retriable(_), Effect::Done) = (&fault, effect) {
                // The first call commits. The repeated calls get no answer.
                rig.kafka().fail("commit", 1, Effect::Done, fault.clone());
                rig.kafka().fail("commit", times, Effect::None, fault);
            } else {
                rig.kafka().fail("commit", times, effect, fault);
            }
            assert_counted_once(&mut rig, &what);
            assert_eq!(rig.count("leave"), 1, "{what}");
        }
    }
}

#[test]
fn a_fatal_fault_before_the_commit_replaces_only_the_producer() {
    for call in ["begin", "send", "flush", "send_offsets"] {
        let mut rig = counting();
        rig.kafka().fail(call, 1, Effect::None, Fault::Fatal("gone".into()));
        rig.run();
        assert_eq!((rig.count("renew"), rig.count("leave"), rig.count("abort")), (1, 0, 0), "{call}");
        assert_counted_once(&mut rig, call);
    }
}

#[test]
fn a_transaction_that_could_not_be_ended_is_followed_by_a_new_producer() {
    for call in ["begin", "send_offsets", "commit"] {
        let mut rig = counting();
        rig.kafka().fail(call, 1, Effect::None, abortable());
        rig.run();
        assert_eq!(rig.count("renew"), 1, "{call}");
    }
    let mut rig = counting();
    rig.kafka().fail("flush", 1, Effect::None, abortable());
    rig.kafka().fail("abort", 1, Effect::None, abortable());
    rig.run();
    assert_eq!(rig.count("renew"), 1, "abort");
}

#[test]
fn an_acknowledged_abort_and_a_commit_keep_the_producer() {
    let mut rig = counting();
    rig.kafka().fail("flush", 1, Effect::None, abortable());
    rig.run();
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    assert_eq!((rig.count("abort"), rig.count("commit"), rig.count("renew")), (1, 2, 0));
}

#[test]
fn a_suspect_producer_begins_no_further_transaction() {
    let mut rig = counting();
    rig.kafka().suspect = true;
    rig.run();
    assert_eq!(rig.calls()[..2], ["renew", "begin"]);
    assert_eq!(rig.count("renew"), 1);
}

#[test]
fn without_a_new_producer_there_is_no_transaction() {
    let mut rig = counting();
    rig.kafka().suspect = true;
    rig.kafka().fail("renew", 3, Effect::None, Fault::Retriable("not yet".into()));
    rig.run();
    assert_eq!(rig.calls()[..5], ["renew", "renew", "renew", "renew", "begin"]);
    assert_counted_once(&mut rig, "in the end");
}

#[test]
fn a_worker_that_is_no_live_member_sends_no_offsets() {
    let mut rig = counting();
    rig.kafka().live = false;
    rig.step().unwrap();
    let calls = rig.calls();
    assert_eq!(calls[calls.len() - 2..], ["flush", "abort"]);
    assert!(!calls.iter().any(|call| call.starts_with("send_offsets")));
    rig.kafka().live = true;
    assert_counted_once(&mut rig, "a member again");
}

#[test]
fn a_membership_that_ends_while_offsets_are_sent_restarts_the_worker() {
    let mut rig = counting();
    rig.kafka().fail("send_offsets", 1, Effect::None, Fault::NotAMember("the generation is over".into()));
    assert_counted_once(&mut rig, "a member again");
    assert_eq!(rig.count("leave"), 1);
}

#[test]
fn a_time_out_halves_the_batch_and_commits_double_it_again() {
    let mut rig = Rig::ready();
    rig.repartitioned(&[("A", "count"); 12]);
    rig.kafka().fail("flush", 2, Effect::None, Fault::TimedOut("too much".into()));
    rig.run();
    let sizes: Vec<_> = rig
        .committed_transactions()
        .iter()
        .map(|calls| calls.iter().filter(|call| *call == "send OUT").count())
        .collect();
    assert_eq!(sizes, [1, 2, 4, 4, 1]);
    assert_eq!(rig.outputs().len(), 12);
    assert_eq!(rig.committed(SHARD_A), Some(12));
}

#[test]
fn a_failing_batch_is_retried_with_growing_pauses() {
    let mut rig = counting();
    rig.kafka().fail("flush", usize::MAX, Effect::None, abortable());
    let waits: Vec<_> = (0..9).map(|_| format!("{:?}", rig.step().unwrap())).collect();
    assert_eq!((waits[0].as_str(), waits[8].as_str()), ("After(10ms)", "After(1s)"));
    rig.kafka().heal();
    assert_counted_once(&mut rig, "healed");
}

#[test]
fn a_transaction_that_the_broker_ended_for_its_age_runs_again_after_a_restart() {
    for (fault, stops) in [(Fault::Fenced("too old".into()), false), (Fault::FencedInstance("too old".into()), true)] {
        let mut rig = counting();
        rig.kafka().fail("flush", 9, Effect::None, Fault::Retriable("stopped".into()));
        rig.kafka().fail("flush", 1, Effect::None, fault);
        if stops {
            assert_eq!(rig.try_run(), Err(FatalError::Fenced("too old".into())));
        } else {
            assert_counted_once(&mut rig, "fenced by time");
            assert_eq!(rig.count("leave"), 1);
        }
    }
}

#[test]
fn a_fenced_producer_stops_the_worker() {
    for call in ["begin", "send", "flush", "send_offsets", "commit", "abort", "renew", "join"] {
        let mut rig = counting();
        match call {
            "abort" => rig.kafka().fail("flush", 1, Effect::None, abortable()),
            "renew" => rig.kafka().suspect = true,
            "join" => rig.kafka().fail("commit", 1, Effect::None, Fault::Fatal("gone".into())),
            _ => {}
        }
        rig.kafka().fail(call, 1, Effect::None, Fault::Fenced("by a test".into()));
        assert_eq!(rig.try_run(), Err(FatalError::Fenced("by a test".into())), "{call}");
        assert_eq!(rig.outputs(), Vec::<String>::new(), "{call}");
    }
}
