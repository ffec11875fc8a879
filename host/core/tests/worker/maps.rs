//! Offsets whose metadata lists what is settled beyond them.

use std::time::Duration;

use switchboard_core::record::Offset;
use switchboard_core::worker::{BatchLimits, Event, Fault, WorkerConfig};

use super::fake_broker::Effect;
use super::rig::{A, Rig, SHARD_A, SHARD_D, SOURCE, config};

/// Twenty records, of which those of `B` are settled and the first three, of `A`, are not.
fn a_is_slow() -> Rig {
    let mut rig = Rig::ready();
    rig.held().hold("A");
    rig.repartitioned(&[("A", "count"); 3]);
    rig.repartitioned(&[("B", "count"); 17]);
    rig.run();
    assert_eq!(
        (rig.outputs().len(), rig.committed_with_map(SHARD_A)),
        (17, "0,n=17,runs=AgMR".into()),
        "2 runs, of 3 and 17"
    );
    rig
}

/// Another owner has the shard for a while, or this worker is started again. Then it is ours.
fn next_owner(rig: &mut Rig) {
    rig.kafka().events.push_back(Event::Revoked(vec![A]));
    rig.run();
    rig.held().hold_no_more("A");
    rig.ran();
    rig.kafka().events.push_back(Event::Assigned(vec![A]));
    rig.later();
}

#[test]
fn the_next_owner_skips_what_is_settled_beyond_the_offset() {
    let mut rig = a_is_slow();
    next_owner(&mut rig);
    assert_eq!(rig.ran(), ["A count"; 3]);
    assert_eq!((rig.outputs().len(), rig.committed_with_map(SHARD_A)), (20, "20,n=0".into()));
    rig.held().finish("A");
    rig.repartitioned(&[("A", "count"), ("B", "count")]);
    rig.run();
    assert_eq!(rig.outputs()[20..], ["A4", "B18"]);
}

#[test]
fn a_map_is_kept_by_a_next_owner_that_settles_nothing_of_it() {
    let mut rig = a_is_slow();
    let committed = rig.committed_with_map(SHARD_A);
    rig.kafka().events.push_back(Event::Revoked(vec![A]));
    rig.run();
    // A's records are slow here too. Only B's next one is settled.
    rig.repartitioned(&[("B", "count")]);
    rig.kafka().events.push_back(Event::Assigned(vec![A]));
    rig.later();
    assert_eq!(
        (committed.as_str(), rig.committed_with_map(SHARD_A).as_str()),
        ("0,n=17,runs=AgMR", "0,n=18,runs=AgMS")
    );
    next_owner(&mut rig);
    assert_eq!(rig.ran(), ["A count"; 3]);
}

#[test]
fn what_an_aborted_transaction_settled_is_not_in_the_map() {
    let mut rig = Rig::ready();
    rig.held().hold("A");
    rig.repartitioned(&[("A", "count"), ("B", "count"), ("A", "count"), ("B", "count")]);
    rig.kafka().fail("commit", 1, Effect::None, Fault::Abortable("for a test".into()));
    rig.run();
    let is_offset = |call: &String| call.starts_with("send_offsets");
    let sent: Vec<_> = rig.calls().into_iter().filter(is_offset).collect();
    // Offsets 0 and 2 are not settled, 1 and 3 are: the bits 0101.
    assert_eq!(sent, ["send_offsets shard-0@0,n=2,bits=Cg==", "send_offsets shard-0@0,n=2,bits=Cg=="]);
    // The worker loses the shard after another failure: those records are not settled.
    rig.repartitioned(&[("B", "count")]);
    rig.kafka().fail("commit", 1, Effect::None, Fault::Abortable("for a test".into()));
    rig.step().unwrap();
    rig.kafka().events.push_back(Event::Lost(vec![A]));
    rig.run();
    assert_eq!(rig.committed_with_map(SHARD_A), "0,n=2,bits=Cg==");
    rig.held().hold_no_more("A");
    rig.kafka().events.push_back(Event::Assigned(vec![A]));
    rig.later();
    assert_eq!(rig.outputs(), ["B1", "B2", "A1", "A2", "B3"]);
}

#[test]
fn an_offset_without_metadata_is_read_on_from_and_later_records_are_handled_again() {
    let mut rig = a_is_slow();
    rig.kafka().events.push_back(Event::Revoked(vec![A]));
    rig.run();
    // An operator's tool sets the same offset.
    rig.kafka().metadata.remove(&SHARD_A);
    next_owner(&mut rig);
    assert_eq!((rig.ran().len(), rig.committed_with_map(SHARD_A)), (20, "20,n=0".into()));
}

#[test]
fn metadata_that_cannot_be_read_halts_its_partition_and_others_go_on() {
    let renewal = Duration::from_mins(10);
    for metadata in
        ["a note", "v=2,n=17,runs=AgMR", "v=1", "v=1,n=17,runs=AgM=", "v=1,n=18,runs=AgMR", "v=1,n=0,topic=x"]
    {
        let mut rig = Rig::with(WorkerConfig { offset_renewal: renewal, ..config() }, 1, &[A, super::rig::D]);
        for partition in [SHARD_A, SOURCE] {
            rig.kafka().committed.insert(partition, Offset::ZERO);
            rig.kafka().metadata.insert(partition, metadata.into());
        }
        rig.repartitioned(&[("A", "count"), ("D", "count")]);
        rig.produce(&[("D", "count")]);
        rig.run();
        rig.repartitioned(&[("A", "count"), ("D", "count")]);
        rig.later();
        assert_eq!(rig.outputs(), ["D1", "D2"], "{metadata}");
        assert_eq!((rig.count("resume shard-0"), rig.count("leave")), (0, 0), "{metadata}");
        // The source's offset is renewed as it is, so it does not expire, and the next owner halts too.
        rig.kafka().calls.clear();
        rig.kafka().now += renewal;
        rig.run();
        let renewed = rig.calls().iter().filter(|call| call.starts_with("send_offsets source-0@0")).count();
        assert_eq!((renewed, rig.kafka().metadata[&SOURCE].as_str()), (1, metadata));
        // An operator sets both offsets, and the worker is started again.
        rig.kafka().metadata.clear();
        rig.kafka().committed.insert(SHARD_A, 1.into());
        rig.kafka().events.push_back(Event::Failed("by a test".into()));
        rig.run();
        rig.later();
        let mut outputs = rig.outputs();
        outputs.sort();
        assert_eq!(outputs, ["A1", "D1", "D2", "D3"], "{metadata}");
    }
}

#[test]
fn a_map_that_ends_beyond_the_logs_end_waits_for_the_end() {
    let mut rig = Rig::with(config(), 0, &[A]);
    rig.kafka().committed.insert(SHARD_A, Offset::ZERO);
    rig.kafka().metadata.insert(SHARD_A, "v=1,n=1,bits=Ag==".into());
    rig.repartitioned(&[("A", "say first")]);
    rig.run();
    assert_eq!(rig.outputs(), Vec::<String>::new(), "a leader that does not know the second record yet");
    rig.repartitioned(&[("A", "say second"), ("A", "say third")]);
    rig.later();
    assert_eq!(rig.outputs(), ["first", "third"]);
}

/// The first 400 records are not settled, so there is room up to this offset.
const FULL: i64 = 24_000;

fn without_room() -> Rig {
    let mut rig = Rig::ready_with(WorkerConfig { batch: BatchLimits { records: 1000, ..config().batch }, ..config() });
    rig.held().hold("A");
    rig.repartitioned(&[("A", "say a"); 400]);
    rig.repartitioned(&[("B", "say b")].repeat(24_000));
    rig.run();
    assert_eq!(
        (rig.count("pause shard-0"), rig.count("seek shard-0@24000"), rig.kafka().position(SHARD_A)),
        (1, 1, FULL)
    );
    assert_eq!((rig.outputs().len(), rig.committed(SHARD_A)), (23_600, Some(0)));
    rig
}

#[test]
fn a_partition_whose_map_has_no_room_is_paused_and_resumed_and_others_go_on() {
    let mut rig = without_room();
    rig.repartitioned(&[("D", "count")]);
    rig.run();
    assert_eq!((rig.outputs().len(), rig.committed(SHARD_D)), (23_601, Some(1)));
    assert_eq!((rig.count("resume shard-0"), rig.kafka().position(SHARD_A)), (0, FULL));
    rig.held().finish("A");
    rig.run();
    assert_eq!((rig.outputs().len(), rig.committed_with_map(SHARD_A)), (24_401, "24400,n=0".into()));
    assert_eq!((rig.count("pause shard-0"), rig.count("resume shard-0")), (1, 1));
}

#[test]
fn a_partition_without_room_goes_on_only_when_there_is_much_room() {
    let mut rig = Rig::ready_with(WorkerConfig { batch: BatchLimits { records: 1000, ..config().batch }, ..config() });
    rig.held().hold("A");
    rig.held().most_messages = Some(50);
    rig.repartitioned(&[("A", "say a"); 400]);
    rig.run();
    rig.held().most_messages = None;
    rig.repartitioned(&[("B", "say b")].repeat(23_800));
    rig.run();
    assert_eq!((rig.count("pause shard-0"), rig.kafka().position(SHARD_A)), (1, FULL));
    // Fifty are settled at a time. A few free places would be taken at once, and there would be none again.
    rig.held().most_messages = Some(50);
    for settled in [50, 100, 150, 200] {
        rig.held().finish("A");
        rig.held().hold("A");
        rig.run();
        assert_eq!((rig.committed(SHARD_A), rig.count("resume shard-0")), (Some(settled), 0));
    }
    rig.held().finish("A");
    rig.held().hold("A");
    rig.run();
    assert_eq!((rig.committed(SHARD_A), rig.count("pause shard-0"), rig.count("resume shard-0")), (Some(250), 1, 1));
    assert_eq!(rig.kafka().position(SHARD_A), 24_200);
}

#[test]
fn the_next_owner_of_a_partition_without_room_reads_it_again() {
    let mut rig = without_room();
    next_owner(&mut rig);
    rig.run();
    assert_eq!(rig.ran().len(), 800, "A's 400 records, and 400 of B that nobody had read");
    assert_eq!((rig.outputs().len(), rig.committed_with_map(SHARD_A)), (24_400, "24400,n=0".into()));
}
