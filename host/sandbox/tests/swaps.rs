//! A swap frees the memory of the old release. This test has a process of its own, because it measures its memory.

use std::sync::Arc;

use switchboard_core::record::{Coordinates, Headers, Record, Tenant, TenantId};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, Outcome, Plugins as _, Runner as _};
use switchboard_sandbox::{Artifact, InstancePool, Limits, Sandbox};
use switchboard_sandbox::{RoutingSnapshot, RoutingWatch};

#[path = "sandbox/handmade.rs"]
#[allow(dead_code)]
mod handmade;

/// Resident bytes of this process, and its memory mappings.
fn memory() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: usize = resident.trim().trim_end_matches(" kB").parse().unwrap();
    (kilobytes << 10, std::fs::read_to_string("/proc/self/maps").unwrap().lines().count())
}

#[test]
fn a_thousand_swaps_use_no_more_memory() {
    let sandbox = Sandbox::new(Limits::default()).unwrap();
    let release = |number: usize| -> Arc<Artifact> {
        let items = format!("(global i32 (i32.const {number}))");
        Arc::new(sandbox.load(&handmade::Handmade { items, ..Default::default() }.build()).unwrap())
    };
    let first = release(0);
    let dropped = Arc::downgrade(&first);
    let watch = RoutingWatch::new(RoutingSnapshot::fixed(first));
    let mut instances = InstancePool::subscribed(&watch, Limits::default());
    let source = Coordinates { topic: "IN".into(), partition: 0.into(), offset: 0.into() };
    let tenants = [0, 1, 2, 3, 4, 5, 6, 7].map(|number: u8| {
        let id = TenantId::new(number.to_string());
        Tenant { id, headers: Headers::new(), texts: vec![] }
    });
    let mut swap = |number| {
        let next = release(number);
        watch.publish(RoutingSnapshot::fixed(Arc::clone(&next)));
        assert!(instances.routing().is_some());
        for tenant in &tenants {
            let call = Call { tenant, record: &Record::default(), origin: &source };
            let mut runner = instances.lend(&tenant.id);
            let outcome = runner.handle(next.release(), call, &mut TenantState::default(), &Answers::default());
            instances.give_back(&tenant.id, runner);
            assert!(matches!(outcome, Outcome::Outputs(_)), "{outcome:?}");
        }
    };
    (1..=100).for_each(&mut swap);
    assert_eq!(dropped.strong_count(), 0);
    let (resident, mappings) = memory();
    (101..=1000).for_each(&mut swap);
    let (resident_then, mappings_then) = memory();
    // A release that stays costs two mappings and about 40 KiB. 900 of them: 1,800 mappings and 34 MB.
    assert!(mappings_then < mappings + 100, "{mappings} mappings became {mappings_then}");
    assert!(resident_then < resident + (16 << 20), "{resident} bytes became {resident_then}");
}
