//! Messages that need an answer from elsewhere.

use std::time::Duration;

use switchboard_core::worker::{Event, Fault, WorkerConfig};

use super::fake_broker::Effect;
use super::rig::{A, Rig, SHARD_A, config, pairs};

type Answer = Result<Option<&'static str>, &'static str>;

fn answering(answers: &[(&str, &[Answer])]) -> Rig {
    let rig = Rig::ready();
    for (key, answers) in answers {
        rig.names().answers.insert((*key).into(), answers.iter().copied().collect());
    }
    rig
}

#[test]
fn a_lookup_holds_up_only_its_tenant_whose_order_is_kept() {
    let mut rig = answering(&[("ann", &[Ok(Some("Ann"))])]);
    rig.held().hold_fetches("A");
    rig.repartitioned(&[("A", "count"), ("A", "look ann"), ("A", "count"), ("B", "count"), ("D", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "B1", "D1"]);
    assert_eq!(rig.committed_with_map(SHARD_A), "1,n=1,bits=BA==", "B's record is settled beyond A's");
    rig.repartitioned(&[("B", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "B1", "D1", "B2"]);
    rig.held().finish("A");
    rig.run();
    assert_eq!(rig.outputs()[4..], ["A2:Ann", "A3"]);
    assert_eq!((rig.committed_with_map(SHARD_A), rig.names().asked.len()), ("5,n=0".into(), 1));
}

#[test]
fn a_lookup_of_a_revoked_shard_is_dropped_and_its_next_owner_asks_again() {
    for answers in [[Ok(Some("Ann")), Ok(Some("Bob"))], [Err("no answer"), Ok(Some("Bob"))]] {
        let mut rig = answering(&[("ann", &answers)]);
        rig.held().hold_fetches("A");
        rig.repartitioned(&[("A", "look ann"), ("A", "count")]);
        rig.run();
        rig.kafka().events.push_back(Event::Revoked(vec![A]));
        rig.run();
        rig.held().hold_no_more("A");
        rig.kafka().events.push_back(Event::Assigned(vec![A]));
        rig.later();
        assert_eq!(rig.outputs(), ["A1:Bob", "A2"]);
        // The former answer, or that there is none, comes late.
        rig.held().finish("A");
        rig.repartitioned(&[("A", "count")]);
        rig.run();
        assert_eq!((rig.outputs().len(), rig.dead_letters(), rig.held().out()), (3, vec![], 0));
    }
}

#[test]
fn a_lookup_of_a_message_that_is_no_longer_its_tenants_first_is_dropped() {
    for answers in [[Ok(Some("Ann")), Ok(Some("Bob"))], [Err("no answer"), Ok(Some("Bob"))]] {
        let mut rig = Rig::with_source();
        rig.names().answers.insert("ann".into(), answers.into());
        rig.held().hold_fetches("D");
        // Nothing is committed, so a message before the one that waits can be dropped.
        rig.kafka().fail("flush", usize::MAX, Effect::None, Fault::Abortable("for a test".into()));
        rig.produce(&[("D", "count")]);
        rig.step().unwrap();
        rig.repartitioned(&[("D", "look ann"), ("D", "count")]);
        for _ in 0..3 {
            rig.step().unwrap();
        }
        assert_eq!((rig.ran(), rig.held().out()), (vec!["D count".into(), "D look ann".into()], 1));
        // The source is lost with its shard. D's shard stays.
        rig.kafka().events.push_back(Event::Lost(vec![A]));
        rig.step().unwrap();
        rig.held().finish("D");
        rig.kafka().heal();
        rig.run();
        assert_eq!((rig.outputs(), rig.dead_letters()), (vec!["D1:Bob".into(), "D2".into()], vec![]));
    }
}

#[test]
fn each_answer_of_a_message_is_fetched_once() {
    let mut rig = answering(&[("ann", &[Ok(Some("Ann"))]), ("bob", &[Ok(Some("Bob"))])]);
    rig.repartitioned(&[("A", "look ann bob"), ("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1:Ann:Bob", "A2"]);
    assert_eq!(rig.names().asked, [("ann".into(), 0), ("bob".into(), 0)]);
}

#[test]
fn a_message_keeps_its_answers_over_an_abort() {
    for call in ["send", "flush", "send_offsets", "commit"] {
        let mut rig = answering(&[("ann", &[Ok(Some("Ann")), Ok(Some("Bob"))])]);
        rig.repartitioned(&[("A", "look ann")]);
        rig.step().unwrap();
        rig.kafka().fail(call, 1, Effect::None, Fault::Abortable("for a test".into()));
        rig.run();
        assert_eq!(rig.outputs(), ["A1:Ann"], "{call}");
        assert_eq!((rig.names().asked.len(), rig.count("abort")), (1, 1), "{call}");
    }
}

#[test]
fn a_source_without_an_entry_is_an_answer() {
    let mut rig = answering(&[("ann", &[Ok(None)])]);
    rig.repartitioned(&[("A", "look ann")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1:nobody"]);
}

#[test]
fn a_message_without_an_answer_is_a_dead_letter_and_leaves_no_state() {
    let mut rig = answering(&[("ann", &[Err("the source is down")])]);
    rig.repartitioned(&[("A", "count"), ("A", "look ann"), ("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "A2"]);
    assert_eq!(rig.dead_letters(), pairs(&[("lookup", "look ann")]));
}

#[test]
fn known_answers_do_not_end_the_job() {
    let mut rig = Rig::ready();
    rig.names().known.insert("ann".into(), "Ann");
    rig.repartitioned(&[("A", "look ann"), ("A", "look ann"), ("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1:Ann", "A2:Ann", "A3"]);
    assert_eq!((rig.count("commit"), rig.names().asked.len()), (1, 0));
}

#[test]
fn an_unusable_answer_is_fetched_again() {
    let mut rig = answering(&[("ann", &[Ok(Some("bad")), Ok(Some("bad")), Ok(Some("Ann"))])]);
    rig.repartitioned(&[("A", "choosy ann")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1:Ann"]);
    assert_eq!(rig.names().asked, [("ann".into(), 0), ("ann".into(), 1), ("ann".into(), 2)]);
}

#[test]
fn an_unusable_known_answer_is_fetched() {
    let mut rig = answering(&[("ann", &[Ok(Some("Ann"))])]);
    rig.names().known.insert("ann".into(), "bad");
    rig.repartitioned(&[("A", "choosy ann")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1:Ann"]);
}

#[test]
fn answers_that_stay_unusable_make_the_message_a_dead_letter() {
    let mut rig = answering(&[("ann", &[Ok(Some("bad")); 50])]);
    rig.repartitioned(&[("A", "choosy ann"), ("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1"]);
    assert_eq!(rig.dead_letters(), pairs(&[("lookup", "choosy ann")]));
    let attempts: Vec<_> = rig.names().asked.iter().map(|(_, attempt)| *attempt).collect();
    assert!(attempts.iter().copied().eq(0..u32::try_from(attempts.len()).unwrap()), "{attempts:?}");
    assert!(attempts.len() < 10, "{attempts:?}");
}

#[test]
fn a_message_that_exceeds_its_number_of_lookups_is_a_dead_letter() {
    let answers: &[Answer] = &[Ok(Some("x"))];
    let mut rig = answering(&[("a", answers), ("b", answers), ("c", answers), ("d", answers)]);
    rig.repartitioned(&[("A", "look a b c"), ("A", "look a b c d"), ("A", "count")]);
    for key in ["a", "b", "c"] {
        rig.names().known.insert(key.into(), "x");
    }
    rig.run();
    assert_eq!(rig.outputs(), ["A1:x:x:x", "A2"]);
    assert_eq!(rig.dead_letters(), pairs(&[("limit", "look a b c d")]));
}

#[test]
fn the_lookups_of_a_message_share_its_lookup_time() {
    let mut rig = Rig::ready_with(WorkerConfig { lookup_time: Duration::from_secs(30), ..config() });
    for key in ["a", "b", "c"] {
        rig.names().answers.insert(key.into(), [Ok(Some("x"))].into());
    }
    rig.names().takes = Duration::from_secs(10);
    rig.repartitioned(&[("A", "look a b c")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1:x:x:x"]);
    assert_eq!(rig.names().budgets, [30, 20, 10].map(Duration::from_secs));
}
