//! Records that the broker refuses as such.

use switchboard_core::worker::{FatalError, Fault};

use super::fake_broker::Effect;
use super::rig::{Rig, SHARD_A, SHARD_D, SOURCE, header, pairs};

#[test]
fn a_refused_output_makes_only_its_message_a_dead_letter() {
    let mut rig = Rig::ready();
    rig.kafka().refuses.push(("OUT", "large"));
    rig.repartitioned(&[
        ("A", "count"),
        ("A", "count"),
        ("A", "say large"),
        ("A", "count"),
        ("A", "count"),
        ("A", "count"),
    ]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "A2", "A3", "A4", "A5"]);
    assert_eq!(rig.dead_letters(), pairs(&[("output", "say large")]));
    assert_eq!(rig.committed(SHARD_A), Some(6));
}

#[test]
fn the_batch_halves_until_the_message_is_alone_and_grows_again() {
    let mut rig = Rig::ready();
    rig.kafka().refuses.push(("OUT", "large"));
    rig.repartitioned(&[("A", "say large")]);
    rig.repartitioned(&[("A", "count"); 8]);
    rig.run();
    let mut sizes = Vec::new();
    for call in rig.calls() {
        match call.as_str() {
            "begin" => sizes.push(0),
            "send OUT" | "send dead-letters" => *sizes.last_mut().unwrap() += 1,
            _ => {}
        }
    }
    // Three times alone: as it is, output by output, as a dead letter.
    assert_eq!(sizes, [4, 2, 1, 1, 1, 2, 4, 2]);
}

#[test]
fn outputs_that_are_refused_only_as_a_batch_are_flushed_one_by_one() {
    let mut rig = Rig::ready();
    rig.repartitioned(&[("A", "many x y")]);
    let refusal = Fault::Refused("the two in one request".into());
    rig.kafka().fail("flush", 1, Effect::None, refusal);
    rig.run();
    let calls = rig.calls();
    let again = calls.iter().rposition(|call| call == "begin").unwrap();
    assert_eq!(calls[again + 1..again + 5], ["send OUT", "flush", "send OUT", "flush"]);
    assert_eq!(rig.outputs(), ["x", "y"]);
    assert!(rig.dead_letters().is_empty());
}

#[test]
fn a_dead_letter_that_is_refused_is_written_by_its_coordinates() {
    let mut rig = Rig::ready();
    rig.kafka().refuses = vec![("OUT", "large"), ("dead-letters", "large")];
    rig.repartitioned(&[("A", "count"), ("A", "say large"), ("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "A2"]);
    assert_eq!(rig.dead_letters(), pairs(&[("output", "null")]));
}

#[test]
fn a_refused_dead_letter_of_a_rejected_message_keeps_its_class() {
    for (command, class) in [("reject large", "invalid"), ("trap large", "trap")] {
        let mut rig = Rig::ready();
        rig.kafka().refuses = vec![("dead-letters", "large")];
        rig.repartitioned(&[("A", "count"), ("A", command), ("A", "count"), ("D", "count")]);
        rig.run();
        let mut outputs = rig.outputs();
        outputs.sort();
        assert_eq!((outputs, rig.committed(SHARD_A)), (["A1", "A2", "D1"].map(String::from).to_vec(), Some(3)));
        assert_eq!(rig.dead_letters(), pairs(&[(class, "null")]), "with its coordinates only");
        let letter = rig.kafka().visible.iter().find(|(to, _)| to == "dead-letters").unwrap().1.clone();
        let found =
            ["topic", "partition", "offset"].map(|what| header(&letter.headers, &format!("switchboard-{what}")));
        assert_eq!(found, ["IN", "0", "1"]);
        assert_eq!(rig.count("abort"), 4, "the batch halves, then the letter is written by its coordinates");
        assert_eq!(rig.ran().len(), 4, "nothing was built on the message, so nothing runs again");
        rig.repartitioned(&[("A", "count")]);
        rig.run();
        assert_eq!(rig.outputs()[3..], ["A3"]);
    }
}

#[test]
fn a_worker_whose_dead_letters_are_refused_stops_and_skips_nothing() {
    let mut rig = Rig::ready();
    rig.kafka().refuses = vec![("OUT", "large"), ("dead-letters", "")];
    rig.repartitioned(&[("A", "count"), ("A", "say large"), ("A", "count")]);
    assert!(matches!(rig.try_run(), Err(FatalError::DeadLettersRefused(_))));
    assert_eq!(rig.committed(SHARD_A), Some(1));
    assert_eq!(rig.outputs(), ["A1"]);
}

#[test]
fn a_record_that_the_repartition_topic_refuses_is_a_dead_letter_in_its_source_form() {
    let mut rig = Rig::with_source_and_half();
    rig.kafka().refuses.push(("shard", "large"));
    rig.produce(&[("D", "count"), ("D", "say large"), ("D", "count")]);
    rig.run();
    assert_eq!(rig.kafka().logs[&SHARD_D].len(), 2);
    assert_eq!(rig.dead_letters(), pairs(&[("output", "say large")]));
    let letter = rig.kafka().visible.iter().find(|(to, _)| to == "dead-letters").unwrap().1.clone();
    assert_eq!(header(&letter.headers, "T"), "D");
    assert_eq!(rig.committed(SOURCE), Some(3));
}

#[test]
fn a_refused_message_is_found_while_records_that_hop_keep_arriving() {
    let mut rig = Rig::with_source_and_half();
    rig.kafka().refuses.push(("OUT", "large"));
    rig.repartitioned(&[("A", "say large"), ("A", "count")]);
    rig.step().unwrap();
    for _ in 0..40 {
        rig.produce(&[("D", "count"); 8]);
        rig.step().unwrap();
        if rig.committed(SHARD_A) == Some(3) {
            break;
        }
    }
    assert_eq!(rig.dead_letters(), pairs(&[("output", "say large")]));
    assert_eq!(rig.outputs(), ["A1"]);
}
