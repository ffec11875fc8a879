use super::*;

const PATIENCE: Duration = Duration::from_mins(1);
const AFTER: Duration = Duration::from_secs(30);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A host that has read so far, and can run or cannot run release 2.
fn host(read: Offset, state: Option<State>) -> HostStatus {
    HostStatus {
        instance: "one".into(),
        read,
        releases: state.map(|state| Loaded { digest: digest(2), state }).into_iter().collect(),
        ..HostStatus::default()
    }
}

fn failures(number: u8, failures: u64, rejections: u64) -> Failures {
    Failures { release: digest(number), messages: 9, failures, rejections, first: "trap: why".into() }
}

fn staying(tenant: &str) -> Staying {
    Staying { tenant: TenantId::new(tenant), release: digest(1), reason: "no".into() }
}

fn waiting(tenant: &str) -> Waiting {
    Waiting { tenant: TenantId::new(tenant), reason: "none".into() }
}

/// Release 1 for all, then a change that is followed, and the last one's offset.
fn followed(change: impl Fn(&mut Topic) -> Result<Decision, Refusal>) -> (Topic, String, Offset) {
    let mut topic = Topic::default();
    topic.deploy(1, Audience::Default).unwrap();
    let id = change(&mut topic).unwrap().id;
    let offset = topic.control.change(&id).unwrap().offset;
    (topic, id, offset)
}

/// What a watch that has just begun says, and the troubles.
fn look(topic: &Topic, id: &str) -> (Option<Verdict>, Vec<String>) {
    let rollout = topic.control.rollout(topic.control.change(id).unwrap(), topic.control.newest().unwrap());
    (Watch::new(PATIENCE, AFTER).look(&rollout, Duration::ZERO), topic.control.troubles(&rollout))
}

#[test]
fn a_rollout_is_done_when_every_living_host_goes_by_it() {
    let mut topic = Topic::default();
    topic.status("dead", &host(Offset::ZERO, None));
    topic.deploy(2, Audience::Default).unwrap();
    let now = topic.control.newest().unwrap().saturating_add(HostStatus::ALIVE - Duration::from_millis(1));
    let offset = topic.control.change("c1").unwrap().offset;
    let far = Offset::new(offset.get() + 9).unwrap();
    let look = |topic: &Topic| {
        let rollout = topic.control.rollout(topic.control.change("c1").unwrap(), now);
        let verdict = Watch::new(PATIENCE, Duration::ZERO).look(&rollout, Duration::ZERO);
        (rollout.hosts.len(), rollout.is_done(), verdict)
    };
    assert_eq!(look(&topic), (0, false, Some(Verdict::NoHosts)));
    topic.status("one", &host(offset.next(), Some(State::Ready)));
    assert_eq!(look(&topic), (1, true, Some(Verdict::Done)));
    topic.status("two", &host(offset, Some(State::Ready)));
    assert_eq!(look(&topic), (2, false, None));
    topic.status("two", &host(offset, Some(State::Failed { reason: "before".into() })));
    assert_eq!(look(&topic), (2, false, None), "that was another attempt");
    topic.status("two", &host(far, None));
    assert_eq!(look(&topic), (2, false, None), "it has not tried yet");
    topic.status("two", &host(far, Some(State::Failed { reason: "why".into() })));
    assert_eq!(look(&topic), (2, false, Some(Verdict::Failed)));
    topic.automatic_rollback(2, &Scope::Default).unwrap();
    assert_eq!(look(&topic), (2, false, Some(Verdict::RolledBack)));
}

#[test]
fn it_is_looked_on_for_as_long_as_was_asked_for_after_all_hosts_go_by_it() {
    let (mut topic, id, offset) = followed(|topic| topic.deploy(2, Audience::Default));
    let mut watch = Watch::new(PATIENCE, AFTER);
    let look = |watch: &mut Watch, topic: &Topic, elapsed| {
        let rollout = topic.control.rollout(topic.control.change(&id).unwrap(), topic.control.newest().unwrap());
        (watch.look(&rollout, seconds(elapsed)), watch.left(seconds(elapsed)))
    };
    topic.status("one", &host(Offset::ZERO, None));
    assert_eq!(look(&mut watch, &topic, 59), (None, None));
    topic.status("one", &host(offset.next(), Some(State::Ready)));
    assert_eq!(look(&mut watch, &topic, 59), (None, Some(AFTER)));
    assert_eq!(look(&mut watch, &topic, 88), (None, Some(seconds(1))));
    // Another one starts.
    topic.status("two", &host(Offset::ZERO, None));
    assert_eq!(look(&mut watch, &topic, 89).0, None, "it is given time");
    assert_eq!(look(&mut watch, &topic, 89 + 59).0, None);
    let mut late = watch.clone();
    assert_eq!(look(&mut watch, &topic, 89 + 60).0, Some(Verdict::TimeOut));
    topic.status("two", &host(offset.next(), Some(State::Ready)));
    assert_eq!(look(&mut late, &topic, 90).0, Some(Verdict::Done));
}

#[test]
fn hosts_that_never_go_by_it_are_not_waited_for_without_end() {
    let (mut topic, id, _) = followed(|topic| topic.deploy(2, Audience::Default));
    topic.status("one", &host(Offset::ZERO, None));
    let rollout = topic.control.rollout(topic.control.change(&id).unwrap(), topic.control.newest().unwrap());
    let mut watch = Watch::new(PATIENCE, AFTER);
    assert_eq!(watch.look(&rollout, seconds(59)), None);
    assert_eq!(watch.look(&rollout, seconds(60)), Some(Verdict::TimeOut));
}

#[test]
fn whatever_goes_wrong_by_a_change_ends_it_with_the_reason() {
    let (mut topic, id, offset) = followed(|topic| topic.deploy(2, Audience::Default));
    let ready = host(offset.next(), Some(State::Ready));
    for (status, trouble) in [
        (
            host(offset.next(), Some(State::Failed { reason: "why".into() })),
            "one cannot run plugin 2.0.0 (020202020202): why",
        ),
        (
            HostStatus { staying: vec![staying("a")], ..ready.clone() },
            "one: a stays on plugin 1.0.0 (010101010101): no",
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
            (Some(Verdict::Failed), vec![trouble.to_owned()]),
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
fn only_tenants_whose_route_a_change_touched_are_its_matter() {
    let stays = |topic: &mut Topic, id: &str, tenant: &str| {
        let read = topic.control.content_end();
        let loaded = [1, 2, 3, 4].map(|number| Loaded { digest: digest(number), state: State::Ready });
        topic.status(
            "one",
            &HostStatus { releases: loaded.to_vec(), staying: vec![staying(tenant)], read, ..host(Offset::ZERO, None) },
        );
        look(topic, id).0 == Some(Verdict::Failed)
    };
    let (mut topic, pinned, _) = followed(|topic| topic.deploy(2, tenants(&["a"])));
    assert!(stays(&mut topic, &pinned, "a") && !stays(&mut topic, &pinned, "b"));
    let all = topic.deploy(3, Audience::Default).unwrap().id;
    assert!(stays(&mut topic, &all, "b") && !stays(&mut topic, &all, "a"), "a has a route of its own");
    let again = topic.deploy(3, Audience::Default).unwrap();
    assert!(again.change.routes.is_empty() && stays(&mut topic, &again.id, "b") && !stays(&mut topic, &again.id, "a"));

    let share = topic.deploy(4, percent("50")).unwrap().id;
    let is_in =
        |name: &&str| "50".parse::<crate::routing::Percent>().unwrap().includes(&digest(4), &TenantId::new(*name));
    let names = ["c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let (inside, outside) =
        (names.iter().find(|name| is_in(name)).unwrap(), names.iter().find(|name| !is_in(name)).unwrap());
    assert!(stays(&mut topic, &share, inside) && !stays(&mut topic, &share, outside));
    let back = topic.rollback(&[]).unwrap().id;
    assert_eq!(topic.routes().get("percentage"), None);
    assert!(stays(&mut topic, &back, inside) && !stays(&mut topic, &back, outside), "who was in it goes back");
    let stamp = topic.stamp();
    let cleared = clear_routes(&topic.control, &[tenant("a")].into(), stamp);
    let cleared = topic.commit(cleared).unwrap().id;
    assert!(stays(&mut topic, &cleared, "a") && !stays(&mut topic, &cleared, "b"));
}

#[test]
fn a_change_that_another_one_replaced_is_not_done() {
    let (mut topic, id, offset) = followed(|topic| topic.deploy(2, Audience::Default));
    topic.status("one", &host(offset.next(), Some(State::Ready)));
    topic.deploy(3, tenants(&["a"])).unwrap();
    assert_eq!(look(&topic, &id), (None, vec![]), "another route");
    topic.deploy(3, Audience::Default).unwrap();
    assert_eq!(look(&topic, &id).0, Some(Verdict::Replaced));
}
