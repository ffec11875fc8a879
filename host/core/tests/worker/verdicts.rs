//! What follows from a message, and what the observer gets.

use switchboard_core::record::{Headers, Record, from_repartitioned};
use switchboard_core::worker::Fault;

use super::fake_broker::Effect;
use super::rig::{Rig, SHARD_A, SHARD_D, SOURCE, header, pairs, text};

#[test]
fn a_message_that_fails_leaves_no_state_and_the_batch_goes_on() {
    for (command, class) in [("reject", "invalid"), ("trap", "trap"), ("elsewhere", "output"), ("undeclared", "lookup")]
    {
        let mut rig = Rig::ready();
        rig.repartitioned(&[("A", "count"), ("A", command), ("A", "count")]);
        rig.run();
        assert_eq!(rig.outputs(), ["A1", "A2"], "after {command}");
        assert_eq!(rig.dead_letters(), pairs(&[(class, command)]));
        assert_eq!(rig.count("commit"), 1, "one batch");
    }
}

#[test]
fn a_dead_letter_has_the_origin_of_its_record() {
    let mut rig = Rig::with_source();
    rig.produce(&[("A", "count"), ("A", "reject")]);
    rig.run();
    let kafka = rig.kafka();
    let (_, letter) = kafka.visible.iter().find(|(to, _)| to == "dead-letters").unwrap();
    let found = ["topic", "partition", "offset", "timestamp"]
        .map(|what| header(&letter.headers, &format!("switchboard-{what}")));
    assert_eq!(found, ["IN", "0", "1", "7"]);
    assert_eq!(header(&letter.headers, "T"), "A");
}

#[test]
fn a_record_without_a_tenant_is_a_dead_letter_in_the_transaction_of_its_neighbours() {
    let mut rig = Rig::with_source_and_half();
    rig.produce(&[("D", "count")]);
    let stray = Record { value: Some(b"stray".to_vec()), ..Record::default() };
    rig.kafka().logs.get_mut(&SOURCE).unwrap().push(stray);
    rig.produce(&[("D", "count")]);
    rig.run();
    let calls = ["send shard 1", "send dead-letters", "send shard 1", "flush", "send_offsets source-0@3"];
    assert_eq!(rig.committed_transactions()[0], calls);
    assert_eq!(rig.dead_letters(), pairs(&[("envelope", "stray")]));
}

#[test]
fn a_foreign_record_of_the_repartition_topic_is_a_dead_letter() {
    let mut rig = Rig::ready();
    rig.repartitioned(&[("A", "count")]);
    let headers: Headers = [("T", Some("A"))].into_iter().collect();
    let foreign = Record { value: Some(b"count".to_vec()), headers, ..Record::default() };
    rig.kafka().logs.get_mut(&SHARD_A).unwrap().push(foreign);
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "A2"]);
    assert_eq!(rig.dead_letters(), pairs(&[("envelope", "count")]));
    assert_eq!(rig.committed(SHARD_A), Some(3));
}

#[test]
fn the_observer_gets_verdicts_and_then_the_end_of_their_transaction() {
    let mut rig = Rig::with_source();
    rig.notes.borrow_mut().clear();
    rig.produce(&[("A", "count"), ("A", "reject")]);
    rig.kafka().fail("flush", 1, Effect::None, Fault::Abortable("for once".into()));
    rig.run();
    rig.kafka().logs.get_mut(&SOURCE).unwrap().push(Record::default());
    rig.run();
    let expected = [
        "IN[0]@0 A 1 outputs",
        "IN[0]@1 A invalid",
        "aborted",
        "IN[0]@0 A 1 outputs",
        "IN[0]@1 A invalid",
        "committed",
        "IN[0]@2 unknown envelope",
        "committed",
    ];
    assert_eq!(*rig.notes.borrow(), expected);
}

#[test]
fn the_observer_gets_the_tenant_of_a_message_that_becomes_a_dead_letter_later() {
    let mut rig = Rig::ready();
    rig.notes.borrow_mut().clear();
    rig.kafka().refuses.push(("OUT", "large"));
    rig.repartitioned(&[("A", "say large"), ("D", "look ann")]);
    rig.run();
    let found = rig.notes.borrow();
    assert!(found.contains(&"IN[0]@0 A output".into()), "{found:?}");
    assert!(found.contains(&"IN[0]@0 D lookup".into()), "{found:?}");
    assert_eq!([SHARD_A, SHARD_D].map(|shard| rig.committed(shard)), [Some(1), Some(1)]);
}

#[test]
fn a_repartitioned_record_of_a_tenant_of_another_shard_takes_the_hop_again() {
    // The hop was sent with another setting of the tenants' headers.
    let stray = |rig: &Rig| {
        rig.repartitioned(&[("A", "count")]);
        rig.repartitioned(&[("D", "count")]);
        let record = rig.kafka().logs.get_mut(&SHARD_D).unwrap().pop().unwrap();
        rig.kafka().logs.get_mut(&SHARD_A).unwrap().push(record);
        rig.repartitioned(&[("A", "count")]);
    };
    let mut rig = Rig::ready();
    stray(&rig);
    rig.run();
    let mut outputs = rig.outputs();
    outputs.sort();
    assert_eq!((outputs, rig.dead_letters()), (["A1", "A2", "D1"].map(String::from).to_vec(), vec![]));
    assert_eq!((rig.committed(SHARD_A), rig.committed(SHARD_D)), (Some(3), Some(1)));

    // Another worker has the tenant's shard. It gets the record as it was in the source topic.
    let mut rig = Rig::with_source_and_half();
    stray(&rig);
    rig.run();
    assert_eq!((rig.outputs(), rig.committed(SHARD_A)), (["A1", "A2"].map(String::from).to_vec(), Some(4)));
    let hop = rig.kafka().logs[&SHARD_D].last().unwrap().clone();
    let original = from_repartitioned(hop, &["IN".into()]).unwrap();
    assert_eq!((text(&original.record), original.origin.topic.as_ref()), ("count".into(), "IN"));
    assert_eq!(rig.ran(), ["A count", "A count"]);
}
