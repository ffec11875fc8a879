//! Which release handles a message, and the one point in a tenant's stream where that changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use switchboard_core::record::{ControlPosition, ShardId, TenantId, TopicId, from_repartitioned};
use switchboard_core::routing::{Availability, LastRun, OnFailure, Release, Route, RouteTable, Routing, Versioned};
use switchboard_core::state::encode_key;
use switchboard_core::worker::{Event, Fault, Partition};

use super::fake_broker::Effect;
use super::fake_plugins::release;
use super::rig::{A, D, Rig, SHARD_A, SHARD_D, SOURCE, config, header, pairs};

const TOPIC: u64 = 9;

fn position(topic: u64, offset: u32) -> ControlPosition {
    ControlPosition { topic: Some(TopicId::new(topic)), offset: offset.into() }
}

/// The routes at a position of the control topic: the default and the pins, all set there.
struct At {
    offset: u32,
    default: u8,
    pins: &'static [(&'static str, u8)],
    releases: Vec<Availability>,
    on_failure: OnFailure,
}

fn at(offset: u32, default: u8, pins: &'static [(&'static str, u8)]) -> At {
    let ready = |number| Availability::Ready(Arc::new(release(number)));
    At { offset, default, pins, releases: (1..4).map(ready).collect(), on_failure: OnFailure::Keep }
}

impl At {
    /// Release 2 has state version 2. `second` and `third`: the versions that the releases 2 and 3 can migrate.
    fn layouts(mut self, second: &[u32], third: &[u32]) -> Self {
        let change = |number, state_version, migrates: &[u32]| {
            let mut release = release(number);
            release.manifest.state_version = state_version;
            Availability::Ready(Arc::new(Release { migrates: migrates.to_vec(), ..release }))
        };
        self.releases[1] = change(2, 2, second);
        self.releases[2] = change(3, 1, third);
        self
    }

    fn without(mut self, number: u8, on_failure: OnFailure) -> Self {
        let failed = &mut self.releases[usize::from(number) - 1];
        let Availability::Ready(release) = &*failed else { unreachable!("it is made so once") };
        let consumes = Some(release.manifest.consumes.clone());
        *failed = Availability::Failed { why: "no memory".into(), consumes, transient: false };
        self.on_failure = on_failure;
        self
    }

    /// This release consumes `MORE` too.
    fn wider(mut self, number: u8) -> Self {
        let Availability::Ready(release) = &mut self.releases[usize::from(number) - 1] else {
            unreachable!("they are ready at first")
        };
        Arc::make_mut(release).manifest.consumes.push("MORE".into());
        self
    }

    fn table(&self) -> RouteTable {
        let to = |number| {
            let previous = (number > 1).then(|| release(number - 1).digest);
            Versioned {
                route: Some(Route { release: release(number).digest, previous, gate: None }),
                offset: Some(self.offset.into()),
            }
        };
        let pins = self.pins.iter().map(|(tenant, number)| (TenantId::new(*tenant), to(*number))).collect();
        RouteTable { default: to(self.default), share: Versioned::default(), pins }
    }

    fn routing(self) -> Routing {
        let table = self.table();
        let releases = (1..).map(|number| release(number).digest).zip(self.releases).collect::<BTreeMap<_, _>>();
        let read = position(TOPIC, self.offset + 1);
        Routing::new(table, Some(read), None, releases, self.on_failure)
    }
}

fn rig(at: At) -> Rig {
    let mut rig = Rig::with(config(), 0, &[A, D]);
    rig.reroute(at.routing());
    rig.run();
    rig.kafka().calls.clear();
    rig
}

/// The tenant's last run, by the changelog: release, state version, offset of the route.
fn last_run(rig: &Rig, tenant: &str) -> Option<(u8, u32, i64)> {
    let key = encode_key(&TenantId::new(tenant), LastRun::KEY);
    let kafka = rig.kafka();
    let (_, value) = kafka.changelogs.values().flatten().rfind(|(k, _)| *k == key)?;
    let ran = LastRun::decode(value.as_ref()?)?;
    let route = ran.route.expect("a route was set");
    assert_eq!(route.topic, Some(TopicId::new(TOPIC)));
    Some((ran.release.bytes()[0], ran.state_version, route.offset.get()))
}

fn last_note(rig: &Rig, tenant: &str) -> String {
    let notes = rig.notes.borrow();
    let of =
        |note: &&String| note.starts_with(&format!("{tenant} runs")) || note.starts_with(&format!("{tenant} waits"));
    notes.iter().rfind(of).cloned().unwrap_or_default()
}

/// Another worker ran this tenant before.
fn ran_elsewhere(rig: &Rig, tenant: &str, shard: u16, number: u8, state_version: u32, offset: u32) {
    let route = Some(position(TOPIC, offset));
    let entry = LastRun { release: release(number).digest, state_version, route }.encode();
    let (shard, mut kafka) = (ShardId::from(shard), rig.kafka());
    kafka.changelogs.entry(shard).or_default().push((encode_key(&TenantId::new(tenant), LastRun::KEY), Some(entry)));
    kafka.committed.insert(Partition::Shard(shard), 0.into());
}

#[test]
fn the_old_release_handles_records_before_a_swap_and_the_new_one_those_after_it() {
    let mut rig = rig(at(5, 1, &[]));
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    rig.run();
    assert_eq!((last_run(&rig, "A"), last_run(&rig, "D")), (Some((1, 1, 5)), Some((1, 1, 5))));
    rig.reroute(at(8, 1, &[("A", 2)]).routing());
    rig.repartitioned(&[("A", "count"), ("D", "count"), ("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "D1", "A2@2", "A3@2", "D2"], "its state goes on");
    assert_eq!(last_run(&rig, "A"), Some((2, 1, 8)));
    assert_eq!(rig.count("consume IN"), 0, "the same topics");
}

#[test]
fn a_takeover_that_the_broker_refuses_is_made_again_at_the_next_message() {
    let mut rig = rig(at(5, 1, &[]));
    rig.kafka().refuses.push(("changelog 0", ""));
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    assert_eq!((rig.dead_letters(), last_run(&rig, "A")), (pairs(&[("output", "count")]), None));
    rig.kafka().refuses.clear();
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    assert_eq!((rig.outputs(), last_run(&rig, "A")), (vec!["A1".into()], Some((1, 1, 5))));
}

#[test]
fn the_entry_of_the_last_run_is_part_of_the_first_messages_transaction() {
    let mut rig = rig(at(5, 1, &[]));
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    rig.kafka().calls.clear();
    rig.reroute(at(8, 2, &[]).routing());
    rig.kafka().fail("commit", 1, Effect::None, Fault::Abortable("a test says so".into()));
    rig.repartitioned(&[("A", "count")]);
    rig.step().unwrap();
    assert_eq!((rig.outputs(), last_run(&rig, "A")), (vec!["A1".into()], Some((1, 1, 5))), "aborted together");
    rig.run();
    assert_eq!((rig.outputs(), last_run(&rig, "A")), (vec!["A1".into(), "A2@2".into()], Some((2, 1, 8))));
    assert_eq!(rig.count("commit"), 2, "the one that failed, and one that did not");
}

#[test]
fn a_tenant_does_not_run_by_older_routes_than_elsewhere_and_only_that_tenant_waits() {
    let mut rig = Rig::with(config(), 0, &[A, D]);
    ran_elsewhere(&rig, "B", 0, 2, 1, 8);
    rig.reroute(at(5, 1, &[]).routing());
    rig.repartitioned(&[("A", "count"), ("B", "count"), ("A", "count"), ("D", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "A2", "D1"]);
    assert_eq!(
        rig.committed_with_map(SHARD_A),
        "1,n=1,bits=Ag==",
        "what comes before it is settled, and A's record after it"
    );
    assert!(last_note(&rig, "B").contains("offset 8"), "{}", last_note(&rig, "B"));
    rig.reroute(at(7, 1, &[]).routing());
    rig.repartitioned(&[("D", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "A2", "D1", "D2"], "the topic has not been read that far yet");
    rig.reroute(at(8, 2, &[]).routing());
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "A2", "D1", "D2", "B1@2"]);
    assert_eq!(rig.committed_with_map(SHARD_A), "3,n=0");
}

#[test]
fn the_shard_of_a_tenant_that_waits_can_be_revoked_and_assigned_again() {
    let mut rig = Rig::with(config(), 0, &[A, D]);
    ran_elsewhere(&rig, "A", 0, 2, 1, 8);
    rig.reroute(at(5, 1, &[]).routing());
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    rig.run();
    rig.kafka().events.push_back(Event::Revoked(vec![A]));
    rig.run();
    rig.reroute(at(8, 2, &[]).routing());
    rig.run();
    assert_eq!(rig.outputs(), ["D1"]);
    rig.kafka().events.push_back(Event::Assigned(vec![A]));
    rig.later();
    assert_eq!(rig.outputs(), ["D1", "A1@2"]);
}

#[test]
fn a_wait_is_reported_again_after_partitions_are_revoked() {
    let mut rig = Rig::with(config(), 0, &[A, D]);
    ran_elsewhere(&rig, "A", 0, 2, 1, 8);
    rig.reroute(at(5, 1, &[]).routing());
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    assert!(last_note(&rig, "A").contains("A waits"));
    rig.notes.borrow_mut().clear();
    rig.kafka().events.push_back(Event::Revoked(vec![D]));
    rig.run();
    assert!(last_note(&rig, "A").contains("A waits"), "a revocation makes the observer forget it");
}

#[test]
fn a_job_that_comes_back_after_another_routing_was_taken_does_not_wait_for_one() {
    let mut rig = Rig::with(config(), 0, &[A]);
    ran_elsewhere(&rig, "A", 0, 2, 1, 8);
    rig.reroute(at(5, 1, &[]).routing());
    rig.held().hold("A");
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    rig.reroute(at(8, 2, &[]).routing());
    rig.run();
    assert_eq!(rig.held().out(), 1, "the job found that its tenant has to wait, by the former routing");
    rig.held().finish("A");
    rig.run();
    assert_eq!(rig.outputs(), ["A1@2"]);
    assert_eq!(last_note(&rig, "A"), "", "it is not reported that the tenant waits");
}

#[test]
fn messages_of_a_running_job_keep_its_routing_and_later_ones_have_the_next() {
    let mut rig = rig(at(5, 1, &[]));
    rig.held().hold("A");
    rig.repartitioned(&[("A", "count"), ("A", "count"), ("D", "count")]);
    rig.run();
    rig.reroute(at(8, 2, &[]).routing());
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    rig.run();
    rig.held().finish("A");
    rig.run();
    assert_eq!(rig.outputs(), ["D1", "D2@2", "A1", "A2", "A3@2"]);
    assert_eq!((last_run(&rig, "A"), last_run(&rig, "D")), (Some((2, 1, 8)), Some((2, 1, 8))));
}

#[test]
fn a_worker_does_not_wait_for_offsets_of_another_control_topic() {
    let mut rig = Rig::with(config(), 0, &[A]);
    ran_elsewhere(&rig, "A", 0, 2, 1, 800);
    let other = LastRun { release: release(2).digest, state_version: 1, route: Some(position(1, 800)) };
    rig.kafka().changelogs.get_mut(&0.into()).unwrap()[0].1 = Some(other.encode());
    rig.reroute(at(5, 1, &[]).routing());
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1"]);
}

#[test]
fn tenants_of_a_failed_release_run_the_fallback_release_or_wait_by_setting() {
    for (on_failure, expected) in
        [(OnFailure::Keep, vec!["A1", "D1", "A2", "D2"]), (OnFailure::Stop, vec!["A1", "D1", "D2"])]
    {
        let mut rig = rig(at(5, 1, &[]));
        rig.repartitioned(&[("A", "count"), ("D", "count")]);
        rig.run();
        rig.reroute(at(8, 1, &[("A", 2)]).without(2, on_failure).routing());
        rig.repartitioned(&[("A", "count"), ("D", "count")]);
        rig.run();
        assert_eq!(rig.outputs(), expected, "{on_failure:?}");
        assert!(last_note(&rig, "A").contains("no memory"), "{}", last_note(&rig, "A"));
        assert_eq!(last_run(&rig, "A"), Some((1, 1, 5)), "its last run is the same");
        rig.reroute(at(8, 1, &[("A", 2)]).routing());
        rig.repartitioned(&[("A", "count")]);
        rig.run();
        assert_eq!(rig.outputs().last().unwrap(), "A3@2", "{on_failure:?}");
    }
}

#[test]
fn a_tenant_does_not_go_back_to_an_older_release_because_this_host_cannot_run_the_newer_one() {
    let mut rig = Rig::with(config(), 0, &[A, D]);
    ran_elsewhere(&rig, "A", 0, 2, 1, 5);
    rig.reroute(at(5, 2, &[]).without(2, OnFailure::Keep).routing());
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["D1"], "D never ran: it has the release that its route replaced");
    assert!(last_note(&rig, "A").contains("waits") && last_note(&rig, "D").contains("runs 1 instead of 2"));
    assert_eq!(last_run(&rig, "D"), Some((1, 1, 5)));
}

#[test]
fn a_tenant_without_any_route_waits_for_one() {
    let mut rig = Rig::with(config(), 0, &[A, D]);
    let pinned = Routing::new(
        RouteTable { default: Versioned::default(), ..at(5, 1, &[("D", 1)]).table() },
        Some(position(TOPIC, 6)),
        None,
        BTreeMap::from([(release(1).digest, Availability::Ready(Arc::new(release(1))))]),
        OnFailure::Keep,
    );
    rig.reroute(pinned);
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["D1"]);
    assert!(last_note(&rig, "A").contains("deploy"));
    rig.reroute(at(7, 1, &[]).routing());
    rig.run();
    assert_eq!(rig.outputs(), ["D1", "A1"]);
}

#[test]
fn a_topic_is_read_while_a_release_consumes_it() {
    let mut rig = Rig::with(config(), 0, &[A]);
    rig.reroute(at(8, 1, &[("A", 2)]).wider(2).routing());
    rig.kafka().partition_counts.push(1);
    rig.run();
    assert_eq!(rig.count("consume IN MORE"), 1);
    let more = Partition::Source { topic: 1, index: 0.into() };
    let record = |tenant| super::rig::message(tenant, "count");
    rig.kafka().logs.insert(more, vec![record("A"), record("B"), record("D")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1@2"], "B's release does not consume it");
    assert_eq!((rig.committed(more), rig.dead_letters()), (Some(3), vec![]), "and it is settled");
    let repartitioned = from_repartitioned(rig.kafka().logs[&SHARD_D][0].clone(), &[]).unwrap();
    assert_eq!(repartitioned.routes, Some(position(TOPIC, 8)), "the routes that made the topic consumed");
    rig.reroute(at(9, 1, &[]).routing());
    rig.run();
    assert_eq!(
        (rig.count("stop source-1-0"), rig.committed(more)),
        (1, Some(3)),
        "the topic is left, and its offsets stay"
    );
}

#[test]
fn a_record_of_a_new_topic_waits_until_the_routes_that_made_it_consumed_are_read() {
    let mut rig = rig(at(5, 1, &[]));
    let routes = |offset| Some(position(TOPIC, offset));
    rig.repartitioned(&[("B", "count"), ("D", "count")]);
    rig.repartitioned_from("MORE", routes(8), &[("A", "count")]);
    rig.repartitioned(&[("B", "count"), ("D", "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["B1", "B2", "D1", "D2"], "no other tenant waits");
    assert_eq!(rig.committed_with_map(SHARD_A), "1,n=1,bits=Ag==", "it is not settled");
    assert!(last_note(&rig, "A").contains("waits") && last_note(&rig, "A").contains("offset 8"));
    assert_eq!(last_run(&rig, "A"), Some((1, 1, 5)), "what it runs until then");
    rig.reroute(at(7, 1, &[]).routing());
    rig.run();
    assert_eq!(rig.committed(SHARD_A), Some(1), "the control topic has not been read that far yet");
    rig.reroute(at(8, 1, &[("A", 2)]).wider(2).routing());
    rig.run();
    assert_eq!(rig.outputs(), ["B1", "B2", "D1", "D2", "A1@2"]);
    assert_eq!((rig.committed(SHARD_A), rig.dead_letters()), (Some(3), vec![]));
}

#[test]
fn the_entry_of_the_last_run_is_committed_with_the_shards_offset_before_a_message_that_waits() {
    let mut rig = Rig::with(config(), 0, &[A]);
    rig.reroute(at(5, 1, &[]).routing());
    rig.repartitioned_from("MORE", Some(position(TOPIC, 8)), &[("A", "count")]);
    rig.run();
    let expected = [["send changelog 0", "flush", "send_offsets shard-0@0"].as_slice()];
    assert_eq!(rig.committed_transactions(), expected, "unfenced, a predecessor's records could come after our own");
}

#[test]
fn a_record_that_its_tenants_release_consumes_does_not_wait_for_routes() {
    let mut rig = rig(at(5, 1, &[]));
    let routes = |topic, offset| Some(position(topic, offset));
    rig.repartitioned_from("IN", routes(TOPIC, 800), &[("A", "count")]);
    for read in [None, routes(TOPIC, 5), routes(TOPIC + 1, 800)] {
        rig.repartitioned_from("MORE", read, &[("A", "count")]);
    }
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    assert_eq!((rig.outputs(), rig.committed(SHARD_A)), (vec!["A1".into(), "A2".into()], Some(5)));
    assert_eq!(rig.dead_letters(), []);
}

#[test]
fn a_record_that_only_the_wanted_release_consumes_is_a_dead_letter_under_the_fallback_release() {
    let routes = Some(position(TOPIC, 8));
    // Release 2 cannot be loaded, or cannot migrate the state.
    let unloadable = || at(8, 2, &[]).wider(2).without(2, OnFailure::Keep).routing();
    let unwilling = || at(8, 2, &[]).layouts(&[], &[]).wider(2).routing();
    for (routing, reason) in [(unloadable(), "no memory"), (unwilling(), "cannot take over version 1")] {
        let mut rig = rig(at(5, 1, &[]));
        rig.repartitioned(&[("A", "count")]);
        rig.run();
        rig.reroute(routing);
        rig.repartitioned_from("MORE", routes, &[("A", "say more")]);
        rig.repartitioned_from("OTHER", routes, &[("A", "say other")]);
        rig.repartitioned(&[("A", "count")]);
        rig.run();
        assert_eq!(rig.outputs(), ["A1", "A2"]);
        assert_eq!(rig.dead_letters(), pairs(&[("release", "say more")]), "neither release consumes the other topic");
        let given = header(&rig.kafka().visible[1].1.headers, "switchboard-reason");
        let title = format!("runs the fallback release fake 1 ({})", release(1).digest.short());
        assert!(
            [reason, "MORE", &release(2).digest.short(), &title].iter().all(|part| given.contains(part)),
            "{given}"
        );
        assert_eq!(last_run(&rig, "A"), Some((1, 1, 5)));
    }
}

#[test]
fn a_record_of_the_wanted_release_waits_while_that_release_may_become_ready() {
    let mut rig = rig(at(5, 1, &[]));
    let mut slow = at(8, 2, &[]);
    let consumes = Some(vec!["IN".into(), "MORE".into()]);
    slow.releases[1] = Availability::Failed { why: "it is not read yet".into(), consumes, transient: true };
    rig.reroute(slow.routing());
    rig.repartitioned(&[("A", "count")]);
    rig.repartitioned_from("OTHER", None, &[("A", "say other")]);
    rig.repartitioned_from("MORE", None, &[("A", "say more")]);
    rig.run();
    assert_eq!(
        (rig.outputs(), rig.committed(SHARD_A)),
        (vec!["A1".into()], Some(2)),
        "it runs the fallback release for all else"
    );
    let note = last_note(&rig, "A");
    assert!(note.contains("waits") && note.contains("MORE") && note.contains("it is not read yet"), "{note}");
    rig.reroute(at(9, 2, &[]).wider(2).routing());
    rig.run();
    assert_eq!((rig.outputs(), rig.dead_letters()), (vec!["A1".into(), "more".into()], vec![]));
}

#[test]
fn a_release_of_unknown_topics_may_consume_any_topic() {
    let mut rig = rig(at(5, 1, &[]));
    let mut unknown = at(8, 2, &[]);
    unknown.releases[1] = Availability::Failed { why: "it is gone".into(), consumes: None, transient: false };
    rig.reroute(unknown.routing());
    rig.repartitioned_from("MORE", None, &[("A", "count")]);
    rig.run();
    assert_eq!(rig.dead_letters(), pairs(&[("release", "count")]));
}

#[test]
fn state_is_migrated_once_before_the_first_message_and_in_its_transaction() {
    let mut rig = rig(at(5, 1, &[]).layouts(&[1], &[]));
    rig.repartitioned(&[("A", "count"), ("A", "count"), ("A", "count")]);
    rig.run();
    rig.kafka().calls.clear();
    rig.reroute(at(8, 2, &[]).layouts(&[1], &[]).routing());
    rig.kafka().fail("commit", 1, Effect::None, Fault::Abortable("a test says so".into()));
    rig.repartitioned(&[("A", "state"), ("A", "reject"), ("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs()[3..], ["from=1 n=7", "A8@2"], "once, also after an abort and a rejected message");
    assert_eq!(last_run(&rig, "A"), Some((2, 2, 8)));
    assert_eq!(rig.count("commit"), 2, "the one that failed, and one that did not");
    // Release 3 has state version 1.
    rig.reroute(at(9, 3, &[]).layouts(&[1], &[]).routing());
    rig.repartitioned(&[("A", "count")]);
    rig.run();
    assert_eq!(rig.outputs().last().unwrap(), "A9@2");
    let note = last_note(&rig, "A");
    assert!(note.contains("runs 2 instead of 3") && note.contains("cannot take over version 2"), "{note}");
    rig.reroute(at(10, 3, &[]).layouts(&[1], &[2]).routing());
    rig.repartitioned(&[("A", "state")]);
    rig.run();
    assert_eq!(rig.outputs().last().unwrap(), "from=2 n=19", "it says that it can");
    assert_eq!(last_run(&rig, "A"), Some((3, 1, 10)));
}

#[test]
fn a_failed_migration_changes_nothing_and_the_tenant_runs_the_fallback_release() {
    let mut rig = rig(at(5, 1, &[]).layouts(&[1], &[]));
    let tenant = "F";
    rig.repartitioned(&[(tenant, "count"), (tenant, "count")]);
    rig.run();
    rig.reroute(at(8, 2, &[]).layouts(&[1], &[]).routing());
    rig.repartitioned(&[(tenant, "state"), (tenant, "count")]);
    rig.run();
    assert_eq!(rig.outputs(), ["F1", "F2", "n=3", "F4"]);
    assert_eq!(last_run(&rig, tenant), Some((1, 1, 5)));
    let note = last_note(&rig, tenant);
    assert!(note.contains("runs 1 instead of 2") && note.contains("half way"), "{note}");
    assert_eq!(rig.notes.borrow().iter().filter(|note| note.contains("instead of")).count(), 1, "tried once");
}

#[test]
fn a_take_over_before_a_lookup_is_committed_with_the_shards_offset() {
    let mut rig = rig(at(5, 1, &[]).layouts(&[1], &[]));
    rig.repartitioned(&[("A", "count"), ("D", "count")]);
    rig.run();
    rig.reroute(at(8, 2, &[]).layouts(&[1], &[]).routing());
    rig.kafka().calls.clear();
    rig.names().answers.insert("ann".into(), [Ok(Some("Ann"))].into());
    rig.repartitioned(&[("A", "look ann")]);
    rig.run();
    assert_eq!(rig.outputs(), ["A1", "D1", "A3@2:Ann"], "migrated once");
    let expected = [
        ["send changelog 0", "send changelog 0", "send changelog 0", "flush", "send_offsets shard-0@1"].as_slice(),
        &["send OUT", "send changelog 0", "flush", "send_offsets shard-0@2"],
    ];
    assert_eq!(rig.committed_transactions(), expected, "unfenced, a predecessor's records could come after our own");
}

#[test]
fn a_record_that_came_directly_waits_in_its_tenants_queue_and_holds_up_no_other_tenant() {
    let mut rig = Rig::with(config(), 1, &[A]);
    ran_elsewhere(&rig, "B", 0, 2, 1, 8);
    rig.reroute(at(5, 1, &[]).routing());
    rig.run();
    rig.produce(&[("A", "count"), ("B", "count"), ("A", "count"), ("B", "count")]);
    rig.run();
    assert_eq!(
        (rig.outputs(), rig.committed_with_map(SOURCE)),
        (vec!["A1".into(), "A2".into()], "1,n=1,bits=Ag==".into())
    );
    rig.reroute(at(8, 2, &[]).routing());
    rig.run();
    assert_eq!(
        (rig.outputs()[2..].to_vec(), rig.committed_with_map(SOURCE)),
        (vec!["B1@2".into(), "B2@2".into()], "4,n=0".into())
    );
}
