//! Tests of the registry: commands are decided, written to a topic in memory and folded again.

mod properties;
mod rollout;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::record::{Offset, TenantId, Timestamp};
use crate::routing::{Digest, Gate, Manifest, Route};

/// The time of the record at an offset: one record is written per second.
fn second(offset: Offset) -> Timestamp {
    Timestamp::from_millis(1000 * offset.get())
}

/// A control topic in memory: all records that were written, and the state that they fold to.
#[derive(Debug, Clone, Default)]
struct Topic {
    log: Vec<(String, Option<Vec<u8>>)>,
    registry: RegistryState,
    changes: usize,
}

impl Topic {
    fn write(&mut self, writes: &[ControlRecord]) {
        for ControlRecord { key, value } in writes {
            let (offset, key) = (Offset::try_from(self.log.len()).unwrap(), key.to_string());
            self.registry.apply(offset, second(offset), key.as_bytes(), value.as_deref()).unwrap();
            self.log.push((key, value.clone()));
        }
    }

    fn request(&mut self) -> ChangeRequest {
        self.changes += 1;
        ChangeRequest {
            id: format!("c{}", self.changes),
            actor: Actor { user: "u".into(), host: "h".into() },
            note: None,
        }
    }

    fn commit(&mut self, decision: Result<Decision, Refusal>) -> Result<Decision, Refusal> {
        let decision = decision?;
        self.write(&decision.writes);
        Ok(decision)
    }

    fn deploy(&mut self, number: u8, audience: Audience) -> Result<Decision, Refusal> {
        let request = self.request();
        self.commit(deploy(&self.registry, &deployment(number, audience), request))
    }

    fn rollback(&mut self, tenants: &[&str]) -> Result<Decision, Refusal> {
        let request = self.request();
        let tenants = tenants.iter().map(|tenant| TenantId::new(*tenant)).collect();
        self.commit(rollback(&self.registry, &tenants, request))
    }

    fn automatic_rollback(&mut self, number: u8, scope: &Scope) -> Result<Decision, Refusal> {
        let offset = self.registry.routed().find(|route| route.scope == *scope).map(|route| route.offset);
        let offset = offset.ok_or(Refusal::Stale)?;
        let request = self.request();
        self.commit(automatic_rollback(&self.registry, &digest(number), offset, request))
    }

    fn status(&mut self, instance: &str, status: &HostStatus) {
        self.write(&[ControlRecord::json(Key::Host(instance.into()), status)]);
    }

    /// The release of each route.
    fn routes(&self) -> BTreeMap<String, u8> {
        self.registry
            .routed()
            .map(|RouteEntry { scope, value, .. }| (scope.to_string(), value.route().release.bytes()[0]))
            .collect()
    }

    /// All routes without their gates and offsets.
    fn values(&self) -> BTreeMap<Scope, RouteValue> {
        self.registry.routed().map(|RouteEntry { scope, value, .. }| (scope, value.ungated())).collect()
    }
}

fn digest(number: u8) -> Digest {
    Digest::new([number; 32])
}

/// A deployment. Release 9 has another state version than the others, and can take over theirs.
fn deployment(number: u8, audience: Audience) -> Deployment<'static> {
    static BYTES: [u8; CHUNK_BYTES + 1] = [7; CHUNK_BYTES + 1];
    let manifest = Manifest {
        name: "plugin".into(),
        version: format!("{number}.0.0"),
        consumes: vec!["IN".into()],
        produces: vec![],
        lookups: vec![],
        state_version: if number == 9 { 2 } else { 1 },
    };
    let record = ReleaseRecord {
        manifest,
        migrates: if number == 9 { vec![1] } else { vec![] },
        size: BYTES.len() as u64,
        chunks: ReleaseRecord::chunks_of(BYTES.len()),
        signature: None,
        actor: Actor::default(),
    };
    Deployment { release: digest(number), artifact: &BYTES, record, audience, gate: Some(Gate::default()) }
}

fn tenants(names: &[&str]) -> Audience {
    Audience::Tenants(names.iter().map(|name| TenantId::new(*name)).collect())
}

fn percent(text: &str) -> Audience {
    Audience::Percent(text.parse().unwrap())
}

fn tenant(name: &str) -> Scope {
    Scope::Tenant(TenantId::new(name))
}

fn route(registry: &RegistryState, scope: &Scope) -> Route {
    registry.route(scope).unwrap().route().clone()
}

#[test]
fn a_deployment_writes_chunks_once_then_the_release_the_routes_and_the_change() {
    let mut topic = Topic::default();
    let first = topic.deploy(1, Audience::Default).unwrap();
    let keys: Vec<_> =
        first.writes.iter().map(|write| write.key.to_string().replace(&digest(1).to_string(), "1")).collect();
    assert_eq!(keys, ["artifact/1/0", "artifact/1/1", "release/1", "route/default", "change/c1"]);
    assert_eq!(topic.registry.chunks(&digest(1)), Some(vec![0.into(), 1.into()]));
    assert_eq!(first.writes[1].value.as_ref().map(Vec::len), Some(1));
    assert_eq!(topic.registry.routes().default.offset, Some(3.into()));

    let again = topic.deploy(1, tenants(&["a"])).unwrap();
    assert_eq!(again.writes.len(), 3, "its chunks are there: {again:?}");
    assert_eq!(topic.registry.history().iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), ["c1", "c2"]);
    assert_eq!(topic.registry.releases()[&digest(1)].offset, 5.into(), "the record's own");
}

#[test]
fn an_artifact_that_is_deployed_again_without_its_signature_keeps_it() {
    let mut topic = Topic::default();
    for (signature, audience) in [(Some("signed"), Audience::Default), (None, tenants(&["a"]))] {
        let mut deployment = deployment(1, audience);
        deployment.record.signature = signature.map(str::to_owned);
        let request = topic.request();
        let decision = deploy(&topic.registry, &deployment, request);
        topic.commit(decision).unwrap();
        assert_eq!(topic.registry.release(&digest(1)).unwrap().signature.as_deref(), Some("signed"));
    }
}

#[test]
fn a_release_goes_back_to_what_its_tenants_ran_before() {
    let mut topic = Topic::default();
    topic.deploy(1, Audience::Default).unwrap();
    assert_eq!(route(&topic.registry, &Scope::Default).previous, None);
    topic.deploy(2, Audience::Default).unwrap();
    topic.deploy(3, percent("50")).unwrap();
    topic.deploy(4, tenants(&["a"])).unwrap();
    topic.deploy(5, tenants(&["a"])).unwrap();
    for (scope, previous) in [(Scope::Default, 1), (Scope::Percentage, 2), (tenant("a"), 4)] {
        assert_eq!(route(&topic.registry, &scope).previous, Some(digest(previous)), "{scope}");
    }
    let applying = |topic: &Topic, name: &str| topic.registry.scope_of(&TenantId::new(name));
    assert_eq!(applying(&topic, "a"), Some(tenant("a")));
    let scopes: std::collections::BTreeSet<_> = ('b'..'z').map(|name| applying(&topic, &name.to_string())).collect();
    assert_eq!(scopes, [Some(Scope::Default), Some(Scope::Percentage)].into());
    assert_eq!(applying(&Topic::default(), "a"), None);
    topic.deploy(3, percent("60")).unwrap();
    assert_eq!(route(&topic.registry, &Scope::Percentage).previous, Some(digest(2)), "more of them run the same");
    let refused = topic.deploy(2, percent("10")).unwrap_err();
    assert!(matches!(refused, Refusal::AlreadyDefault(_)), "{refused}");
    topic.deploy(3, Audience::Default).unwrap();
    assert_eq!(
        topic.routes(),
        [("default".into(), 3), ("tenant/a".into(), 5)].into(),
        "all run it, no percentage is left"
    );
}

#[test]
fn a_state_version_that_cannot_be_taken_over_is_refused() {
    let mut topic = Topic::default();
    topic.deploy(1, Audience::Default).unwrap();
    topic.deploy(9, tenants(&["a"])).unwrap();
    let before = topic.log.len();
    let refused = topic.deploy(2, tenants(&["b", "a"])).unwrap_err().to_string();
    assert!(refused.contains("plugin 2.0.0") && refused.contains("migrates from version 2"), "{refused}");
    assert_eq!(topic.log.len(), before, "nothing was written");
    topic.deploy(2, tenants(&["b"])).unwrap();
    let request = topic.request();
    let refused = set_routes(&topic.registry, digest(1), &tenants(&["a"]), None, request).unwrap_err();
    assert!(matches!(refused, Refusal::StateVersion { version: 1, former: 2, .. }), "{refused}");
    let request = topic.request();
    let cleared = clear_routes(&topic.registry, &[tenant("a"), tenant("b")].into(), request).unwrap();
    let [warning] = &cleared.warnings[..] else { panic!("{:?}", cleared.warnings) };
    assert!(
        warning.contains("tenant/a: tenants") && warning.contains("plugin 1.0.0 (010101010101) cannot"),
        "{warning}"
    );
    let back = topic.rollback(&["a"]).unwrap();
    assert_eq!(back.warnings, cleared.warnings, "what a pin is taken away from runs what is left");
}

#[test]
fn a_state_version_that_a_host_reports_counts_like_that_of_a_route() {
    let runs = |number, names: &[&str]| Running {
        release: digest(number),
        state_version: (number == 77).then_some(7),
        count: 30,
        names: names.iter().map(|name| TenantId::new(*name)).collect(),
    };
    let mut topic = Topic::default();
    topic.deploy(1, Audience::Default).unwrap();
    topic.deploy(9, tenants(&["a"])).unwrap();
    topic.rollback(&[]).unwrap();
    topic.deploy(1, tenants(&["p"])).unwrap();
    let fallback = FallbackTenant { tenant: TenantId::new("a"), release: digest(9), reason: "why".into() };
    let says = |topic: &mut Topic, tenants: &[Running], fallback: &[FallbackTenant]| {
        let status = HostStatus { tenants: tenants.to_vec(), fallback: fallback.to_vec(), ..HostStatus::default() };
        topic.status("one", &status);
    };
    let refused =
        |topic: &Topic, number, audience| topic.clone().deploy(number, audience).err().map(|why| why.to_string());

    says(&mut topic, &[runs(1, &["b"])], &[fallback]);
    let why = refused(&topic, 2, Audience::Default).unwrap();
    assert!(why.contains("plugin 9.0.0 (090909090909), which the tenant a runs, has 2"), "{why}");
    assert!(refused(&topic, 2, tenants(&["a"])).is_some());
    assert!(refused(&topic, 2, percent("100")).is_some());
    assert_eq!(refused(&topic, 2, tenants(&["b"])), None, "that is not its tenant");
    assert_eq!(refused(&topic, 9, Audience::Default), None, "it runs it already");
    // With a pin it is not one of the default's tenants.
    topic.deploy(9, tenants(&["a"])).unwrap();
    assert_eq!(refused(&topic, 2, Audience::Default), None);

    // The artifact of the config file has no record.
    says(&mut topic, &[runs(77, &["b", "c"])], &[]);
    let why = refused(&topic, 2, Audience::Default).unwrap();
    assert!(why.contains("4d4d4d4d4d4d, which the tenant b runs, has 7"), "{why}");
    says(&mut topic, &[runs(77, &["p", "a"])], &[]);
    assert_eq!(refused(&topic, 2, Audience::Default), None, "these have routes of their own");
    assert_eq!(refused(&topic, 2, percent("100")), None);

    // The status of a dead host says nothing about what its tenants run now.
    says(&mut topic, &[runs(77, &["b"])], &[]);
    let beyond = HostStatus::ALIVE.as_secs();
    for _ in 0..beyond {
        topic.status("two", &HostStatus::default());
    }
    assert_eq!(refused(&topic, 2, Audience::Default), None);
}

#[test]
fn a_rollback_warns_of_tenants_that_cannot_go_back() {
    let mut topic = Topic::default();
    topic.deploy(1, Audience::Default).unwrap();
    topic.deploy(9, Audience::Default).unwrap();
    let back = topic.rollback(&[]).unwrap();
    assert!(back.warnings[0].contains("version 2 go on with plugin 9.0.0"), "{:?}", back.warnings);
}

#[test]
fn rollbacks_go_back_change_by_change_and_never_undo_one_another() {
    let mut topic = Topic::default();
    topic.deploy(1, Audience::Default).unwrap();
    topic.deploy(2, percent("10")).unwrap();
    topic.deploy(2, Audience::Default).unwrap();
    topic.rollback(&[]).unwrap();
    assert_eq!(topic.routes(), [("default".into(), 1), ("percentage".into(), 2)].into());
    topic.rollback(&[]).unwrap();
    topic.rollback(&[]).unwrap();
    assert_eq!(topic.routes(), [].into());
    assert!(matches!(topic.rollback(&[]), Err(Refusal::NothingToUndo { .. })));
}

#[test]
fn the_rollback_of_a_tenant_touches_no_other() {
    let mut topic = Topic::default();
    topic.deploy(1, tenants(&["a", "b"])).unwrap();
    topic.deploy(2, tenants(&["b"])).unwrap();
    topic.deploy(3, Audience::Default).unwrap();
    topic.rollback(&["a", "b"]).unwrap();
    assert_eq!(topic.routes(), [("default".into(), 3), ("tenant/b".into(), 1)].into());
    assert!(topic.rollback(&["a"]).unwrap_err().to_string().contains("tenant a"));
    topic.rollback(&[]).unwrap();
    topic.rollback(&[]).unwrap();
    assert_eq!(topic.routes(), [].into(), "what was left of the first change");
}

#[test]
fn a_rollback_leaves_a_route_that_was_changed_since() {
    let mut topic = Topic::default();
    topic.deploy(1, tenants(&["a", "b"])).unwrap();
    let foreign = Route { release: digest(7), previous: None, gate: None };
    topic.write(&[ControlRecord::json(Key::Route(tenant("a")), &foreign)]);
    topic.rollback(&[]).unwrap();
    assert_eq!(topic.routes(), [("tenant/a".into(), 7)].into());
}

#[test]
fn a_failing_release_is_rolled_back_with_all_routes_of_its_deployment() {
    let mut topic = Topic::default();
    topic.deploy(1, Audience::Default).unwrap();
    topic.deploy(2, tenants(&["c"])).unwrap();
    topic.deploy(3, tenants(&["a", "b", "c"])).unwrap();
    topic.deploy(4, tenants(&["b"])).unwrap();
    let back = topic.automatic_rollback(3, &tenant("a")).unwrap();
    assert_eq!(back.change.kind, ChangeKind::AutomaticRollback);
    // `a` had no pin and runs the default again, `b` has been given another release, `c` goes back to its own.
    assert_eq!(topic.routes(), [("default".into(), 1), ("tenant/b".into(), 4), ("tenant/c".into(), 2)].into());
    assert_eq!(route(&topic.registry, &tenant("c")).gate, None, "it has proven itself");
    assert_eq!(topic.automatic_rollback(3, &tenant("a")), Err(Refusal::Stale), "a second host comes too late");

    topic.deploy(5, percent("5")).unwrap();
    topic.automatic_rollback(5, &Scope::Percentage).unwrap();
    topic.deploy(6, Audience::Default).unwrap();
    topic.automatic_rollback(6, &Scope::Default).unwrap();
    assert_eq!(topic.routes(), [("default".into(), 1), ("tenant/b".into(), 4), ("tenant/c".into(), 2)].into());
    topic.automatic_rollback(1, &Scope::Default).unwrap();
    assert_eq!(topic.routes().get("default"), None, "to what hosts have on file");
}

#[test]
fn a_pin_goes_back_to_the_release_it_had_though_the_default_has_moved_on() {
    let mut topic = Topic::default();
    topic.deploy(1, Audience::Default).unwrap();
    topic.deploy(2, tenants(&["a"])).unwrap();
    topic.deploy(3, Audience::Default).unwrap();
    topic.automatic_rollback(2, &tenant("a")).unwrap();
    assert_eq!(topic.routes().get("tenant/a"), Some(&1));
}

#[test]
fn pruning_keeps_the_newest_and_all_that_is_in_use() {
    let mut topic = Topic::default();
    for number in 1..=8 {
        topic.deploy(number, Audience::Default).unwrap();
    }
    let running = Running { release: digest(2), state_version: None, count: 1, names: vec![] };
    topic.status("one", &HostStatus { tenants: vec![running], ..HostStatus::default() });
    let request = topic.request();
    let decision = topic.commit(Ok(prune(&topic.registry, 3, topic.registry.newest().unwrap(), request))).unwrap();
    let left: Vec<_> = topic.registry.releases().keys().map(|release| release.bytes()[0]).collect();
    assert_eq!(left, [2, 6, 7, 8]);
    assert_eq!(decision.change.releases, [5, 4, 3, 1].map(digest));
    assert_eq!(topic.registry.chunks(&digest(1)), None);
    assert!(topic.registry.chunks(&digest(2)).is_some());
    let request = topic.request();
    assert_eq!(prune(&topic.registry, 3, topic.registry.newest().unwrap(), request).writes, []);
    // The host has written no status for a day: what it ran does not matter any more.
    let request = topic.request();
    let later = topic.registry.newest().unwrap().saturating_add(Duration::from_hours(25));
    topic.commit(Ok(prune(&topic.registry, 0, later, request))).unwrap();
    let left: Vec<_> = topic.registry.releases().keys().map(|release| release.bytes()[0]).collect();
    assert_eq!((left, topic.registry.hosts().len()), (vec![7, 8], 0), "the default and what it replaced");
    for _ in 0..2 {
        topic.rollback(&[]).ok();
    }
    assert!(matches!(topic.rollback(&[]), Err(Refusal::Gone(_))), "6 was removed");
}

#[test]
fn topics_of_other_hosts_files_and_fallbacks_are_consumed_for_them() {
    let on_file = |alias: &str| HostStatus {
        on_file: Some(digest(77)),
        on_file_consumes: vec!["IN".into(), alias.into()],
        ..HostStatus::default()
    };
    let cannot_run = |number, status| HostStatus {
        releases: vec![
            LoadedRelease { digest: digest(77), state: LoadState::Ready },
            LoadedRelease { digest: digest(number), state: LoadState::Failed { reason: "why".into() } },
        ],
        ..status
    };
    let elsewhere = |topic: &Topic, instance: &str| topic.registry.consumed_elsewhere(instance);
    let aliases = |aliases: &[&str]| aliases.iter().map(|alias| (*alias).to_owned()).collect::<BTreeSet<_>>();
    let mut topic = Topic::default();
    topic.status("one", &on_file("ONE"));
    topic.status("two", &on_file("TWO"));
    assert_eq!(elsewhere(&topic, "one"), aliases(&["IN", "TWO"]), "not the host's own");
    assert_eq!(elsewhere(&topic, "three"), aliases(&["IN", "ONE", "TWO"]));

    // A host that has stopped has removed its status. One that has died may come back.
    topic.write(&[ControlRecord::tombstone(Key::Host("two".into()))]);
    for _ in 0..HostStatus::ALIVE.as_secs() {
        topic.status("three", &HostStatus::default());
    }
    assert_eq!(elsewhere(&topic, "three"), aliases(&["IN", "ONE"]));

    // With a default the release of a file is only a fallback.
    let mut deployed = deployment(1, Audience::Default);
    deployed.record.manifest.consumes = vec!["FIRST".into()];
    let request = topic.request();
    let decision = deploy(&topic.registry, &deployed, request);
    topic.commit(decision).unwrap();
    assert_eq!(elsewhere(&topic, "three"), aliases(&[]));
    topic.status("one", &cannot_run(1, on_file("ONE")));
    assert_eq!(elsewhere(&topic, "three"), aliases(&["IN", "ONE"]), "it runs its file instead");
    topic.deploy(2, Audience::Default).unwrap();
    assert_eq!(elsewhere(&topic, "three"), aliases(&[]), "it can run the second, as far as is known");
    topic.status("one", &cannot_run(2, on_file("ONE")));
    assert_eq!(elsewhere(&topic, "three"), aliases(&["FIRST"]), "it runs the first instead");
    topic.status("one", &on_file("ONE"));
    topic.write(&[ControlRecord::tombstone(Key::Route(Scope::Default))]);
    assert_eq!(elsewhere(&topic, "three"), aliases(&["IN", "ONE"]));
}

#[test]
fn a_release_is_found_by_its_digits_or_its_name() {
    let mut topic = Topic::default();
    topic.deploy(0xab, Audience::Default).unwrap();
    topic.deploy(0xac, Audience::Default).unwrap();
    let registry = &topic.registry;
    assert_eq!(registry.find("ABab"), Ok(digest(0xab)));
    assert_eq!(registry.find("plugin@172.0.0"), Ok(digest(0xac)));
    for text in ["aba", "abac", "plugin", "plugin@1", "", "@"] {
        assert_eq!(registry.find(text), Err(FindError::Unknown(text.into())));
    }
    let mut twin = deployment(0xac, Audience::Default).record;
    twin.manifest.version = "171.0.0".into();
    topic.write(&[ControlRecord::json(Key::Release(digest(1)), &twin)]);
    let error = topic.registry.find("plugin@171.0.0").unwrap_err().to_string();
    assert!(error.contains("010101010101 or abababababab"), "{error}");
}

#[test]
fn a_record_that_cannot_be_read_is_reported_and_removes_the_value_of_its_key() {
    let mut topic = Topic::default();
    topic.deploy(1, Audience::Default).unwrap();
    let registry = &mut topic.registry;
    let time = Timestamp::from_millis(0);
    let malformed = registry.apply(90.into(), time, b"route/default", Some(b"{")).unwrap_err();
    assert_eq!((malformed.key.as_str(), registry.routes().default.offset), ("route/default", Some(90.into())));
    assert_eq!(registry.route(&Scope::Default), None);
    registry.apply(91.into(), time, b"nonsense", Some(b"")).unwrap_err();
    registry.apply(92.into(), time, b"change/c1", Some(b"[]")).unwrap_err();
    assert_eq!(registry.history().len(), 0);
    registry.apply(93.into(), time, b"host/x", Some(br#"{"instance":"x","host":"n","started":1,"read":2}"#)).unwrap();
    assert_eq!(registry.hosts()["x"].status.read, 2.into());
}
