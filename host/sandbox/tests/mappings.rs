//! Linux allows a process 65,530 memory mappings, and a warm instance uses four.
//!
//! This test has a process of its own, because it makes allocations of other tests fail. It uses about a gigabyte.

use std::sync::Arc;

use switchboard_core::record::{Coordinates, Headers, Record, Tenant, TenantId};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, Outcome, Plugins as _, Runner as _};
use switchboard_sandbox::{InstancePool, Limits, Sandbox};

#[path = "sandbox/handmade.rs"]
#[allow(dead_code)]
mod handmade;

#[test]
fn more_tenants_than_fit_into_memory_are_all_served() {
    let limits = Limits { warm_instances: 100_000, ..Limits::default() };
    let component = handmade::Handmade::default().build();
    let artifact = Arc::new(Sandbox::new(limits).unwrap().load(&component).unwrap());
    let mut instances = InstancePool::new(Arc::clone(&artifact), limits);
    let source = Coordinates { topic: "IN".into(), partition: 0.into(), offset: 0.into() };
    for number in 0..70_000 {
        let tenant = Tenant { id: TenantId::new(number.to_string()), headers: Headers::new(), texts: vec![] };
        let call = Call { tenant: &tenant, record: &Record::default(), origin: &source };
        let mut runner = instances.lend(&tenant.id);
        let outcome = runner.handle(artifact.release(), call, &mut TenantState::default(), &Answers::default());
        instances.give_back(&tenant.id, runner);
        assert!(matches!(outcome, Outcome::Outputs(_)), "tenant {number}: {outcome:?}");
    }
    assert!(instances.warm() > 1000, "{} instances are warm at the end", instances.warm());
}
