//! Runners that are lent: on other threads, dropped, while routings change.

use std::sync::Arc;
use std::thread;

use switchboard_core::record::{Coordinates, Headers, Record, Tenant, TenantId};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, Outcome, Plugins as _, Runner as _};
use switchboard_sandbox::{Artifact, InstancePool, Limits, RoutingSnapshot, RoutingWatch, Sandbox, TenantRunner};

use crate::handmade::Handmade;
use crate::support::{hostile, log_of};

fn tenant(id: &str) -> Tenant {
    Tenant { id: TenantId::new(id), headers: Headers::new(), texts: vec![] }
}

/// Has the runner of a tenant handle a message, without state before it.
fn handle(runner: &mut TenantRunner, artifact: &Artifact, id: &str, value: &str) -> Outcome {
    let record = Record { value: Some(value.into()), ..Record::default() };
    let source = Coordinates { topic: "IN".into(), partition: 0.into(), offset: 0.into() };
    let call = Call { tenant: &tenant(id), record: &record, origin: &source };
    runner.handle(artifact.release(), call, &mut TenantState::default(), &Answers::default())
}

/// The value of the only output of the hostile plugin.
fn says(runner: &mut TenantRunner, id: &str, value: &str) -> String {
    let Outcome::Outputs(outputs) = handle(runner, hostile(), id, value) else { panic!("{value}") };
    String::from_utf8(outputs[0].value.clone().unwrap()).unwrap()
}

/// Lends a runner, has it say something, and gives it back.
fn says_once(pool: &mut InstancePool, id: &str, value: &str) -> String {
    let mut runner = pool.lend(&TenantId::new(id));
    let said = says(&mut runner, id, value);
    pool.give_back(&TenantId::new(id), runner);
    said
}

fn pool(change: impl Fn(&mut Limits)) -> InstancePool {
    let mut limits = Limits::default();
    change(&mut limits);
    InstancePool::new(Arc::clone(hostile()), limits)
}

#[test]
fn an_instance_stays_warm_from_thread_to_thread() {
    let mut pool = pool(|_| ());
    let id = TenantId::new("t");
    for calls in 0..3 {
        let mut runner = pool.lend(&id);
        let on_a_thread = move || {
            let said = says(&mut runner, "t", "calls");
            (runner, said)
        };
        let (runner, said) = thread::spawn(on_a_thread).join().unwrap();
        assert_eq!(said, calls.to_string());
        pool.give_back(&id, runner);
    }
    assert_eq!(pool.warm(), 1);
}

#[test]
fn runners_of_many_tenants_run_at_a_time_within_the_limits() {
    let by_number = pool(|limits| limits.warm_instances = 3);
    // 3 instances that have grown by 3 MiB each are within this limit, 4 are not.
    let by_bytes = pool(|limits| limits.warm_memory_bytes = 10 << 20);
    for mut pool in [by_number, by_bytes] {
        for round in 0..3 {
            let tenants: Vec<_> = (0..12).map(|number| number.to_string()).collect();
            let mut runners: Vec<_> = tenants.iter().map(|id| (id, pool.lend(&TenantId::new(id.as_str())))).collect();
            thread::scope(|scope| {
                for part in runners.chunks_mut(3) {
                    scope.spawn(|| part.iter_mut().for_each(|(id, runner)| assert_eq!(says(runner, id, "leak 3"), "")));
                }
            });
            assert!((1..=3).contains(&pool.warm()), "round {round}: {} warm instances are lent", pool.warm());
            for (id, runner) in runners {
                pool.give_back(&TenantId::new(id.as_str()), runner);
            }
            assert!(pool.warm() <= 3, "round {round}: {} warm instances are idle", pool.warm());
        }
    }
}

#[test]
fn an_idle_instance_makes_room_for_that_of_a_lent_runner() {
    let mut pool = pool(|limits| limits.warm_instances = 2);
    let (a, b) = (TenantId::new("a"), TenantId::new("b"));
    says_once(&mut pool, "idle", "calls");
    let (mut first, mut second) = (pool.lend(&a), pool.lend(&b));
    assert_eq!([says(&mut first, "a", "calls"), says(&mut second, "b", "calls")], ["0", "0"]);
    assert_eq!(pool.warm(), 2, "the idle one is gone");
    assert_eq!(says_once(&mut pool, "c", "calls"), "0");
    assert_eq!(pool.warm(), 2, "no idle one is left, so the newest one went");
    assert_eq!([says(&mut first, "a", "calls"), says(&mut second, "b", "calls")], ["1", "1"]);
    pool.give_back(&b, second);
    pool.give_back(&a, first);
    assert_eq!(["a", "b", "c", "a"].map(|id| says_once(&mut pool, id, "calls")), ["2", "2", "0", "0"]);
}

#[test]
fn a_dropped_runner_counts_no_longer() {
    let mut pool = pool(|limits| limits.warm_memory_bytes = 100 << 20);
    let id = TenantId::new("t");
    says_once(&mut pool, "other", "leak 10");
    says_once(&mut pool, "t", "leak 10");
    for _ in 0..5 {
        let mut runner = pool.lend(&id);
        says(&mut runner, "t", "leak 30");
        assert_eq!(pool.warm(), 2);
        // As the worker does when what the runner has seen is dropped.
        pool.discard(&id);
        drop(runner);
        assert_eq!(pool.warm(), 1);
    }
    assert_eq!(says_once(&mut pool, "t", "calls"), "0", "its instance is a fresh one");
    assert_eq!(says_once(&mut pool, "other", "calls"), "1", "there was room enough all the time");
}

#[test]
fn the_pool_may_end_before_its_runners() {
    let mut pool = pool(|_| ());
    let mut runner = pool.lend(&TenantId::new("t"));
    drop(pool);
    assert_eq!(says(&mut runner, "t", "calls"), "0");
}

#[test]
fn a_log_budget_is_lent_with_its_runner_and_comes_back() {
    let lines = log_of(|| {
        let mut pool = pool(|limits| limits.log_lines_per_second = 10);
        for _ in 0..3 {
            says_once(&mut pool, "t", "log 1000");
            pool.discard(&TenantId::new("t"));
        }
    });
    // 3,000 without a limit. The budget fills up while the test runs: 10 lines a second.
    assert!((10..500).contains(&lines.len()), "{}", lines.len());
}

#[test]
#[should_panic(expected = "the runner of tenant t was called for tenant u")]
fn a_runner_runs_no_other_tenant() {
    let mut runner = pool(|_| ()).lend(&TenantId::new("t"));
    says(&mut runner, "u", "calls");
}

#[test]
fn a_runner_uses_the_routing_of_the_time_when_it_was_lent() {
    let sandbox = Sandbox::new(Limits::default()).unwrap();
    let release = |name| Arc::new(sandbox.load(&Handmade { name, ..Handmade::default() }.build()).unwrap());
    let (old, new) = (release("old"), release("new"));
    let watch = RoutingWatch::new(RoutingSnapshot::fixed(Arc::clone(&old)));
    let mut pool = InstancePool::subscribed(&watch, Limits::default());
    assert!(pool.routing().is_some());
    let (a, b) = (TenantId::new("a"), TenantId::new("b"));
    let (mut first, mut second) = (pool.lend(&a), pool.lend(&b));
    let succeeds = |runner: &mut TenantRunner, artifact: &Artifact, id| {
        assert_eq!(handle(runner, artifact, id, "x"), Outcome::Outputs(vec![]));
    };
    succeeds(&mut first, &old, "a");
    watch.publish(RoutingSnapshot::fixed(Arc::clone(&new)));
    assert!(pool.routing().is_some());
    // The worker has another routing by now.
    succeeds(&mut first, &old, "a");
    succeeds(&mut second, &old, "b");
    assert_eq!(pool.warm(), 2);
    pool.give_back(&a, first);
    assert_eq!(pool.warm(), 1, "no routing has its release, so it is not kept");
    let mut first = pool.lend(&a);
    succeeds(&mut first, &new, "a");
    pool.give_back(&a, first);
    drop(second);
    assert_eq!(pool.warm(), 1);
    // The old release is held by nobody any more.
    let old = Arc::into_inner(old);
    assert!(old.is_some());
}
