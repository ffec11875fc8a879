//! The checker accepts a faultless run, and finds every violation that a test plants into it.

use std::time::{Duration, Instant};

use switchboard_core::record::{ControlPosition, Offset, Timestamp, TopicId};

use super::*;
use crate::soak::versions::Versions;

const RELEASES: usize = 3;

fn digest(release: usize) -> Digest {
    Digest::new([u8::try_from(release).unwrap(); 32])
}

/// A change of routes, which sets or clears each of them. Its records begin at `offset`.
fn change(versions: &mut Versions, offset: u32, routes: &[(&str, Option<usize>)]) {
    let timestamp = Timestamp::from_millis(i64::from(offset) * 100);
    let mut at = Offset::from(offset);
    for (scope, release) in routes {
        let value = release.map(|release| match *scope {
            "percentage" => serde_json::json!({ "release": digest(release), "percent": "50" }),
            _ => serde_json::json!({ "release": digest(release) }),
        });
        let value = value.map(|value| value.to_string().into_bytes());
        versions.apply(at, timestamp, format!("route/{scope}").as_bytes(), value.as_deref()).unwrap();
        at = at.next();
    }
    let entry = br#"{"kind":"route-set","actor":{"user":"u","host":"h"}}"#;
    versions.apply(at, timestamp, format!("change/{offset}").as_bytes(), Some(entry)).unwrap();
}

/// The evidence of a faultless run. Between any two changes of routes each tenant has some outputs. After the third
/// change the test waited for all hosts.
fn faultless() -> Evidence {
    let mut versions = Versions::default();
    change(&mut versions, 10, &[("default", Some(1))]);
    change(&mut versions, 20, &[("tenant/tenant-7", Some(2)), ("tenant/tenant-8", Some(0))]);
    change(&mut versions, 30, &[("default", Some(0)), ("percentage", Some(2))]);
    change(&mut versions, 40, &[("default", None), ("percentage", None), ("tenant/tenant-7", None)]);
    change(&mut versions, 50, &[("default", Some(2))]);
    let versions = versions.list;
    let releases: Vec<_> = (0..RELEASES).map(digest).collect();
    let mut evidence = Evidence {
        sent: 0,
        outputs: vec![Vec::new(); TENANTS],
        versions: versions.clone(),
        releases: releases.clone(),
        base: 0,
        awaited: Vec::new(),
        last_runs: BTreeMap::new(),
    };
    for version in &versions {
        for input in inputs().skip(usize::try_from(evidence.sent).unwrap()).take(5 * TENANTS) {
            let outputs = &mut evidence.outputs[input.tenant()];
            let resolved = version.table.resolve(&TenantId::new(name(input.tenant())));
            let digest = resolved.route.map_or(releases[0], |route| route.release);
            let release = releases.iter().position(|release| *release == digest).unwrap();
            let number = outputs.len() as u64 + 1;
            let before = outputs.last().map_or(0, |output| output.hash);
            let hash = ledger::hash(before, number, &input.0.to_string());
            let timestamp = version.timestamp.unwrap_or_default().saturating_add(Duration::from_millis(1));
            outputs.push(Output { id: input.0, number, hash, release, timestamp, at: Instant::now() });
            let route = resolved.offset.map(|offset| ControlPosition { topic: Some(TopicId::new(1)), offset });
            evidence.last_runs.insert(input.tenant(), LastRun { release: digest, state_version: 1, route });
            evidence.sent = input.0 + 1;
        }
        if version.offset == Some(32.into()) {
            evidence.awaited.push(Awaited { id: evidence.sent - 5 * TENANTS as u64, change: 32.into() });
        }
    }
    evidence
}

/// Checks a faultless run after `plant` has changed it.
fn planted(plant: impl FnOnce(&mut Evidence)) -> Violations {
    let mut evidence = faultless();
    plant(&mut evidence);
    check(&evidence)
}

#[test]
fn a_faultless_run_is_accepted() {
    assert_eq!(planted(|_| ()), Violations::default());
}

#[test]
fn a_tenant_may_skip_versions_and_be_late() {
    // The tenant had no input while its route named release 1, and runs release 0 until the last version.
    let late = planted(|evidence| {
        evidence.awaited.clear();
        evidence.outputs[3].iter_mut().for_each(|output| output.release = if output.id < 2500 { 0 } else { 2 });
    });
    assert_eq!(late, Violations::default());
}

#[test]
fn an_output_by_a_release_that_the_tenant_never_had_is_found() {
    assert_eq!(planted(|evidence| evidence.outputs[8][7].release = 2).count("wrong release"), 1);
    assert_eq!(planted(|evidence| evidence.outputs[8][7].release = 9).count("wrong release"), 1);
}

#[test]
fn a_tenant_that_returns_to_older_routes_is_found() {
    // Without the wait all its outputs could be late, but none may be early and then late.
    let back = planted(|evidence| {
        evidence.awaited.clear();
        evidence.outputs[7][11].release = 1;
    });
    assert_eq!(back.count("wrong release"), 1);
}

#[test]
fn a_release_that_runs_before_its_route_exists_is_found() {
    let early = planted(|evidence| evidence.outputs[3][4].release = 1);
    assert_eq!(early.count("wrong release"), 1);
    // The outputs after it are right.
    assert_eq!(early.summary().len(), 1);
}

#[test]
fn older_routes_after_a_wait_for_all_hosts_are_found() {
    let late = |evidence: &mut Evidence| evidence.outputs[9][15].release = 1;
    assert_eq!(planted(late).count("wrong release"), 1);
    // The first of the five inputs of version 3 is handled by the routes of version 2.
    let allowed = planted(|evidence| {
        evidence.awaited.clear();
        late(evidence);
    });
    assert_eq!(allowed, Violations::default());
}

#[test]
fn losses_and_repetitions_are_found() {
    let lost = planted(|evidence| _ = evidence.outputs[5].remove(8));
    assert_eq!(lost.count("lost"), 1);
    assert!(lost.count("wrong state") > 0);
    let last = planted(|evidence| _ = evidence.outputs[5].pop());
    assert_eq!(last.count("lost"), 1);
    let twice = planted(|evidence| {
        let again = evidence.outputs[5][8];
        evidence.outputs[5].insert(9, again);
    });
    assert_eq!((twice.count("settled twice"), twice.count("out of order")), (1, 1));
    assert_eq!(planted(|evidence| evidence.sent += 1).count("lost"), 1);
    assert_eq!(planted(|evidence| evidence.sent -= 1).count("settled twice"), 1);
}

#[test]
fn overtaking_and_state_from_another_history_are_found() {
    let overtaken = planted(|evidence| {
        let outputs = &mut evidence.outputs[5];
        let pair = (1..outputs.len()).find_map(|later| {
            let same =
                |earlier: &usize| Input(outputs[*earlier].id).partition() == Input(outputs[later].id).partition();
            Some(((0..later).find(same)?, later))
        });
        let (earlier, later) = pair.unwrap();
        let id = outputs[earlier].id;
        outputs[earlier].id = std::mem::replace(&mut outputs[later].id, id);
    });
    assert_eq!(overtaken.count("out of order"), 1);
    assert!(overtaken.count("wrong state") > 0);
    assert_eq!(planted(|evidence| evidence.outputs[5][8].number += 1).count("wrong state"), 1);
    assert!(planted(|evidence| evidence.outputs[5][8].hash += 1).count("wrong state") > 0);
    let swapped = planted(|evidence| evidence.outputs.swap(5, 6));
    assert!(swapped.count("wrong output") > 0);
}

#[test]
fn a_wrong_last_run_entry_is_found() {
    assert_eq!(planted(|evidence| _ = evidence.last_runs.remove(&4)).count("wrong entry"), 1);
    assert_eq!(planted(|evidence| evidence.last_runs.get_mut(&4).unwrap().release = digest(0)).count("wrong entry"), 1);
    let earlier = |evidence: &mut Evidence| {
        let route = evidence.last_runs.get_mut(&4).unwrap().route.as_mut().unwrap();
        route.offset = (route.offset.get() - 1).try_into().unwrap();
    };
    assert_eq!(planted(earlier).count("wrong entry"), 1);
    assert_eq!(planted(|evidence| evidence.last_runs.get_mut(&4).unwrap().state_version = 2).count("wrong entry"), 1);
}
