//! How assigned partitions are taken over: in one order, and only on certain answers.

use std::sync::Arc;
use std::time::Duration;

use switchboard_core::record::{Offset, ShardId};
use switchboard_core::routing::Routing;
use switchboard_core::worker::{Event, Fault, Partition, StartFrom, WorkerConfig};

use super::fake_broker::{Effect, Entry};
use super::fake_plugins::consuming;
use super::rig::{A, D, Rig, SHARD_A, SOURCE, config, message};

/// A changelog record with the tenant's count.
fn counted(tenant: &str, count: &str) -> Entry {
    (format!("{tenant}\0n").into_bytes(), Some(count.into()))
}

/// The logs of both shards have a record that is not processed yet.
fn waiting(source_partitions: u32, assigned: &[ShardId]) -> Rig {
    let rig = Rig::with(config(), source_partitions, assigned);
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    rig
}

#[test]
fn a_shard_is_taken_over_in_this_order_and_then_processed() {
    let mut rig = waiting(0, &[A]);
    rig.kafka().changelogs.insert(0.into(), vec![counted("A", "5"), counted("A", "6")]);
    rig.kafka().committed.insert(SHARD_A, 0.into());
    rig.run();
    let mut calls = rig.calls();
    calls.retain(|call| call != "accept_assignment");
    let expected = [
        "consume IN",
        "join",
        "renew",
        "stable_offsets shard-0",
        "log_bounds shard-0",
        "start shard-0",
        "changelog_end 0",
        "changelog_stable_bounds 0",
        "start_restore 0",
        "restored 0",
        "restored 0",
        "stop_restore 0",
        "resume shard-0",
        "begin",
    ];
    assert_eq!(calls[..expected.len()], expected);
    assert_eq!(rig.outputs(), ["A7"]);
}

#[test]
fn a_shard_waits_for_a_predecessors_open_transaction_in_its_changelog_and_others_go_on() {
    let mut rig = waiting(0, &[A, D]);
    rig.kafka().committed.insert(SHARD_A, 0.into());
    rig.kafka().unstable.insert(0.into(), 1);
    rig.run();
    assert_eq!(rig.outputs(), ["D1"]);
    assert_eq!(rig.count("start_restore 0"), 0);
    rig.kafka().changelogs.insert(0.into(), vec![counted("A", "7")]);
    rig.kafka().unstable.clear();
    rig.later();
    assert_eq!(rig.outputs(), ["D1", "A8"]);
}

#[test]
fn the_open_transaction_of_a_dead_predecessor_with_the_same_id_is_ended_first() {
    let mut rig = waiting(0, &[A]);
    rig.kafka().leave_open(&[(SHARD_A, 1.into())]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1"], "its open transaction is aborted, so its record is read again");
}

#[test]
fn a_take_over_waits_for_an_answer_and_other_shards_go_on() {
    for call in ["stable_offsets", "log_bounds", "changelog_end", "changelog_stable_bounds", "poll_restore"] {
        let mut rig = waiting(0, &[D]);
        rig.run();
        rig.kafka().fail(call, usize::MAX, Effect::None, Fault::Retriable("not now".into()));
        rig.kafka().events.push_back(Event::Assigned(vec![A]));
        rig.run();
        rig.repartitioned(&[("D", "count")]);
        rig.later();
        assert_eq!(rig.outputs(), ["D1", "D2"], "{call}");
        rig.kafka().heal();
        rig.later();
        assert_eq!(rig.outputs(), ["D1", "D2", "A1"], "{call}");
        assert_eq!(rig.count("leave"), 0, "{call}");
    }
}

#[test]
fn an_offset_below_the_logs_start_halts_its_partition_and_skips_nothing() {
    for (halted, expected) in [(SHARD_A, ["D1", "D2"]), (SOURCE, ["A1", "D1"])] {
        let mut rig = waiting(1, &[A, D]);
        rig.produce(&[("D", "count"); 4]);
        rig.kafka().committed.insert(SOURCE, 3.into());
        rig.kafka().committed.insert(halted, 0.into());
        rig.kafka().log_starts.insert(halted, 1.into());
        rig.run();
        let mut outputs = rig.outputs();
        outputs.sort();
        assert_eq!(outputs, expected, "{halted:?}");
        assert_eq!(rig.committed(halted), Some(0));
        // Later records of the partition are not even fetched.
        rig.produce(&[("D", "count")]);
        rig.repartitioned(&[("A", "count")]);
        rig.later();
        assert_eq!((rig.committed(halted), rig.count("leave")), (Some(0), 0), "{halted:?}");
    }
}

#[test]
fn an_offset_beyond_the_logs_end_waits_for_the_end_and_skips_nothing() {
    let mut rig = waiting(0, &[A, D]);
    rig.kafka().committed.insert(SHARD_A, 2.into());
    rig.run();
    assert_eq!(rig.outputs(), ["D1"], "a leader that does not know the end yet holds up its partition only");
    rig.repartitioned(&[("A", "count"), ("A", "count")]);
    rig.later();
    assert_eq!(rig.outputs(), ["D1", "A1"], "reading starts at the committed offset");
}

#[test]
fn a_shard_with_state_but_without_an_offset_is_halted() {
    let mut rig = waiting(0, &[A, D]);
    rig.kafka().changelogs.insert(0.into(), vec![counted("A", "5")]);
    rig.run();
    assert_eq!(rig.outputs(), ["D1"]);
    assert_eq!((rig.committed(SHARD_A), rig.count("resume shard-0")), (None, 0));
}

#[test]
fn a_shard_with_deleted_records_but_without_an_offset_is_halted() {
    let mut rig = waiting(0, &[A, D]);
    rig.kafka().log_starts.insert(SHARD_A, 1.into());
    rig.run();
    assert_eq!(rig.outputs(), ["D1"]);
    assert_eq!((rig.committed(SHARD_A), rig.count("resume shard-0")), (None, 0));
}

#[test]
fn a_shard_whose_state_is_deleted_needs_no_offset() {
    let mut rig = waiting(0, &[A]);
    rig.kafka().changelogs.insert(0.into(), vec![counted("A", "5"), (b"A\0n".to_vec(), None)]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1"]);
}

#[test]
fn a_source_partition_without_an_offset_starts_where_the_setting_says() {
    for (start_from, expected) in [(StartFrom::Earliest, vec!["D1", "D2", "D3"]), (StartFrom::Latest, vec!["D1"])] {
        let mut rig = Rig::with(WorkerConfig { start_from, ..config() }, 1, &[A, D]);
        rig.produce(&[("D", "count"); 2]);
        rig.step().unwrap();
        rig.produce(&[("D", "count")]);
        rig.run();
        assert_eq!(rig.outputs(), expected, "{start_from:?}");
    }
}

#[test]
fn a_source_partition_that_starts_at_its_end_loses_nothing_to_a_restart_before_its_first_commit() {
    let mut rig = Rig::with(WorkerConfig { start_from: StartFrom::Latest, ..config() }, 1, &[A, D]);
    rig.produce(&[("D", "reject"); 2]);
    rig.run();
    rig.produce(&[("D", "count")]);
    rig.kafka().fail("commit", 1, Effect::None, Fault::Fatal("gone".into()));
    rig.run();
    assert_eq!((rig.count("leave"), rig.outputs()), (1, vec!["D1".into()]));
}

#[test]
fn a_foreign_record_of_the_changelog_is_ignored() {
    let mut rig = waiting(0, &[A]);
    rig.kafka().committed.insert(SHARD_A, 0.into());
    rig.kafka().changelogs.insert(0.into(), vec![counted("A", "5"), (b"no separator".to_vec(), Some(b"9".to_vec()))]);
    rig.run();
    assert_eq!(rig.outputs(), ["A6"]);
}

#[test]
fn a_source_without_an_answer_holds_up_no_shard_and_no_other_topic() {
    let other = Partition::Source { topic: 1, index: 0.into() };
    let mut rig = Rig::with(config(), 1, &[A, D]);
    rig.reroute(Routing::fixed(Arc::new(consuming(&["IN", "MORE"]))));
    rig.kafka().partition_counts.push(1);
    rig.kafka().silent.push(SOURCE);
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    rig.kafka().logs.insert(other, vec![message("A", "count")]);
    rig.produce(&[("D", "count")]);
    for _ in 0..5 {
        rig.run();
        rig.kafka().now += Duration::from_millis(300);
    }
    let mut outputs = rig.outputs();
    outputs.sort();
    assert_eq!(outputs, ["A1", "A2", "D1"]);
    rig.kafka().silent.clear();
    rig.later();
    assert_eq!(rig.outputs().len(), 4);
}

#[test]
fn the_offset_of_a_halted_source_is_committed_again_when_it_is_taken_over() {
    let mut rig = Rig::with(config(), 1, &[A]);
    rig.produce(&[("A", "count"); 3]);
    rig.kafka().committed.insert(SOURCE, Offset::ZERO);
    rig.kafka().log_starts.insert(SOURCE, 2.into());
    // A host that is started again more often than offsets are renewed.
    for starts in 1..=3 {
        rig.run();
        assert_eq!((rig.count("send_offsets source-0@0 \"\""), rig.outputs()), (starts, vec![]));
        rig.kafka().events.push_back(Event::Failed("by a test".into()));
    }
}

#[test]
fn the_offset_of_a_halted_source_is_renewed_and_it_stays_halted() {
    let renewal = Duration::from_mins(10);
    let mut rig = Rig::with(WorkerConfig { offset_renewal: renewal, ..config() }, 1, &[A]);
    rig.produce(&[("A", "count"); 3]);
    rig.kafka().committed.insert(SOURCE, Offset::ZERO);
    rig.kafka().log_starts.insert(SOURCE, 2.into());
    rig.run();
    rig.kafka().calls.clear();
    rig.kafka().now += renewal;
    rig.run();
    assert_eq!((rig.count("send_offsets source-0@0 \"\""), rig.outputs()), (1, vec![]));
}
