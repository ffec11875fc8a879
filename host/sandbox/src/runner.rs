//! Runs the messages of one tenant: the implementation of `Runner`.
//!
//! A `TenantRunner` leaves the worker with a job, runs on another thread, and comes back. It contains all that it needs: the
//! tenant's slot, and the artifacts of the routing that the worker had applied when the pool lent it.
//!
//! It replaces the tenant's instance
//!
//! * after any outcome but outputs: what the guest left in memory must not reach the next message;
//! * when the tenant's release changes;
//! * when the worker's instances exceed a limit, and no idle instance is left to be dropped.
//!
//! To drop an instance is always safe, because a tenant's state is outside of it. The tenant's log budget stays.

use std::sync::Arc;

use switchboard_core::record::{Class, Tenant, TenantId};
use switchboard_core::routing::Release;
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, MigrateError, Outcome, Runner};

use crate::artifact::Artifact;
use crate::migration::Migration;
use crate::routing_watch::RoutingSnapshot;
use crate::trap::OutOfMemory;
use crate::warm_instances::{TenantSlot, WarmInstances};
use crate::wasm_instance::{Invocation, WasmInstance, header, message};

/// Runs the messages of one tenant. [`InstancePool`](crate::InstancePool) lends it.
pub struct TenantRunner {
    tenant: TenantId,
    slot: TenantSlot,
    /// The routing that the worker had applied at `lend`.
    snapshot: Arc<RoutingSnapshot>,
    shared: Arc<WarmInstances>,
}

/// A runner moves to another thread.
const _: () = {
    const fn is_send<T: Send + 'static>() {}
    is_send::<TenantRunner>();
};

impl TenantRunner {
    pub(crate) fn new(tenant: TenantId, snapshot: Arc<RoutingSnapshot>, shared: Arc<WarmInstances>) -> Self {
        let slot = shared.take(&tenant);
        Self { tenant, slot, snapshot, shared }
    }

    pub(crate) fn into_slot(self) -> (TenantId, TenantSlot) {
        (self.tenant, self.slot)
    }

    fn artifact(&self, release: &Release) -> Arc<Artifact> {
        let artifact = self.snapshot.artifacts.get(&release.digest);
        Arc::clone(artifact.expect("a snapshot contains the artifacts of its ready releases"))
    }

    /// What is in an instance's memory must never reach another tenant.
    fn check_tenant(&self, tenant: &TenantId) {
        assert!(self.tenant == *tenant, "the runner of tenant {} was called for tenant {tenant}", self.tenant);
    }

    /// Runs a message. If the machine has no room for its instance, the least recently used instances make room: a
    /// message must not fail for want of memory.
    fn run(&mut self, invocation: &mut Invocation<'_>) -> Outcome {
        let first = self.try_run(invocation);
        let result = first.or_else(|out_of_memory| {
            self.shared.make_room(&out_of_memory);
            invocation.state.reject_message();
            self.try_run(invocation)
        });
        result.unwrap_or_else(|OutOfMemory(letter)| Outcome::Failed(letter))
    }

    fn try_run(&mut self, invocation: &mut Invocation<'_>) -> Result<Outcome, OutOfMemory> {
        let (TenantSlot { instance, budget }, limits) = (&mut self.slot, self.shared.limits());
        instance.take_if(|instance| instance.release != invocation.artifact.digest());
        let warm = match &mut *instance {
            Some(warm) => warm,
            empty => match WasmInstance::new(limits, invocation, budget, self.shared.count_one()) {
                Ok(fresh) => empty.insert(fresh),
                Err(outcome) => return outcome,
            },
        };
        let outcome = warm.call(limits, invocation, budget);
        if !matches!(outcome, Ok(Outcome::Outputs(_))) {
            *instance = None;
        }
        outcome
    }

    fn try_migrate(
        &mut self,
        migration: Migration<'_>,
        state: &mut TenantState,
    ) -> Result<Result<(), MigrateError>, OutOfMemory> {
        migration.run(self.shared.limits(), state, &mut self.slot.budget)
    }
}

impl Runner for TenantRunner {
    fn handle(
        &mut self,
        release: &Arc<Release>,
        call: Call<'_>,
        state: &mut TenantState,
        answers: &Answers,
    ) -> Outcome {
        self.check_tenant(&call.tenant.id);
        let artifact = &*self.artifact(release);
        // Kafka's header names are bytes, the contract's are text: what is not UTF-8 is replaced by U+FFFD.
        let names: Vec<_> = call.record.headers.iter().map(|header| String::from_utf8_lossy(header.name)).collect();
        let headers: Vec<_> = call.record.headers.iter().zip(&names).map(header).collect();
        let message = message(&call, &headers);
        let mut invocation = Invocation { artifact, call, message, state, answers };
        let is_warm = self.slot.instance.is_some();
        let mut outcome = self.run(&mut invocation);
        if is_warm && matches!(&outcome, Outcome::Failed(letter) if letter.class != Class::Deadline) {
            // The memory that earlier messages left behind must not fail a message: a fresh instance decides.
            invocation.state.reject_message();
            outcome = self.run(&mut invocation);
        }
        self.shared.shrink_to_limits(&mut self.slot.instance);
        outcome
    }

    fn migrate(
        &mut self,
        release: &Arc<Release>,
        tenant: &Tenant,
        from: u32,
        state: &mut TenantState,
    ) -> Result<(), MigrateError> {
        self.check_tenant(&tenant.id);
        let artifact = &*self.artifact(release);
        let migration = Migration { artifact, tenant: &tenant.id, from };
        let result = self.try_migrate(migration, state).or_else(|out_of_memory| {
            self.shared.make_room(&out_of_memory);
            state.reject_message();
            self.try_migrate(migration, state)
        });
        result.unwrap_or_else(|OutOfMemory(letter)| Err(MigrateError::Failed(letter)))
    }
}
