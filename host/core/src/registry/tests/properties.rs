//! What holds after any sequence of commands.

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

/// Decides a step by what `control` says.
fn decide(control: &RegistryState, step: &Step, stamp: ChangeRequest) -> Result<Decision, Refusal> {
    match step {
        Step::Deploy(number, audience) => deploy(control, &deployment(*number, audience.clone()), stamp),
        Step::Set(number, audience) => set_routes(control, digest(*number), audience, None, stamp),
        Step::Clear(scope) => clear_routes(control, &[scope.clone()].into(), stamp),
        Step::Rollback(tenants) => rollback(control, tenants, stamp),
        Step::Automatic(scope) => {
            let set = control.routed().find(|(known, ..)| known == scope);
            let (_, value, offset) = set.ok_or(Refusal::Stale)?;
            automatic_rollback(control, &value.route().release, offset, stamp)
        }
        Step::Prune(keep) => Ok(prune(control, *keep, control.newest().unwrap_or_default(), stamp)),
    }
}

/// Takes a step, if it is not refused.
fn take(topic: &mut Topic, step: &Step) -> bool {
    let stamp = topic.stamp();
    topic.commit(decide(&topic.control, step, stamp)).is_ok()
}

fn take_all(topic: &mut Topic, steps: &[Step]) {
    for step in steps {
        take(topic, step);
    }
}

/// What a reader sees who comes after compaction: the last record of each key, tombstones still there or gone.
fn compacted(topic: &Topic, tombstones: bool) -> RegistryState {
    let mut control = RegistryState::default();
    let last: BTreeMap<_, _> = topic.log.iter().enumerate().map(|(place, (key, _))| (key, place)).collect();
    for (place, (key, value)) in topic.log.iter().enumerate() {
        if last[key] == place && (tombstones || value.is_some()) {
            let offset = Offset::try_from(place).unwrap();
            control.apply(offset, second(offset), key.as_bytes(), value.as_deref()).unwrap();
        }
    }
    control
}

proptest! {
    #[test]
    fn a_rollback_restores_what_was_whatever_came_before(steps in prop::collection::vec(any_step(), 0..12), last in forward()) {
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
    fn rollbacks_come_to_an_end_where_everything_began(steps in prop::collection::vec(forward(), 0..12)) {
        let mut topic = Topic::default();
        take_all(&mut topic, &steps);
        while topic.rollback(&[]).is_ok() {}
        prop_assert_eq!(topic.values(), BTreeMap::new());
    }

    #[test]
    fn compaction_changes_nothing(steps in prop::collection::vec(any_step(), 0..16)) {
        let mut topic = Topic::default();
        take_all(&mut topic, &steps);
        prop_assert_eq!(&compacted(&topic, true), &topic.control);
        let late = compacted(&topic, false);
        prop_assert_eq!(late.routed().collect::<Vec<_>>(), topic.control.routed().collect::<Vec<_>>());
        prop_assert_eq!((late.releases(), late.history()), (topic.control.releases(), topic.control.history()));
        for release in late.releases().keys() {
            prop_assert!(late.chunks(release).is_some(), "a release has all of its chunks");
        }
        for (scope, value, _) in late.routed() {
            prop_assert!(late.chunks(&value.route().release).is_some(), "{} names what is there", scope);
        }
    }

    #[test]
    fn of_two_at_once_the_one_that_is_fenced_decides_anew_and_both_stand(
        steps in prop::collection::vec(any_step(), 0..8), one in forward(), other in forward(), swapped: bool,
    ) {
        let mut topic = Topic::default();
        take_all(&mut topic, &steps);
        let (first, second) = if swapped { (&other, &one) } else { (&one, &other) };
        // The second one decided by what there was, was fenced before it wrote, and starts over.
        let fenced = topic.stamp();
        drop(decide(&topic.control, second, fenced.clone()));
        let entries = topic.control.history().len();
        let written = usize::from(take(&mut topic, first));
        let decided = topic.commit(decide(&topic.control, second, fenced));
        let history = topic.control.history();
        prop_assert_eq!(history.len(), entries + written + usize::from(decided.is_ok()));
        if let Ok(decided) = decided {
            prop_assert_eq!(&history.last().unwrap().change, &decided.change);
            for touched in &decided.change.routes {
                prop_assert_eq!(topic.control.route(&touched.route), touched.after.clone(), "the later one holds");
            }
        }
    }
}
