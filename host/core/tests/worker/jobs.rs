//! Jobs that take their time: what goes on meanwhile, what happens when they come back, and what when they come back too late.

use std::time::Duration;

use switchboard_core::record::Record;
use switchboard_core::worker::{BatchLimits, Event, Fault, Next, Partition, WorkerConfig};

use super::fake_broker::Effect;
use super::rig::{A, D, Rig, SHARD_A, SHARD_D, SOURCE, config, message, pairs, tenants_of, text};

fn abortable() -> Fault {
    Fault::Abortable("for a test".into())
}

fn steps(rig: &mut Rig, count: usize) {
    for _ in 0..count {
        rig.step().unwrap();
    }
}

#[test]
fn a_job_that_does_not_finish_holds_up_no_other_tenant_and_no_commit() {
    let mut rig = Rig::ready();
    rig.held().hold("A");
    rig.repartitioned(&[("A", "count"), ("A", "count"), ("B", "count"), ("D", "count")]);
    rig.run();
    rig.repartitioned(&[("B", "count"), ("D", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["B1", "D1", "B2", "D2"]);
    assert_eq!((rig.committed(SHARD_A), rig.committed(SHARD_D)), (Some(0), Some(2)));
    rig.held().finish("A");
    rig.run();
    assert_eq!((rig.outputs()[4..].to_vec(), rig.committed(SHARD_A)), (vec!["A1".into(), "A2".into()], Some(4)));
}

#[test]
fn a_tenant_has_one_job_at_a_time() {
    let mut rig = Rig::ready();
    rig.held().hold("A");
    for _ in 0..3 {
        rig.repartitioned(&[("A", "count"), ("D", "count")]);
        rig.run();
    }
    assert_eq!((rig.held().out(), rig.ran().len()), (1, 4), "the other messages wait for the job");
    rig.held().finish("A");
    rig.run();
    assert_eq!(rig.outputs(), ["D1", "D2", "D3", "A1", "A2", "A3"]);
}

#[test]
fn the_messages_that_a_job_leaves_run_in_the_next_one() {
    let mut rig = Rig::ready();
    rig.held().most_messages = Some(1);
    rig.repartitioned(&[("A", "count"), ("A", "reject"), ("A", "count"), ("B", "count")]);
    rig.run();
    let mut outputs = rig.outputs();
    outputs.sort();
    assert_eq!((outputs, rig.committed(SHARD_A)), (["A1", "A2", "B1"].map(String::from).to_vec(), Some(4)));
    assert_eq!(rig.ran()[..2], ["A count", "B count"], "tenants take turns");
}

#[test]
fn a_tenant_that_had_nothing_to_do_is_not_ahead_of_others_for_long() {
    let mut rig = Rig::ready();
    rig.held().most_messages = Some(1);
    rig.repartitioned(&[("A", "slow"), ("A", "slow"), ("A", "slow")]);
    rig.run();
    rig.repartitioned(&[("D", "slow"), ("D", "slow"), ("A", "slow")]);
    rig.run();
    let submitted: Vec<_> =
        rig.held().submitted.iter().map(|(tenant, used)| format!("{tenant} {}", used.as_millis())).collect();
    let expected = ["A 0", "A 60", "A 120", "D 120", "A 180", "D 180"];
    assert_eq!(submitted, expected, "D begins where A's last job began, and A's use still counts");
}

#[test]
fn the_result_of_a_job_whose_shard_was_lost_is_dropped() {
    for event in [Event::Revoked(vec![A]), Event::Lost(vec![A])] {
        let mut rig = Rig::ready();
        rig.held().hold("A");
        rig.repartitioned(&[("A", "count"), ("D", "count")]);
        rig.run();
        rig.kafka().events.push_back(event);
        rig.run();
        rig.held().finish("A");
        rig.repartitioned(&[("D", "count")]);
        rig.run();
        assert_eq!((rig.outputs(), rig.held().out()), (vec!["D1".into(), "D2".into()], 0));
        assert_eq!((rig.committed(SHARD_A), rig.discarded.borrow().clone()), (Some(0), vec!["A".into()]));
    }
}

#[test]
fn the_result_of_a_job_whose_shard_was_lost_and_came_back_is_dropped() {
    for late_first in [true, false] {
        let mut rig = Rig::ready();
        rig.repartitioned(&[("A", "count")]);
        rig.run();
        rig.held().hold("A");
        rig.repartitioned(&[("A", "count"), ("A", "count")]);
        rig.run();
        rig.kafka().events.push_back(Event::Lost(vec![A]));
        rig.run();
        // Another owner handled the first of them.
        rig.kafka().changelogs.get_mut(&A).unwrap().push((b"A\0n".to_vec(), Some(b"50".to_vec())));
        rig.kafka().committed.insert(SHARD_A, 2.into());
        rig.kafka().events.push_back(Event::Assigned(vec![A]));
        rig.held().hold_no_more("A");
        if late_first {
            rig.held().finish("A");
        }
        rig.later();
        assert_eq!(rig.outputs(), ["A1", "A51"]);
        rig.held().finish("A");
        rig.repartitioned(&[("A", "count")]);
        rig.run();
        assert_eq!((rig.outputs(), rig.held().out()), (["A1", "A51", "A52"].map(String::from).to_vec(), 0));
        assert_eq!(rig.committed_with_map(SHARD_A), "4,n=0");
    }
}

#[test]
fn a_job_with_records_of_a_lost_source_is_dropped_and_its_shards_records_run_again() {
    let mut rig = Rig::with_source();
    rig.repartitioned(&[("D", "count")]);
    rig.run();
    assert_eq!(rig.ran(), ["D count"]);
    rig.held().hold("D");
    rig.produce(&[("D", "count")]);
    rig.repartitioned(&[("D", "say x")]);
    rig.run();
    assert_eq!(rig.ran(), ["D count", "D say x"], "one job");
    rig.repartitioned(&[("D", "say y")]);
    rig.run();
    // The source goes with shard A. D's shard stays.
    rig.kafka().events.push_back(Event::Revoked(vec![A]));
    rig.run();
    rig.held().finish("D");
    rig.repartitioned(&[("D", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["D1", "x", "y", "D4"], "without the source's record, on the state before it");
    assert_eq!(rig.committed(SOURCE), Some(0));
    assert_eq!(*rig.discarded.borrow(), ["D"], "its wasm instance has seen the source's record");
    // The next owner of the source handles it.
    rig.kafka().events.push_back(Event::Assigned(vec![A]));
    rig.later();
    assert_eq!((rig.outputs()[4..].to_vec(), rig.committed(SOURCE)), (vec!["D5".into()], Some(1)));
}

#[test]
fn results_after_one_of_a_lost_source_are_dropped_and_run_again_on_the_state_before_it() {
    let mut rig = Rig::with_source();
    // Nothing is committed for now. The first result stays, the source's one and those after it do not.
    rig.kafka().fail("flush", usize::MAX, Effect::None, abortable());
    rig.repartitioned(&[("D", "count")]);
    steps(&mut rig, 1);
    rig.produce(&[("D", "count"), ("B", "count")]);
    steps(&mut rig, 1);
    rig.repartitioned(&[("D", "count"), ("B", "count")]);
    steps(&mut rig, 1);
    // Another one is in a job.
    rig.held().hold("D");
    rig.repartitioned(&[("D", "count")]);
    steps(&mut rig, 1);
    assert_eq!((rig.ran().len(), rig.held().out()), (6, 1));
    rig.kafka().events.push_back(Event::Lost(vec![A]));
    steps(&mut rig, 1);
    rig.kafka().heal();
    rig.run();
    assert_eq!(rig.outputs(), ["D1"], "it is committed while the abandoned job is out");
    rig.held().finish("D");
    rig.run();
    assert_eq!((rig.outputs(), rig.committed(SHARD_D)), (["D1", "D2", "D3"].map(String::from).to_vec(), Some(4)));
    assert_eq!(rig.ran(), ["D count", "D count"], "only what came after the source's record");
    assert_eq!(rig.committed(SOURCE), Some(0));
}

#[test]
fn direct_records_in_a_job_of_a_lost_shard_take_the_hop_in_their_order() {
    for (event, committed) in [(Event::Revoked(vec![D]), 1), (Event::Lost(vec![D]), 0)] {
        let mut rig = Rig::with_source();
        rig.kafka().fail("flush", 1, Effect::None, abortable());
        rig.produce(&[("D", "say 1")]);
        steps(&mut rig, 1);
        rig.held().hold("D");
        rig.produce(&[("D", "say 2"), ("A", "count"), ("D", "say 3")]);
        // The first result waits for a transaction. A job has the next two records, and the last one is in the queue.
        rig.kafka().fail("flush", 1, Effect::None, abortable());
        steps(&mut rig, 1);
        rig.produce(&[("D", "say 4")]);
        rig.kafka().fail("flush", 1, Effect::None, abortable());
        steps(&mut rig, 1);
        assert_eq!(rig.ran(), ["D say 1", "D say 2", "D say 3", "A count"]);
        rig.kafka().events.push_back(event);
        rig.produce(&[("D", "say 5")]);
        rig.run();
        let hops = |rig: &Rig| rig.kafka().logs[&SHARD_D][1..].iter().map(text).collect::<Vec<_>>();
        let expected: Vec<_> = (1 + committed..=5).map(|n| format!("say {n}")).collect();
        assert_eq!((hops(&rig), rig.outputs().len(), rig.committed(SOURCE)), (expected, 1 + committed, Some(6)));
        // The job comes back too late, and then the shard does.
        rig.held().finish("D");
        rig.kafka().events.push_back(Event::Assigned(vec![D]));
        rig.later();
        let mut outputs = rig.outputs();
        outputs.retain(|output| output != "A1");
        assert_eq!(outputs, ["1", "2", "3", "4", "5"]);
    }
}

#[test]
fn a_job_that_finished_before_its_shard_is_revoked_is_committed_first() {
    for fails in [false, true] {
        let mut rig = Rig::ready();
        rig.held().hold("A");
        rig.repartitioned(&[("A", "count"), ("A", "count")]);
        rig.run();
        if fails {
            rig.kafka().fail("commit", 1, Effect::None, abortable());
        }
        rig.held().finish("A");
        rig.kafka().events.push_back(Event::Revoked(vec![A]));
        rig.kafka().calls.clear();
        rig.run();
        let expected = if fails { vec![] } else { vec!["A1".to_owned(), "A2".to_owned()] };
        assert_eq!(rig.outputs(), expected);
        let calls = rig.calls();
        let given_back = calls.iter().position(|call| call == "give_back shard-0").unwrap();
        assert_eq!(calls[given_back - 1], if fails { "abort" } else { "commit" });
        // What is not committed is handled by the next owner.
        rig.kafka().events.push_back(Event::Assigned(vec![A]));
        rig.later();
        assert_eq!(rig.outputs(), ["A1", "A2"]);
    }
}

#[test]
fn only_later_messages_of_its_tenant_run_again_after_a_refused_one() {
    let mut rig = Rig::ready();
    rig.kafka().refuses.push(("OUT", "large"));
    rig.repartitioned(&[("A", "count"), ("A", "say large"), ("B", "count"), ("A", "count"), ("D", "count")]);
    rig.run();
    let mut outputs = rig.outputs();
    outputs.sort();
    assert_eq!(outputs, ["A1", "A2", "B1", "D1"], "the refused message's changes are undone");
    assert_eq!(rig.dead_letters(), pairs(&[("output", "say large")]));
    let mut ran = rig.ran();
    ran.sort();
    assert_eq!(ran, ["A count", "A count", "A count", "A say large", "B count", "D count"]);
    assert_eq!((rig.committed_with_map(SHARD_A), rig.discarded.borrow().len()), ("4,n=0".into(), 1));
}

#[test]
fn a_job_that_ran_on_the_result_of_a_refused_message_runs_again() {
    let mut rig = Rig::ready();
    rig.kafka().refuses.push(("OUT", "large"));
    rig.repartitioned(&[("A", "say large"), ("B", "count")]);
    steps(&mut rig, 1);
    rig.held().hold("A");
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    assert_eq!((rig.outputs(), rig.held().out()), (vec!["B1".into()], 1), "others go on");
    assert_eq!(rig.dead_letters(), pairs(&[("output", "say large")]));
    rig.held().finish("A");
    rig.run();
    assert_eq!(rig.outputs(), ["B1", "A1"]);
    assert_eq!(rig.ran(), ["A say large", "B count", "A count", "A count"]);
}

#[test]
fn a_takeover_that_the_broker_refuses_makes_its_message_a_dead_letter() {
    let mut rig = Rig::with(config(), 0, &[A, D]);
    rig.kafka().refuses.push(("changelog 0", ""));
    rig.repartitioned(&[("A", "count"), ("D", "count"), ("A", "count")]);
    rig.run();
    assert_eq!((rig.outputs(), rig.committed(SHARD_A)), (vec!["D1".into()], Some(2)));
    assert_eq!(rig.dead_letters(), pairs(&[("output", "count"), ("output", "count")]));
}

#[test]
fn a_commit_while_the_state_is_in_a_job_holds_for_that_state() {
    let mut rig = Rig::with_source();
    rig.kafka().fail("flush", 1, Effect::None, abortable());
    rig.repartitioned(&[("D", "count")]);
    steps(&mut rig, 1);
    // The next message runs on the result of the first one, which is committed meanwhile.
    rig.held().hold("D");
    rig.produce(&[("D", "count")]);
    rig.run();
    assert_eq!((rig.outputs(), rig.held().out()), (vec!["D1".into()], 1));
    // It came from a source that is lost: the state goes back to what is committed, not further.
    rig.kafka().events.push_back(Event::Lost(vec![A]));
    rig.run();
    rig.held().finish("D");
    rig.repartitioned(&[("D", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["D1", "D2"]);
}

#[test]
fn results_that_cannot_be_committed_bound_what_is_handed_over() {
    let batch = BatchLimits { records: 100, bytes: 2000, ..config().batch };
    let mut rig = Rig::ready_with(WorkerConfig { batch, ..config() });
    rig.kafka().fail("flush", usize::MAX, Effect::None, abortable());
    for _ in 0..6 {
        rig.repartitioned(&[("A", "big")]);
        steps(&mut rig, 1);
    }
    assert!((2..=4).contains(&rig.ran().len()), "twice the bytes of a transaction");
    rig.kafka().heal();
    rig.run();
    assert_eq!(rig.outputs().len(), 6);
}

#[test]
fn a_worker_without_room_looks_for_finished_jobs_and_then_goes_on() {
    let mut rig = Rig::ready();
    rig.held().hold("A");
    rig.repartitioned(&[("A", "count"); 12]);
    steps(&mut rig, 1);
    assert_eq!(rig.kafka().position(SHARD_A), 8, "there is room for two transactions of four");
    // Nobody would wake it: it does not wait in the consumer's poll.
    for _ in 0..3 {
        assert_eq!(rig.step(), Ok(Next::After(Duration::from_millis(1))));
    }
    rig.held().finish("A");
    rig.run();
    assert_eq!((rig.outputs().len(), rig.committed(SHARD_A), rig.count("pause shard-0")), (12, Some(12), 0));
}

#[test]
fn a_worker_without_room_takes_part_in_a_rebalance_while_a_job_runs() {
    let mut rig = Rig::ready();
    rig.held().hold("A");
    rig.repartitioned(&[("A", "count"); 12]);
    rig.run();
    rig.kafka().events.push_back(Event::Revoked(vec![A]));
    rig.later();
    assert_eq!(rig.count("give_back shard-0"), 1);
    rig.repartitioned(&[("D", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), Vec::<String>::new(), "the job's messages take room until it comes back");
    rig.held().finish("A");
    rig.run();
    assert_eq!(rig.outputs(), ["D1"]);
}

#[test]
fn a_tenant_that_waits_for_a_lookup_does_not_take_all_room() {
    let batch = BatchLimits { records: 1000, ..config().batch };
    let mut rig = Rig::ready_with(WorkerConfig { batch, ..config() });
    rig.names().answers.insert("ann".into(), [Ok(Some("Ann"))].into());
    rig.held().hold_fetches("A");
    rig.repartitioned(&[("A", "look ann")]);
    rig.repartitioned(&[("A", "count")].repeat(2000));
    rig.run();
    rig.repartitioned(&[("D", "count")].repeat(3000));
    rig.run();
    assert_eq!((rig.outputs().len(), rig.count("pause shard-0")), (3000, 1));
    assert_eq!(rig.kafka().position(SHARD_A), 1000, "half of the room");
    rig.held().finish("A");
    rig.run();
    assert_eq!((rig.outputs().len(), rig.outputs()[3000].as_str()), (5001, "A1:Ann"));
}

#[test]
fn many_tenants_that_wait_and_have_few_messages_each_do_not_take_all_room() {
    let batch = BatchLimits { records: 1000, ..config().batch };
    let mut rig = Rig::ready_with(WorkerConfig { batch, ..config() });
    let tenants = tenants_of(A, 300);
    for tenant in &tenants {
        rig.held().hold_fetches(tenant);
        rig.names().answers.insert(tenant.clone(), [Ok(Some("x"))].into());
        rig.repartitioned(&[(tenant, &format!("look {tenant}"))]);
    }
    for tenant in tenants.iter().cycle().take(5 * tenants.len()) {
        rig.repartitioned(&[(tenant, "say a")]);
    }
    rig.repartitioned(&[("D", "count")].repeat(3000));
    rig.run();
    assert_eq!((rig.outputs().len(), rig.count("pause shard-0"), rig.count("resume shard-0")), (3000, 1, 0));
    assert_eq!(rig.kafka().position(SHARD_A), 1000, "half of the room");
    // One of them goes on with its four messages. The others still take the room.
    rig.held().finish(&tenants[0]);
    rig.run();
    assert_eq!((rig.outputs().len(), rig.kafka().position(SHARD_A)), (3004, 1000));
    rig.repartitioned(&[("D", "count")].repeat(3000));
    rig.run();
    assert_eq!(rig.outputs().len(), 6004);
    for tenant in &tenants {
        rig.held().finish(tenant);
    }
    rig.run();
    rig.run();
    assert_eq!((rig.outputs().len(), rig.committed(SHARD_A)), (7800, Some(1800)));
}

/// Tenants of D's shard whose jobs do not finish, as many as may be out.
fn with_all_jobs_out() -> (Rig, Vec<String>) {
    let mut rig = Rig::ready_with(WorkerConfig { batch: BatchLimits { records: 1000, ..config().batch }, ..config() });
    let tenants = tenants_of(D, 128);
    // What these have used is known later, though they have nothing to do.
    rig.repartitioned(&[("A", "slow"), ("A", "slow"), ("B", "slow")]);
    rig.run();
    for tenant in &tenants {
        rig.held().hold(tenant);
        rig.repartitioned(&[(tenant, "say x")]);
    }
    rig.run();
    assert_eq!(rig.held().out(), 128);
    rig.held().submitted.clear();
    (rig, tenants)
}

fn submitted(rig: &Rig) -> Vec<String> {
    rig.held().submitted.drain(..).map(|(tenant, _)| tenant).collect()
}

#[test]
fn the_jobs_that_are_out_are_bounded_and_the_tenant_that_has_used_least_is_next() {
    let (mut rig, tenants) = with_all_jobs_out();
    let others = tenants_of(A, 2);
    rig.repartitioned(&[("A", "count"), ("B", "count"), (&others[0], "count"), (&others[1], "count")]);
    rig.run();
    assert_eq!((submitted(&rig), rig.held().out()), (vec![], 128));
    // A's and B's came first, but they have used time.
    for other in ["A", "B", &others[0], &others[1]] {
        rig.held().hold(other);
    }
    let mut next = Vec::new();
    for tenant in &tenants[..4] {
        rig.held().finish(tenant);
        rig.run();
        next.append(&mut submitted(&rig));
        assert_eq!(rig.held().out(), 128);
    }
    assert_eq!(next, [&others[0], &others[1], "B", "A"]);
}

#[test]
fn a_lost_source_takes_along_only_what_came_after_its_records_and_of_each_tenant_apart() {
    let kept = Partition::Source { topic: 0, index: 1.into() };
    let batch = BatchLimits { records: 100, ..config().batch };
    let mut rig = Rig::with(WorkerConfig { batch, ..config() }, 2, &[A, D]);
    let names = tenants_of(D, 4);
    let [e, f, g, h] = [0, 1, 2, 3].map(|index| names[index].as_str());
    rig.repartitioned(&[(e, "count"), (f, "count"), (g, "count"), (h, "count")]);
    rig.run();
    assert_eq!((rig.outputs().len(), rig.ran().len()), (4, 4));
    let committed = rig.committed(SHARD_D).unwrap();
    // Nothing is committed for now.
    rig.kafka().fail("flush", usize::MAX, Effect::None, abortable());
    let mut add = |source: Option<Partition>, tenant: &str| {
        match source {
            Some(source) => rig.kafka().logs.entry(source).or_default().push(message(tenant, "count")),
            None => rig.repartitioned(&[(tenant, "count")]),
        }
        steps(&mut rig, 1);
    };
    for (source, tenant) in [
        // E has one result before that of the lost source, and two after it.
        (None, e),
        (Some(SOURCE), e),
        (None, e),
        (Some(kept), e),
        // F has nothing of it.
        (None, f),
        (Some(kept), f),
        // G begins with it.
        (Some(SOURCE), g),
        (None, g),
        // H has nothing else. B is of the shard that goes too.
        (Some(SOURCE), h),
        (Some(SOURCE), "B"),
        (Some(kept), "B"),
    ] {
        add(source, tenant);
    }
    // Records without a tenant, which no lane has had.
    for source in [SOURCE, kept] {
        let stray = Record { value: Some(b"stray".to_vec()), ..Record::default() };
        rig.kafka().logs.get_mut(&source).unwrap().push(stray);
        steps(&mut rig, 1);
    }
    assert_eq!(rig.ran().len(), 11);
    rig.kafka().events.push_back(Event::Lost(vec![A]));
    steps(&mut rig, 1);
    rig.kafka().heal();
    rig.run();
    let mut ran = rig.ran();
    ran.sort();
    let mut expected = [e, e, g].map(|tenant| format!("{tenant} count"));
    expected.sort();
    assert_eq!(ran, expected, "only what was built on a record of the lost source");
    let mut outputs = rig.outputs().split_off(4);
    outputs.sort();
    let mut expected = [(e, 2), (e, 3), (e, 4), (f, 2), (f, 3), (g, 2)].map(|(tenant, n)| format!("{tenant}{n}"));
    expected.sort();
    assert_eq!(outputs, expected);
    assert_eq!(rig.dead_letters().len(), 1, "the stray one of the source that stays");
    assert_eq!((rig.committed(SOURCE), rig.committed(kept)), (Some(0), Some(4)));
    assert_eq!(rig.committed_with_map(SHARD_D), format!("{},n=0", committed + 4));
    let hops = rig.kafka().logs[&SHARD_A].iter().filter(|record| record.value.is_some()).count();
    assert_eq!(hops, 1, "B's record of the source that stays");
    // The next owner handles the rest.
    rig.kafka().events.push_back(Event::Assigned(vec![A]));
    rig.later();
    assert_eq!((rig.outputs().len(), rig.committed(SOURCE), rig.committed(kept)), (15, Some(5), Some(4)));
    assert_eq!(rig.dead_letters().len(), 2);
}

#[test]
fn a_tenant_with_messages_left_does_not_go_ahead_of_others_while_all_jobs_are_out() {
    let (mut rig, tenants) = with_all_jobs_out();
    let others = tenants_of(A, 2);
    rig.held().most_messages = Some(1);
    let messages = [(others[0].as_str(), "slow"), (others[1].as_str(), "slow")].repeat(6);
    rig.repartitioned(&messages);
    // There is one job for both.
    rig.held().finish(&tenants[0]);
    rig.run();
    let turns = submitted(&rig);
    let expected: Vec<_> = messages.iter().map(|(tenant, _)| (*tenant).to_owned()).collect();
    assert_eq!(turns, expected, "they take turns");
}

#[test]
fn many_tenants_with_few_messages_that_arrived_before_they_waited_do_not_take_all_room() {
    let batch = BatchLimits { records: 1000, ..config().batch };
    let mut rig = Rig::ready_with(WorkerConfig { batch, ..config() });
    for tenant in &tenants_of(A, 600) {
        rig.held().hold_fetches(tenant);
        rig.repartitioned(&[(tenant, "look ann"), (tenant, "say a"), (tenant, "say b"), (tenant, "say c")]);
    }
    rig.repartitioned(&[("D", "count")].repeat(3000));
    rig.run();
    assert_eq!((rig.outputs().len(), rig.count("pause shard-0")), (3000, 1));
}

#[test]
fn many_tenants_that_wait_with_few_but_large_messages_do_not_take_all_room() {
    let batch = BatchLimits { records: 10_000, bytes: 500_000, ..config().batch };
    let mut rig = Rig::ready_with(WorkerConfig { batch, ..config() });
    let tenants = tenants_of(A, 300);
    for tenant in &tenants {
        rig.held().hold_fetches(tenant);
        rig.repartitioned(&[(tenant, "look ann")]);
    }
    let large = format!("say {}", "x".repeat(1000));
    for tenant in tenants.iter().cycle().take(5 * tenants.len()) {
        rig.repartitioned(&[(tenant, &large)]);
    }
    rig.repartitioned(&[("D", "count")].repeat(3000));
    rig.run();
    assert_eq!((rig.outputs().len(), rig.count("pause shard-0")), (3000, 1));
}
