//! Partitions that are revoked, assigned again, or lost without notice.

use std::sync::Arc;
use std::time::Duration;

use switchboard_core::record::Record;
use switchboard_core::routing::Routing;
use switchboard_core::worker::{
    Cause, Consumed, Event, FatalError, Fault, KafkaErrorCode, Partition, StartFrom, WorkerConfig,
};

use super::fake_broker::Effect;
use super::fake_plugins::consuming;
use super::rig::{A, D, Rig, SHARD_A, SOURCE, config, message};

#[test]
fn what_is_finished_is_committed_before_a_revocation_and_dropped_at_a_loss_and_others_go_on() {
    for (event, settled) in [(Event::Revoked(vec![A]), 8), (Event::Lost(vec![A]), 4)] {
        let mut rig = Rig::ready();
        rig.repartitioned(&[("A", "count"); 8]);
        rig.step().unwrap();
        rig.repartitioned(&[("D", "count"); 2]);
        rig.kafka().events.push_back(event);
        rig.run();
        let expected: Vec<_> = (1..=settled).map(|n| format!("A{n}")).chain(["D1".into(), "D2".into()]).collect();
        assert_eq!((rig.outputs(), rig.committed(SHARD_A)), (expected, Some(settled)));

        // Assigned again, the shard goes on from there, on the committed state.
        rig.kafka().events.push_back(Event::Assigned(vec![A]));
        rig.repartitioned(&[("A", "count")]);
        rig.later();
        let expected: Vec<_> = (settled + 1..=9).map(|n| format!("A{n}")).collect();
        assert_eq!(rig.outputs()[usize::try_from(settled).unwrap() + 2..], expected);
    }
}

#[test]
fn state_that_another_owner_changed_is_restored_again() {
    let mut rig = Rig::ready();
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    rig.kafka().events.push_back(Event::Revoked(vec![A]));
    rig.run();
    rig.repartitioned(&[("A", "count"), ("A", "count")]);
    rig.kafka().changelogs.get_mut(&0.into()).unwrap().push((b"A\0n".to_vec(), Some(b"50".to_vec())));
    rig.kafka().committed.insert(SHARD_A, 2.into());
    rig.kafka().events.push_back(Event::Assigned(vec![A]));
    rig.later();
    assert_eq!(rig.outputs(), ["A1", "A51"]);
}

#[test]
fn a_revoked_partition_is_given_back_between_transactions() {
    let mut rig = Rig::with_source();
    rig.repartitioned(&[("A", "count"); 8]);
    rig.step().unwrap();
    rig.kafka().events.push_back(Event::Revoked(vec![A]));
    rig.run();
    let calls = rig.calls();
    let given_back = calls.iter().position(|call| call == "give_back shard-0").unwrap();
    assert_eq!(calls[given_back - 2..given_back], ["commit", "stop source-0"]);
}

#[test]
fn the_restore_of_a_revoked_shard_stops() {
    let mut rig = Rig::with(config(), 0, &[D]);
    rig.run();
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    rig.kafka().fail("poll_restore", usize::MAX, Effect::None, Fault::Retriable("not now".into()));
    rig.kafka().events.push_back(Event::Assigned(vec![A]));
    rig.step().unwrap();
    rig.kafka().events.push_back(Event::Revoked(vec![A]));
    rig.step().unwrap();
    assert_eq!((rig.count("stop_restore 0"), rig.count("give_back shard-0")), (1, 1));
    rig.kafka().heal();
    rig.later();
    assert_eq!(rig.outputs(), ["D1"]);
}

#[test]
fn a_failed_consumer_starts_again_from_what_is_committed() {
    let mut rig = Rig::with_source();
    rig.repartitioned(&[("A", "count"); 8]);
    rig.produce(&[("D", "count"); 3]);
    rig.step().unwrap();
    rig.kafka().events.push_back(Event::Failed("by a test".into()));
    rig.run();
    let mut outputs = rig.outputs();
    outputs.sort();
    assert_eq!(outputs, ["A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "D1", "D2", "D3"]);
    assert_eq!(rig.count("leave"), 1);
}

#[test]
fn a_consumer_that_cannot_start_is_retried() {
    let mut rig = Rig::ready();
    rig.repartitioned(&[("A", "count")]);
    rig.kafka().fail("join", 3, Effect::None, Fault::Fatal("no".into()));
    rig.kafka().events.push_back(Event::Failed("by a test".into()));
    rig.run();
    assert_eq!((rig.count("leave"), rig.count("join")), (1, 4));
    assert_eq!(rig.outputs(), ["A1"]);
}

#[test]
fn a_record_of_a_partition_that_is_not_being_read_restarts_the_worker() {
    let mut rig = Rig::with(config(), 0, &[D]);
    rig.run();
    rig.kafka().events.push_back(Event::Record(Consumed {
        partition: SOURCE,
        offset: 0.into(),
        record: Record::default(),
    }));
    rig.run();
    assert_eq!(rig.count("leave"), 1);
}

#[test]
fn a_member_stops_when_another_one_has_its_identity() {
    let mut rig = Rig::ready();
    rig.kafka().events.push_back(Event::Fenced("twin".into()));
    assert_eq!(rig.try_run(), Err(FatalError::Fenced("twin".into())));
}

#[test]
fn a_worker_without_room_for_records_learns_that_it_lost_its_partitions() {
    let mut rig = Rig::with_source();
    rig.repartitioned(&[("A", "count"); 20]);
    rig.step().unwrap();
    rig.kafka().live = false;
    rig.step().unwrap();
    rig.kafka().events.push_back(Event::Lost(vec![A, D]));
    rig.run();
    assert_eq!((rig.count("stop source-0"), rig.count("give_back shard-0 shard-1")), (1, 1));
    rig.kafka().live = true;
    rig.kafka().events.push_back(Event::Assigned(vec![A, D]));
    rig.later();
    let expected: Vec<_> = (1..=20).map(|n| format!("A{n}")).collect();
    assert_eq!(rig.outputs(), expected);
}

#[test]
fn a_worker_without_room_that_cannot_commit_still_takes_part_in_a_rebalance() {
    let mut rig = Rig::with_source();
    rig.repartitioned(&[("A", "count"); 20]);
    rig.produce(&[("D", "count"); 2]);
    // There is a new generation: offsets are not accepted until the revocation is answered.
    rig.kafka().fail("send_offsets", usize::MAX, Effect::None, Fault::Abortable("ILLEGAL_GENERATION".into()));
    for _ in 0..5 {
        rig.step().unwrap();
    }
    let read = rig.kafka().position(SHARD_A);
    rig.kafka().events.push_back(Event::Revoked(vec![D]));
    for _ in 0..5 {
        rig.step().unwrap();
    }
    assert_eq!((rig.count("give_back shard-1"), rig.count("leave")), (1, 0));
    assert!(rig.kafka().position(SHARD_A) <= read + 2, "no more records are taken in meanwhile");
    rig.kafka().heal();
    rig.run();
    let expected: Vec<_> = (1..=20).map(|n| format!("A{n}")).collect();
    assert_eq!(rig.outputs(), expected);
}

/// The source partitions that a worker reads, in the order in which it started them.
fn started_sources(rig: &Rig) -> Vec<String> {
    let starts = rig.calls().into_iter().filter_map(|call| call.strip_prefix("start ").map(str::to_owned));
    starts.filter(|name| name.starts_with("source")).collect()
}

#[test]
fn a_worker_reads_the_source_partitions_that_are_anchored_to_its_shards() {
    let mut rig = Rig::with(config(), 5, &[A]);
    rig.run();
    assert_eq!(started_sources(&rig), ["source-0", "source-2", "source-4"]);
    rig.kafka().events.push_back(Event::Assigned(vec![D]));
    rig.later();
    assert_eq!(started_sources(&rig)[3..], ["source-1", "source-3"]);
    rig.kafka().calls.clear();
    rig.kafka().events.push_back(Event::Revoked(vec![A]));
    rig.run();
    let calls = rig.calls();
    assert_eq!(
        calls[..2],
        ["stop source-0 source-2 source-4", "give_back shard-0"],
        "the next owner reads them after that"
    );
}

#[test]
fn source_records_of_a_lost_shard_are_dropped_and_read_again_by_its_next_owner() {
    let mut rig = Rig::with_source();
    rig.produce(&[("D", "count"); 8]);
    rig.step().unwrap();
    rig.kafka().events.push_back(Event::Lost(vec![A]));
    rig.run();
    assert_eq!((rig.outputs().len(), rig.committed(SOURCE)), (4, Some(4)), "one transaction of four");
    rig.repartitioned(&[("D", "count")]);
    rig.run();
    assert_eq!(rig.outputs()[4..], ["D5"], "on the committed state");
    rig.kafka().events.push_back(Event::Assigned(vec![A]));
    rig.later();
    assert_eq!(rig.outputs()[5..], ["D6", "D7", "D8", "D9"]);
    assert_eq!(rig.committed(SOURCE), Some(8));
}

#[test]
fn an_added_source_partition_is_read_from_its_start() {
    let config = WorkerConfig { start_from: StartFrom::Latest, ..config() };
    let mut rig = Rig::with_source_and(config);
    let added = Partition::Source { topic: 0, index: 2.into() };
    rig.kafka().logs.insert(added, vec![message("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), Vec::<String>::new(), "nobody knows of it yet");
    rig.kafka().partition_counts[0] = 3;
    rig.run();
    assert_eq!((rig.outputs(), rig.committed(added)), (vec!["A1".into()], Some(1)));
}

#[test]
fn the_offset_of_an_idle_source_is_committed_again() {
    let renewal = Duration::from_mins(10);
    let mut rig = Rig::with_source_and(WorkerConfig { offset_renewal: renewal, ..config() });
    rig.produce(&[("A", "count")]);
    rig.run();
    rig.kafka().calls.clear();
    rig.kafka().now += renewal / 2;
    rig.run();
    assert_eq!(rig.count("begin"), 0);
    rig.kafka().now += renewal / 2;
    rig.run();
    assert_eq!(rig.calls(), ["begin", "flush", "send_offsets source-0@1", "commit"]);
    rig.kafka().now += renewal;
    rig.run();
    assert_eq!(rig.count("commit"), 2, "again and again");
}

#[test]
fn the_offset_of_a_source_is_committed_again_when_it_is_taken_over() {
    let mut rig = Rig::with(config(), 1, &[A]);
    rig.kafka().committed.insert(SOURCE, 0.into());
    rig.run();
    assert_eq!(rig.count("send_offsets source-0@0"), 1);
}

#[test]
fn a_refused_offset_of_an_idle_source_does_not_hold_up_others() {
    let mut rig = Rig::with(config(), 1, &[A]);
    rig.repartitioned(&[("A", "count")]);
    rig.kafka().fail("send_offsets", 1, Effect::None, Fault::Abortable("TOPIC_AUTHORIZATION_FAILED".into()));
    rig.run();
    assert_eq!((rig.outputs(), rig.committed(SOURCE)), (vec!["A1".into()], None), "it goes on without that offset");
    rig.kafka().now += Duration::from_secs(10);
    rig.run();
    assert_eq!(rig.committed(SOURCE), Some(0), "and sends it again later");
}

#[test]
fn a_topic_whose_offsets_are_refused_while_its_records_are_in_memory_holds_up_no_other_topic() {
    let other = Partition::Source { topic: 1, index: 0.into() };
    for code in [3, 29] {
        let mut rig = Rig::with(config(), 1, &[A, D]);
        rig.reroute(Routing::fixed(Arc::new(consuming(&["IN", "MORE"]))));
        rig.kafka().partition_counts.push(1);
        rig.run();
        // The topic is deleted, or may not be read any more, when one of its records is read.
        let why = Cause::new("for a test", Some(KafkaErrorCode::new(code)));
        rig.kafka().refuses_offsets = Some((other, Fault::Abortable(why)));
        rig.kafka().silent.push(other);
        rig.kafka().logs.insert(other, vec![message("D", "say lost")]);
        rig.produce(&[("A", "count"), ("D", "count")]);
        rig.repartitioned(&[("A", "count")]);
        rig.run();
        rig.later();
        assert_eq!((rig.count("leave"), rig.outputs().len()), (1, 3), "{code}: {:?}", rig.outputs());
        assert_eq!((rig.committed(SOURCE), rig.committed(other)), (Some(2), Some(0)), "{code}");
        rig.produce(&[("A", "count")]);
        rig.run();
        assert_eq!((rig.count("leave"), rig.outputs().len()), (1, 4), "{code}");
        // The topic is there again.
        rig.kafka().refuses_offsets = None;
        rig.kafka().silent.clear();
        rig.later();
        assert_eq!((rig.outputs()[4..].to_vec(), rig.committed(other)), (vec!["lost".into()], Some(1)), "{code}");
    }
}

#[test]
fn a_refused_offset_of_an_idle_topic_starts_nothing_again() {
    let renewal = Duration::from_mins(10);
    let mut rig = Rig::with_source_and(WorkerConfig { offset_renewal: renewal, ..config() });
    let why = Cause::new("for a test", Some(KafkaErrorCode::new(3)));
    rig.kafka().refuses_offsets = Some((SOURCE, Fault::Abortable(why)));
    rig.kafka().now += renewal;
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    rig.kafka().now += Duration::from_secs(10);
    rig.run();
    assert_eq!((rig.count("leave"), rig.outputs()), (0, vec!["A1".into()]));
}

#[test]
fn a_topic_whose_offsets_are_refused_after_some_seconds_holds_up_no_other_topic() {
    let other = Partition::Source { topic: 1, index: 0.into() };
    let renewal = Duration::from_mins(10);
    for seconds in [1, 3, 4, 6] {
        let mut rig = Rig::with(WorkerConfig { offset_renewal: renewal, ..config() }, 1, &[A, D]);
        rig.reroute(Routing::fixed(Arc::new(consuming(&["IN", "MORE"]))));
        rig.kafka().partition_counts.push(1);
        rig.run();
        let why = Cause::new("for a test", Some(KafkaErrorCode::new(3)));
        rig.kafka().refuses_offsets = Some((other, Fault::Abortable(why)));
        rig.kafka().refusal_takes = Duration::from_secs(seconds);
        rig.kafka().silent.push(other);
        rig.kafka().logs.insert(other, vec![message("D", "say lost")]);
        // The offset of an idle source is due too.
        rig.kafka().now += renewal;
        for _ in 0..3 {
            rig.run();
        }
        rig.repartitioned(&[("A", "count")]);
        rig.later();
        assert_eq!((rig.count("leave"), rig.outputs()), (1, vec!["A1".into()]), "{seconds} s");
    }
}
