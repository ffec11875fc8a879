//! Properties that hold after any sequence of commands.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A command of a random sequence.
#[derive(Debug, Clone)]
enum Step {
    Deploy(u8, Audience),
    Set(u8, Audience),
    Clear(Scope),
    Rollback(BTreeSet<TenantId>),
    Automatic(Scope),
    Prune(usize),
}

fn audience() -> impl Strategy<Value = Audience> {
    prop_oneof![
        Just(Audience::Default),
        prop_oneof![Just("5"), Just("50")].prop_map(percent),
        prop_oneof![Just(tenants(&["a"])), Just(tenants(&["b"])), Just(tenants(&["a", "b"]))],
    ]
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![Just(Scope::Default), Just(Scope::Percentage), Just(tenant("a")), Just(tenant("b"))]
}

fn forward() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..6_u8, audience()).prop_map(|(number, audience)| Step::Deploy(number, audience)),
        (1..6_u8, audience()).prop_map(|(number, audience)| Step::Set(number, audience)),
        scope().prop_map(Step::Clear),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let some = prop_oneof![Just(vec![]), Just(vec!["a"]), Just(vec!["a", "b"])];
    prop_oneof![
        4 => forward(),
        1 => some.prop_map(|names| Step::Rollback(names.into_iter().map(TenantId::new).collect())),
        1 => scope().prop_map(Step::Automatic),
        1 => (0..4_usize).prop_map(Step::Prune),
    ]
}

/// Decides a step on this state.
fn decide(registry: &RegistryState, step: &Step, request: ChangeRequest) -> Result<Decision, Refusal> {
    match step {
        Step::Deploy(number, audience) => deploy(registry, &deployment(*number, audience.clone()), request),
        Step::Set(number, audience) => set_routes(registry, digest(*number), audience, None, request),
        Step::Clear(scope) => clear_routes(registry, &[scope.clone()].into(), request),
        Step::Rollback(tenants) => rollback(registry, tenants, request),
        Step::Automatic(scope) => {
            let set = registry.routed().find(|route| route.scope == *scope);
            let RouteEntry { value, offset, .. } = set.ok_or(Refusal::Stale)?;
            automatic_rollback(registry, &value.route().release, offset, request)
        }
        Step::Prune(keep) => Ok(prune(registry, *keep, registry.newest().unwrap_or_default(), request)),
    }
}

/// Takes a step, unless it is refused.
fn take(topic: &mut Topic, step: &Step) -> bool {
    let request = topic.request();
    topic.commit(decide(&topic.registry, step, request)).is_ok()
}

fn take_all(topic: &mut Topic, steps: &[Step]) {
    for step in steps {
        take(topic, step);
    }
}

/// The state of a reader that starts after compaction: the last record of each key, with or without tombstones.
fn compacted(topic: &Topic, tombstones: bool) -> RegistryState {
    let mut registry = RegistryState::default();
    let last: BTreeMap<_, _> = topic.log.iter().enumerate().map(|(position, (key, _))| (key, position)).collect();
    for (position, (key, value)) in topic.log.iter().enumerate() {
        if last[key] == position && (tombstones || value.is_some()) {
            let offset = Offset::try_from(position).unwrap();
            registry.apply(offset, second(offset), key.as_bytes(), value.as_deref()).unwrap();
        }
    }
    registry
}

proptest! {
    #[test]
    fn a_rollback_restores_the_routes_before_the_last_change(steps in prop::collection::vec(any_step(), 0..12), last in forward()) {
        let mut topic = Topic::default();
        take_all(&mut topic, &steps);
        let before = topic.values();
        if take(&mut topic, &last) && topic.values() != before {
            match topic.rollback(&[]) {
                Ok(_) => prop_assert_eq!(topic.values(), before),
                Err(refusal) => prop_assert!(matches!(refusal, Refusal::Gone(_)), "{}", refusal),
            }
        }
    }

    #[test]
    fn rollbacks_end_at_the_empty_topic(steps in prop::collection::vec(forward(), 0..12)) {
        let mut topic = Topic::default();
        take_all(&mut topic, &steps);
        while topic.rollback(&[]).is_ok() {}
        prop_assert_eq!(topic.values(), BTreeMap::new());
    }

    #[test]
    fn compaction_changes_nothing(steps in prop::collection::vec(any_step(), 0..16)) {
        let mut topic = Topic::default();
        take_all(&mut topic, &steps);
        prop_assert_eq!(&compacted(&topic, true), &topic.registry);
        let late = compacted(&topic, false);
        prop_assert_eq!(late.routed().collect::<Vec<_>>(), topic.registry.routed().collect::<Vec<_>>());
        prop_assert_eq!((late.releases(), late.history()), (topic.registry.releases(), topic.registry.history()));
        for release in late.releases().keys() {
            prop_assert!(late.chunks(release).is_some(), "a release has all of its chunks");
        }
        for RouteEntry { scope, value, .. } in late.routed() {
            prop_assert!(late.chunks(&value.route().release).is_some(), "{} names what is there", scope);
        }
    }

    #[test]
    fn of_two_concurrent_commands_the_fenced_one_decides_again_and_both_hold(
        steps in prop::collection::vec(any_step(), 0..8), one in forward(), other in forward(), swapped: bool,
    ) {
        let mut topic = Topic::default();
        take_all(&mut topic, &steps);
        let (first, second) = if swapped { (&other, &one) } else { (&one, &other) };
        // The second writer decided on the old state, was fenced before it wrote, and decides again.
        let fenced = topic.request();
        drop(decide(&topic.registry, second, fenced.clone()));
        let entries = topic.registry.history().len();
        let written = usize::from(take(&mut topic, first));
        let decided = topic.commit(decide(&topic.registry, second, fenced));
        let history = topic.registry.history();
        prop_assert_eq!(history.len(), entries + written + usize::from(decided.is_ok()));
        if let Ok(decided) = decided {
            prop_assert_eq!(&history.last().unwrap().change, &decided.change);
            for touched in &decided.change.routes {
                prop_assert_eq!(topic.registry.route(&touched.route), touched.after.clone(), "the later one holds");
            }
        }
    }
}
