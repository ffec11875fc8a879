//! What a transaction contains, in which order, and when it ends.

use std::time::Duration;

use switchboard_core::worker::{BatchLimits, Fault, WorkerConfig};

use super::fake_broker::Effect;
use super::rig::{A, Rig, SHARD_A, SHARD_D, SOURCE, config, message, pairs};

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
        "send changelog 0",
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
fn a_transaction_may_hold_hops_and_results() {
    let mut rig = Rig::with_source_and_half();
    rig.produce(&[("A", "count"), ("D", "count"), ("A", "count")]);
    rig.run();
    let calls = ["send shard 1", "send OUT", "send OUT", "send changelog 0"];
    assert_eq!(rig.committed_transactions()[0][..4], calls);
    assert_eq!(offsets(&rig), ["source-0@3 shard-0@1"]);
}

#[test]
fn a_transaction_ends_at_its_number_of_results() {
    let mut rig = Rig::ready();
    rig.repartitioned(&[("A", "count"); 9]);
    rig.run();
    assert_eq!(offsets(&rig), ["shard-0@4", "shard-0@8", "shard-0@9"]);
    // What a release takes over before a tenant's first message is a result too.
    let mut rig = Rig::with(config(), 0, &[A]);
    rig.repartitioned(&[("A", "count"); 5]);
    rig.run();
    assert_eq!(offsets(&rig), ["shard-0@3", "shard-0@5"]);
}

#[test]
fn a_transaction_ends_with_the_result_that_reaches_the_byte_limit() {
    let long = format!("say {}", "x".repeat(1000));
    let (long, bytes) = (long.as_str(), message("A", &long).bytes());
    let mut rig = Rig::ready_with(limited(BatchLimits { records: 100, bytes: 2 * bytes, ..config().batch }));
    rig.repartitioned(&[("A", long); 5]);
    rig.run();
    assert_eq!(offsets(&rig), ["shard-0@2", "shard-0@4", "shard-0@5"]);
}

/// As many records arrive as a step takes in, some time after the last ones.
fn burst(rig: &mut Rig, after: Duration) {
    rig.kafka().now += after;
    rig.repartitioned(&[("A", "say x"); 256]);
    rig.step().unwrap();
}

#[test]
fn under_load_a_transaction_waits_for_more_results_but_not_for_long() {
    let ms = Duration::from_millis;
    let mut rig = Rig::ready_with(limited(BatchLimits { records: 1000, ..config().batch }));
    for after in [0, 4, 1] {
        assert_eq!(offsets(&rig), Vec::<String>::new(), "not before {after} ms more");
        burst(&mut rig, ms(after));
    }
    assert_eq!(offsets(&rig), ["shard-0@768"]);

    // Commits take long: there are fewer of them, but results wait no longer than the setting says.
    rig.kafka().fail("commit", 1, Effect::None, Fault::Retriable("slow".into()));
    rig.repartitioned(&[("A", "say x")]);
    rig.run();
    for after in [0, 99, 1] {
        assert_eq!(offsets(&rig).len(), 2, "not before {after} ms more");
        burst(&mut rig, ms(after));
    }
    assert_eq!(offsets(&rig)[2..], ["shard-0@1537"]);
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
fn a_result_waits_shortly_for_the_jobs_of_others() {
    let mut rig = Rig::ready();
    rig.held().hold("A");
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    let expected = rig.kafka().now + Duration::from_millis(1);
    rig.step().unwrap();
    assert_eq!(rig.count("begin"), 0);
    rig.step().unwrap();
    assert_eq!((rig.committed(SHARD_D), rig.kafka().now), (Some(1), expected));
}

#[test]
fn the_number_of_waiting_records_is_bounded() {
    let mut rig = Rig::with_source();
    rig.produce(&[("A", "count"); 100]);
    rig.step().unwrap();
    assert_eq!(rig.kafka().position(SOURCE), 8, "two batches of four");
}
