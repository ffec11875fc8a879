//! The direct path: when source records skip the repartition topic, and when they must not.

use std::time::Duration;

use switchboard_core::record::{Barrier, Offset, PartitionIndex};
use switchboard_core::worker::{BatchLimits, Event, Fault, Partition, WorkerConfig};

use super::fake_broker::Effect;
use super::rig::{A, D, Rig, SHARD_A, SHARD_D, SOURCE, config, message};

/// How many records took the hop.
fn hops(rig: &Rig) -> usize {
    let is_hop = |record: &&switchboard_core::record::Record| Barrier::from_record(record).is_none();
    [SHARD_A, SHARD_D]
        .iter()
        .map(|shard| rig.kafka().logs.get(shard).map_or(0, |log| log.iter().filter(is_hop).count()))
        .sum()
}

#[test]
fn records_of_own_shards_skip_the_repartition_topic() {
    let mut rig = Rig::with_source();
    rig.produce(&[("A", "count"), ("D", "count"), ("A", "count")]);
    rig.run();
    assert_eq!((rig.outputs(), hops(&rig)), (["A1", "A2", "D1"].map(String::from).to_vec(), 0));
    let offsets = "send_offsets source-0@3 shard-0@1 shard-1@1";
    assert_eq!(rig.count(offsets), 1, "each shard with results sends its offset: {:?}", rig.calls());
}

#[test]
fn no_record_overtakes_those_that_are_already_in_the_shard() {
    let mut rig = Rig::with(config(), 1, &[A, D]);
    rig.repartitioned(&[("A", "count"); 10]);
    rig.produce(&[("A", "say after"); 10]);
    rig.run();
    let expected: Vec<_> = (1..=10).map(|n| format!("A{n}")).chain((0..10).map(|_| "after".to_owned())).collect();
    assert_eq!((rig.outputs(), hops(&rig)), (expected, 10), "the source was held back until the shard was read");
}

#[test]
fn the_barrier_of_an_earlier_run_opens_nothing() {
    let mut rig = Rig::with(config(), 1, &[A]);
    // Its number is the one that this run will use first.
    let stale = Barrier { incarnation: 77, number: 1 }.to_record();
    rig.kafka().logs.insert(SHARD_A, vec![stale]);
    rig.kafka().fail("begin", usize::MAX, Effect::None, Fault::Abortable("not now".into()));
    for _ in 0..5 {
        rig.step().unwrap();
    }
    rig.produce(&[("A", "count")]);
    rig.kafka().heal();
    rig.run();
    assert_eq!(rig.outputs(), ["A1"]);
    let barriers = rig.kafka().logs[&SHARD_A].iter().filter_map(Barrier::from_record).count();
    assert_eq!(barriers, 2, "it wrote one of its own");
}

#[test]
fn an_attempt_that_takes_too_long_is_given_up_and_its_records_hop() {
    let mut rig = Rig::with(config(), 1, &[A]);
    rig.kafka().fail("begin", usize::MAX, Effect::None, Fault::Abortable("not now".into()));
    for _ in 0..5 {
        rig.step().unwrap();
    }
    rig.produce(&[("A", "count"), ("A", "count")]);
    assert!(rig.count("pause source-0") > 0);
    rig.kafka().now += std::time::Duration::from_secs(3);
    for _ in 0..5 {
        rig.step().unwrap();
    }
    assert!(rig.count("resume source-0") > 0, "{:?}", rig.calls());
    rig.kafka().heal();
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "A2"]);
    assert!(hops(&rig) > 0);
    // A later attempt succeeds.
    rig.kafka().now += std::time::Duration::from_secs(20);
    rig.run();
    let before = hops(&rig);
    rig.produce(&[("A", "count")]);
    rig.run();
    assert_eq!((rig.outputs().len(), hops(&rig)), (3, before));
}

#[test]
fn direct_records_of_a_lost_shard_take_the_hop_in_their_order() {
    let mut rig = Rig::with_source();
    rig.produce(&[("D", "say 1"), ("D", "say 2"), ("D", "say 3"), ("D", "say 4"), ("D", "say 5"), ("D", "say 6")]);
    rig.step().unwrap();
    assert_eq!(rig.outputs().len(), 4, "one transaction of four");
    rig.kafka().events.push_back(Event::Lost(vec![D]));
    rig.run();
    assert_eq!((hops(&rig), rig.committed(SOURCE)), (2, Some(6)));
    // The next owner of the shard finds them there.
    rig.kafka().events.push_back(Event::Assigned(vec![D]));
    rig.later();
    assert_eq!(rig.outputs(), ["1", "2", "3", "4", "5", "6"]);
}

#[test]
fn a_source_that_comes_back_is_not_read_directly_before_its_path_opens_again() {
    let mut rig = Rig::with_source();
    rig.kafka().events.push_back(Event::Revoked(vec![A]));
    rig.run();
    // Meanwhile another owner of the source sent a record of it to the shard.
    rig.repartitioned(&[("D", "say first")]);
    rig.kafka().committed.insert(SOURCE, Offset::ZERO);
    rig.produce(&[("D", "say second")]);
    rig.kafka().events.push_back(Event::Assigned(vec![A]));
    rig.later();
    assert_eq!(rig.outputs(), ["first", "second"]);
}

#[test]
fn no_record_is_to_blame_for_a_refused_barrier() {
    let mut rig = Rig::with(config(), 1, &[A]);
    // The value of a barrier is null.
    rig.kafka().refuses.push(("shard", "null"));
    rig.repartitioned(&[("A", "count")]);
    rig.produce(&[("A", "count")]);
    rig.run();
    rig.later();
    assert_eq!((rig.outputs(), rig.dead_letters()), (vec!["A1".to_owned(), "A2".to_owned()], vec![]));
}

#[test]
fn an_attempt_lasts_as_long_as_records_are_settled() {
    let mut rig = Rig::with(config(), 1, &[A]);
    // Each takes 60 ms, so all of them take longer than an attempt without progress may last.
    rig.repartitioned(&[("A", "slow"); 60]);
    rig.produce(&[("A", "slow"); 10]);
    rig.run();
    rig.run();
    assert_eq!((rig.outputs().len(), rig.committed(SOURCE)), (70, Some(10)));
    assert!(hops(&rig) - 60 < 10, "the path opened: {} hops", hops(&rig) - 60);
}

/// A source partition of A's shard that is added later, so that its paths are closed.
const ADDED: Partition = Partition::Source { topic: 0, index: PartitionIndex::new(2).unwrap() };

fn with_room_for(records: usize) -> WorkerConfig {
    WorkerConfig { batch: BatchLimits { records, ..config().batch }, ..config() }
}

/// The number of barriers in the log of a shard.
fn barriers(rig: &Rig, shard: Partition) -> usize {
    rig.kafka().logs.get(&shard).map_or(0, |log| log.iter().filter_map(Barrier::from_record).count())
}

/// A's shard is held back, because A waits for a lookup and has many messages.
fn with_a_held_shard() -> Rig {
    let mut rig = Rig::with_source_and(with_room_for(1000));
    rig.names().answers.insert("ann".into(), [Ok(Some("Ann"))].into());
    rig.held().hold_fetches("A");
    rig.repartitioned(&[("A", "look ann")]);
    rig.repartitioned(&[("A", "say a")].repeat(1500));
    rig.run();
    rig
}

/// A's shard is full: too many of its records are settled beyond those of A's job.
fn with_a_full_shard() -> Rig {
    let mut rig = Rig::with_source_and(with_room_for(1000));
    rig.held().hold("A");
    rig.repartitioned(&[("A", "say a"); 400]);
    rig.repartitioned(&[("B", "say b")].repeat(24_000));
    rig.run();
    rig
}

#[test]
fn no_source_is_held_back_to_open_a_path_to_a_shard_that_is_not_read_on() {
    for mut rig in [with_a_held_shard(), with_a_full_shard()] {
        let before = barriers(&rig, SHARD_A);
        assert_eq!((rig.count("pause shard-0"), rig.count("resume shard-0")), (1, 0));
        rig.kafka().calls.clear();
        let began = rig.kafka().now;
        rig.kafka().partition_counts[0] = 3;
        rig.run();
        rig.kafka().logs.insert(ADDED, vec![message("D", "say direct")]);
        rig.run();
        assert_eq!(rig.outputs().last().unwrap(), "direct");
        assert!(rig.kafka().now < began + Duration::from_secs(2), "no attempt is waited for");
        for _ in 0..30 {
            rig.later();
        }
        let pauses = rig.calls().iter().filter(|call| call.starts_with("pause")).count();
        assert_eq!((pauses, barriers(&rig, SHARD_A)), (1, before), "one attempt, for the other shard");
        // Its path opens as soon as the shard is read on.
        rig.held().finish("A");
        rig.run();
        rig.later();
        assert_eq!((rig.count("resume shard-0"), barriers(&rig, SHARD_A)), (1, before + 1));
        let hops = hops(&rig);
        rig.kafka().logs.get_mut(&ADDED).unwrap().push(message("A", "say direct too"));
        rig.run();
        assert_eq!((rig.outputs().last().unwrap().as_str(), self::hops(&rig)), ("direct too", hops));
    }
}

#[test]
fn an_attempt_goes_on_without_a_shard_that_is_held_back_meanwhile() {
    let mut rig = Rig::with(with_room_for(1000), 1, &[A, D]);
    rig.names().answers.insert("ann".into(), [Ok(Some("Ann"))].into());
    rig.held().hold_fetches("A");
    rig.repartitioned(&[("A", "look ann")]);
    rig.repartitioned(&[("A", "say a")].repeat(1500));
    rig.produce(&[("D", "say d"), ("A", "say last")]);
    // The attempt begins before the shard is read.
    rig.run();
    assert_eq!((rig.count("pause source-0"), rig.count("pause shard-0"), rig.count("resume source-0")), (1, 1, 1));
    assert!(rig.kafka().now < Duration::from_secs(2), "the source is not held back for the shard");
    assert_eq!(rig.outputs(), ["d"]);
    assert_eq!(rig.kafka().logs[&SHARD_D].len(), 1, "D's record came directly, after the barrier");
    rig.held().finish("A");
    rig.run();
    rig.later();
    assert_eq!(
        (rig.outputs().len(), rig.outputs().last().unwrap().as_str()),
        (1503, "last"),
        "A's record took the hop"
    );
    let before = hops(&rig);
    rig.produce(&[("A", "count")]);
    rig.run();
    assert_eq!((rig.outputs().len(), hops(&rig)), (1504, before), "a later attempt opens the path");
}

#[test]
fn an_attempt_goes_on_without_a_shard_that_is_full_meanwhile() {
    let mut rig = Rig::with_source_and(with_room_for(1000));
    rig.held().hold("A");
    rig.repartitioned(&[("A", "say a"); 400]);
    rig.repartitioned(&[("B", "say b")].repeat(22_000));
    rig.run();
    rig.kafka().calls.clear();
    let began = rig.kafka().now;
    // The attempt begins 3,000 records before the shard's end, and the shard is full before that.
    rig.repartitioned(&[("B", "say b")].repeat(3000));
    rig.kafka().partition_counts[0] = 3;
    rig.run();
    let written = barriers(&rig, SHARD_A);
    assert_eq!((rig.count("pause source-1 source-2"), rig.count("pause shard-0"), written), (1, 1, 2));
    rig.kafka().logs.insert(ADDED, vec![message("D", "say direct")]);
    rig.run();
    assert_eq!(rig.outputs().last().unwrap(), "direct");
    assert!(rig.kafka().now < began + Duration::from_secs(1), "the source is not held back for the shard");
    // The barrier of that attempt is read at last. It opens nothing.
    rig.held().finish("A");
    rig.run();
    assert_eq!((rig.outputs().len(), barriers(&rig, SHARD_A)), (25_401, written + 1), "another attempt opens the path");
}
