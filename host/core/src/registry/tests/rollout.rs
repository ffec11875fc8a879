//! Tests of rollouts: what hosts report, and the verdict.

use super::*;

const TIME_LIMIT: Duration = Duration::from_mins(1);
const OBSERVED: Duration = Duration::from_secs(30);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A host that has read up to this offset and can or cannot run release 2.
fn host(read: Offset, state: Option<LoadState>) -> HostStatus {
    HostStatus {
        instance: "one".into(),
        read,
        releases: state.map(|state| LoadedRelease { digest: digest(2), state }).into_iter().collect(),
        ..HostStatus::default()
    }
}

fn failures(number: u8, failures: u64, rejections: u64) -> Failures {
    Failures { release: digest(number), messages: 9, failures, rejections, first: "trap: why".into() }
}

fn fallback(tenant: &str) -> FallbackTenant {
    FallbackTenant { tenant: TenantId::new(tenant), release: digest(1), reason: "no".into() }
}

fn waiting(tenant: &str) -> WaitingTenant {
    WaitingTenant { tenant: TenantId::new(tenant), reason: "none".into() }
}

/// Release 1 for all, then a change. Gives the id of the change and the offset of its record.
fn followed(change: impl Fn(&mut Topic) -> Result<Decision, Refusal>) -> (Topic, String, Offset) {
    let mut topic = Topic::default();
    topic.deploy(1, Audience::Default).unwrap();
    let id = change(&mut topic).unwrap().id;
    let offset = topic.registry.change(&id).unwrap().offset;
    (topic, id, offset)
}

/// The verdict of a new watch, and the troubles.
fn look(topic: &Topic, id: &str) -> (Option<RolloutVerdict>, Vec<String>) {
    let rollout = topic.registry.rollout(topic.registry.change(id).unwrap(), topic.registry.newest().unwrap());
    (RolloutWatch::new(TIME_LIMIT, OBSERVED).look(&rollout, Duration::ZERO), topic.registry.troubles(&rollout))
}

#[test]
fn a_rollout_is_done_when_every_living_host_has_applied_it() {
    let mut topic = Topic::default();
    topic.status("dead", &host(Offset::ZERO, None));
    topic.deploy(2, Audience::Default).unwrap();
    let now =
        topic.registry.newest().unwrap().saturating_add(HostStatus::ALIVE.saturating_sub(Duration::from_millis(1)));
    let offset = topic.registry.change("c1").unwrap().offset;
    let far = Offset::new(offset.get() + 9).unwrap();
    let look = |topic: &Topic| {
        let rollout = topic.registry.rollout(topic.registry.change("c1").unwrap(), now);
        let verdict = RolloutWatch::new(TIME_LIMIT, Duration::ZERO).look(&rollout, Duration::ZERO);
        (rollout.hosts.len(), rollout.is_done(), verdict)
    };
    assert_eq!(look(&topic), (0, false, Some(RolloutVerdict::NoHosts)));
    topic.status("one", &host(offset.next(), Some(LoadState::Ready)));
    assert_eq!(look(&topic), (1, true, Some(RolloutVerdict::Done)));
    topic.status("two", &host(offset, Some(LoadState::Ready)));
    assert_eq!(look(&topic), (2, false, None));
    topic.status("two", &host(offset, Some(LoadState::Failed { reason: "before".into() })));
    assert_eq!(look(&topic), (2, false, None), "that was another attempt");
    topic.status("two", &host(far, None));
    assert_eq!(look(&topic), (2, false, None), "it has not tried yet");
    topic.status("two", &host(far, Some(LoadState::Failed { reason: "why".into() })));
    assert_eq!(look(&topic), (2, false, Some(RolloutVerdict::Failed)));
    topic.automatic_rollback(2, &Scope::Default).unwrap();
    assert_eq!(look(&topic), (2, false, Some(RolloutVerdict::RolledBack)));
}

#[test]
fn a_rollout_is_observed_for_the_requested_time_after_all_hosts_have_applied_it() {
    let (mut topic, id, offset) = followed(|topic| topic.deploy(2, Audience::Default));
    let mut watch = RolloutWatch::new(TIME_LIMIT, OBSERVED);
    let look = |watch: &mut RolloutWatch, topic: &Topic, elapsed| {
        let rollout = topic.registry.rollout(topic.registry.change(&id).unwrap(), topic.registry.newest().unwrap());
        (watch.look(&rollout, seconds(elapsed)), watch.left(seconds(elapsed)))
    };
    topic.status("one", &host(Offset::ZERO, None));
    assert_eq!(look(&mut watch, &topic, 59), (None, None));
    topic.status("one", &host(offset.next(), Some(LoadState::Ready)));
    assert_eq!(look(&mut watch, &topic, 59), (None, Some(OBSERVED)));
    assert_eq!(look(&mut watch, &topic, 88), (None, Some(seconds(1))));
    // Another host starts.
    topic.status("two", &host(Offset::ZERO, None));
    assert_eq!(look(&mut watch, &topic, 89).0, None, "it is given time");
    assert_eq!(look(&mut watch, &topic, 89 + 59).0, None);
    let mut late = watch.clone();
    assert_eq!(look(&mut watch, &topic, 89 + 60).0, Some(RolloutVerdict::TimeOut));
    topic.status("two", &host(offset.next(), Some(LoadState::Ready)));
    assert_eq!(look(&mut late, &topic, 90).0, Some(RolloutVerdict::Done));
}

#[test]
fn hosts_that_never_apply_a_change_end_the_wait() {
    let (mut topic, id, _) = followed(|topic| topic.deploy(2, Audience::Default));
    topic.status("one", &host(Offset::ZERO, None));
    let rollout = topic.registry.rollout(topic.registry.change(&id).unwrap(), topic.registry.newest().unwrap());
    let mut watch = RolloutWatch::new(TIME_LIMIT, OBSERVED);
    assert_eq!(watch.look(&rollout, seconds(59)), None);
    assert_eq!(watch.look(&rollout, seconds(60)), Some(RolloutVerdict::TimeOut));
}

#[test]
fn trouble_with_a_change_ends_the_rollout_with_the_reason() {
    let (mut topic, id, offset) = followed(|topic| topic.deploy(2, Audience::Default));
    let ready = host(offset.next(), Some(LoadState::Ready));
    for (status, trouble) in [
        (
            host(offset.next(), Some(LoadState::Failed { reason: "why".into() })),
            "one cannot run plugin 2.0.0 (020202020202): why",
        ),
        (
            HostStatus { fallback: vec![fallback("a")], ..ready.clone() },
            "one: a runs the fallback release plugin 1.0.0 (010101010101): no",
        ),
        (HostStatus { waiting: vec![waiting("a")], ..ready.clone() }, "one: a waits: none"),
        (
            HostStatus { failures: vec![failures(2, 1, 0)], ..ready.clone() },
            "one: 1 failures of plugin 2.0.0 (020202020202) in 9 messages: trap: why",
        ),
    ] {
        topic.status("two", &HostStatus { instance: "two".into(), ..host(Offset::ZERO, None) });
        topic.status("one", &status);
        assert_eq!(
            look(&topic, &id),
            (Some(RolloutVerdict::Failed), vec![trouble.to_owned()]),
            "while another host is behind"
        );
        let behind = HostStatus { read: offset, ..status };
        topic.status("one", &behind);
        assert_eq!(look(&topic, &id), (None, vec![]), "that was before");
    }
    for harmless in [failures(2, 0, 5), failures(1, 3, 0)] {
        topic.status("one", &HostStatus { failures: vec![harmless], ..ready.clone() });
        assert_eq!(look(&topic, &id), (None, vec![]));
    }
}

#[test]
fn a_change_concerns_only_tenants_whose_route_it_touched() {
    let fails = |topic: &mut Topic, id: &str, tenant: &str| {
        let read = topic.registry.content_end();
        let loaded = [1, 2, 3, 4].map(|number| LoadedRelease { digest: digest(number), state: LoadState::Ready });
        topic.status(
            "one",
            &HostStatus {
                releases: loaded.to_vec(),
                fallback: vec![fallback(tenant)],
                read,
                ..host(Offset::ZERO, None)
            },
        );
        look(topic, id).0 == Some(RolloutVerdict::Failed)
    };
    let (mut topic, pinned, _) = followed(|topic| topic.deploy(2, tenants(&["a"])));
    assert!(fails(&mut topic, &pinned, "a") && !fails(&mut topic, &pinned, "b"));
    let all = topic.deploy(3, Audience::Default).unwrap().id;
    assert!(fails(&mut topic, &all, "b") && !fails(&mut topic, &all, "a"), "a has a route of its own");
    let again = topic.deploy(3, Audience::Default).unwrap();
    assert!(again.change.routes.is_empty() && fails(&mut topic, &again.id, "b") && !fails(&mut topic, &again.id, "a"));

    let share = topic.deploy(4, percent("50")).unwrap().id;
    let is_in =
        |name: &&str| "50".parse::<crate::routing::Percent>().unwrap().includes(&digest(4), &TenantId::new(*name));
    let names = ["c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let (inside, outside) =
        (names.iter().find(|name| is_in(name)).unwrap(), names.iter().find(|name| !is_in(name)).unwrap());
    assert!(fails(&mut topic, &share, inside) && !fails(&mut topic, &share, outside));
    let back = topic.rollback(&[]).unwrap().id;
    assert_eq!(topic.routes().get("percentage"), None);
    assert!(fails(&mut topic, &back, inside) && !fails(&mut topic, &back, outside), "who was in it goes back");
    let request = topic.request();
    let cleared = clear_routes(&topic.registry, &[tenant("a")].into(), request);
    let cleared = topic.commit(cleared).unwrap().id;
    assert!(fails(&mut topic, &cleared, "a") && !fails(&mut topic, &cleared, "b"));
}

#[test]
fn a_change_that_another_one_replaced_is_not_done() {
    let (mut topic, id, offset) = followed(|topic| topic.deploy(2, Audience::Default));
    topic.status("one", &host(offset.next(), Some(LoadState::Ready)));
    topic.deploy(3, tenants(&["a"])).unwrap();
    assert_eq!(look(&topic, &id), (None, vec![]), "another route");
    topic.deploy(3, Audience::Default).unwrap();
    assert_eq!(look(&topic, &id).0, Some(RolloutVerdict::Replaced));
}
