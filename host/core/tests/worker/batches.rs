//! What a transaction contains, in which order, and when it ends.

use std::time::Duration;

use switchboard_core::record::Timestamp;
use switchboard_core::worker::{BatchLimits, WorkerConfig};

use super::rig::{Rig, SHARD_A, SHARD_D, SOURCE, config, message, pairs};

fn limited(batch: BatchLimits) -> WorkerConfig {
    WorkerConfig { batch, ..config() }
}

/// The offsets of each committed transaction, as they were sent.
fn offsets(rig: &Rig) -> Vec<String> {
    let sent =
        rig.calls().into_iter().filter_map(|call| call.strip_prefix("send_offsets").map(str::trim).map(Into::into));
    sent.collect()
}

#[test]
fn outputs_changelog_dead_letters_and_offsets_are_one_transaction_in_this_order() {
    let mut rig = Rig::ready();
    rig.repartitioned(&[("A", "count"), ("A", "reject"), ("D", "count")]);
    rig.run();
    let expected = [
        "begin",
        "send OUT",
        "send dead-letters",
        "send OUT",
        // Each tenant's last run, then its count.
        "send changelog 0",
        "send changelog 0",
        "send changelog 1",
        "send changelog 1",
        "flush",
        "send_offsets shard-0@2 shard-1@1",
        "commit",
    ];
    assert_eq!(rig.calls(), expected);
    assert_eq!(rig.outputs(), ["A1", "D1"]);
    assert_eq!(rig.dead_letters(), pairs(&[("invalid", "reject")]));
}

#[test]
fn only_the_last_change_of_a_key_goes_to_the_changelog() {
    let mut rig = Rig::ready();
    rig.repartitioned(&[("A", "count"), ("A", "count"), ("A", "count")]);
    rig.run();
    let counts: Vec<_> = rig.kafka().changelogs[&0.into()].iter().filter(|(key, _)| key == b"A\0n").cloned().collect();
    assert_eq!(counts, [(b"A\0n".to_vec(), Some(b"3".to_vec()))]);
}

#[test]
fn a_source_record_is_processed_from_its_tenants_shard() {
    let mut rig = Rig::ready();
    rig.produce(&[("A", "count"), ("D", "count"), ("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "A2", "D1"], "in the order of each tenant");
    let committed = [SOURCE, SHARD_A, SHARD_D].map(|partition| rig.committed(partition));
    assert_eq!(committed, [Some(3), Some(2), Some(1)]);
}

#[test]
fn repartitioning_and_processing_never_share_a_transaction() {
    let mut rig = Rig::ready();
    rig.repartitioned(&[("A", "count"); 10]);
    rig.produce(&[("D", "count"); 10]);
    rig.run();
    verbs(&rig);
    assert_eq!(rig.outputs().len(), 20);
}

/// The verb of each transaction.
fn verbs(rig: &Rig) -> Vec<&'static str> {
    let verb = |calls: &Vec<String>| {
        let repartitions = calls.iter().any(|call| call.starts_with("send shard"));
        let processes = calls.iter().any(|call| call.starts_with("send OUT"));
        assert!(repartitions != processes, "{calls:?}");
        if repartitions { "repartition" } else { "process" }
    };
    rig.committed_transactions().iter().map(verb).collect()
}

#[test]
fn the_oldest_record_goes_first() {
    for (source, first) in [(6, "repartition"), (8, "process")] {
        let mut rig = Rig::ready();
        rig.repartitioned(&[("A", "count"); 2]);
        rig.produce(&[("D", "count"); 2]);
        for record in rig.kafka().logs.get_mut(&SOURCE).unwrap() {
            record.timestamp = Some(Timestamp::from_millis(source));
        }
        rig.run();
        assert_eq!(verbs(&rig)[0], first);
        assert_eq!(rig.outputs().len(), 4);
    }
}

#[test]
fn records_with_ever_older_timestamps_do_not_starve_others() {
    // Each transaction has one record.
    let mut rig = Rig::ready_with(limited(BatchLimits { records: 20, time: Duration::ZERO, ..config().batch }));
    rig.repartitioned(&[("A", "count"); 10]);
    rig.produce(&[("D", "count"); 2]);
    for record in rig.kafka().logs.get_mut(&SOURCE).unwrap() {
        record.timestamp = Some(Timestamp::from_millis(8));
    }
    rig.run();
    let verbs = verbs(&rig);
    assert_eq!(verbs[..6], ["process", "process", "process", "process", "repartition", "process"], "{verbs:?}");
}

#[test]
fn a_batch_ends_at_its_number_of_records() {
    let mut rig = Rig::ready();
    rig.repartitioned(&[("A", "count"); 9]);
    rig.run();
    assert_eq!(offsets(&rig), ["shard-0@4", "shard-0@8", "shard-0@9"]);
}

#[test]
fn a_batch_ends_with_the_record_that_reaches_the_byte_limit() {
    let long = format!("say {}", "x".repeat(1000));
    let (long, bytes) = (long.as_str(), message("A", &long).bytes());
    let mut rig = Rig::ready_with(limited(BatchLimits { records: 100, bytes: 2 * bytes, ..config().batch }));
    rig.repartitioned(&[("A", long); 5]);
    rig.run();
    assert_eq!(offsets(&rig), ["shard-0@2", "shard-0@4", "shard-0@5"]);
}

#[test]
fn a_batch_ends_after_its_time() {
    let mut rig = Rig::ready_with(limited(BatchLimits { time: Duration::from_millis(100), ..config().batch }));
    rig.repartitioned(&[("A", "slow"); 3]);
    rig.run();
    assert_eq!(offsets(&rig), ["shard-0@2", "shard-0@3"], "60 ms each");
}

#[test]
fn a_lone_record_does_not_wait_for_more() {
    let mut rig = Rig::ready();
    rig.repartitioned(&[("A", "count")]);
    let before = rig.kafka().now;
    rig.step().unwrap();
    assert_eq!((rig.committed(SHARD_A), rig.kafka().now), (Some(1), before));
}

#[test]
fn the_number_of_waiting_records_is_bounded() {
    let mut rig = Rig::ready();
    rig.produce(&[("A", "count"); 100]);
    rig.step().unwrap();
    assert_eq!(rig.kafka().position(SOURCE), 8, "two batches of four");
}
