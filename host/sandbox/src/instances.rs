//! The wasm instances of one worker: the implementation of `Plugins`.
//!
//! `InstancePool` keeps one slot a tenant, with a warm instance. It lends the slot to a `TenantRunner` and takes it back. It
//! drops an idle instance
//!
//! * when the routing no longer contains the instance's release;
//! * when there are more slots than `Limits::warm_instances`: the least recently used one goes;
//! * when a runner needs room: see `TenantRunner`.
//!
//! A runner that is dropped instead of given back takes its instance and the tenant's log budget with it.

use std::sync::Arc;

use switchboard_core::record::TenantId;
use switchboard_core::routing::Routing;
use switchboard_core::worker::Plugins;

use crate::artifact::Artifact;
use crate::limits::Limits;
use crate::routing_watch::{RoutingSnapshot, RoutingSubscriber, RoutingWatch};
use crate::runner::TenantRunner;
use crate::warm_instances::WarmInstances;

/// How many stale instances a worker drops each time it asks for the routing. One takes about 20 µs; all at once would be a
/// pause for the other tenants' messages.
const MAX_STALE_DROPS: usize = 16;

/// The wasm instances of one worker: one a tenant, made for its first message.
pub struct InstancePool {
    subscriber: RoutingSubscriber,
    /// The routing that the worker has applied. The worker takes one before its first message.
    snapshot: Arc<RoutingSnapshot>,
    /// Tenants with an idle instance of a release that the routing no longer contains.
    stale: Vec<TenantId>,
    shared: Arc<WarmInstances>,
}

impl InstancePool {
    /// A pool that runs one artifact for all tenants.
    pub fn new(artifact: Arc<Artifact>, limits: Limits) -> Self {
        Self::subscribed(&RoutingWatch::new(RoutingSnapshot::fixed(artifact)), limits)
    }

    /// A pool that runs what the newest routing says.
    pub fn subscribed(watch: &RoutingWatch, limits: Limits) -> Self {
        Self {
            subscriber: watch.subscribe(),
            snapshot: watch.newest(),
            stale: Vec::new(),
            shared: Arc::new(WarmInstances::new(limits)),
        }
    }

    /// Number of warm instances, those of lent runners included.
    pub fn warm(&self) -> usize {
        self.shared.count()
    }

    fn drop_stale_instances(&mut self) {
        for _ in 0..MAX_STALE_DROPS {
            let Some(tenant) = self.stale.pop() else { break };
            // The tenant may run another release by now.
            self.shared.discard_stale(&tenant, &self.snapshot.artifacts);
        }
    }
}

impl Plugins for InstancePool {
    type Runner = TenantRunner;

    fn routing(&mut self) -> Option<Arc<Routing>> {
        self.drop_stale_instances();
        self.snapshot = self.subscriber.take_newest()?;
        self.stale = self.shared.stale(&self.snapshot.artifacts);
        Some(Arc::clone(&self.snapshot.routing))
    }

    /// The runner calls the releases of the routing that `routing` returned last, also when there is a newer one by then.
    fn lend(&mut self, tenant: &TenantId) -> TenantRunner {
        TenantRunner::new(tenant.clone(), Arc::clone(&self.snapshot), Arc::clone(&self.shared))
    }

    fn give_back(&mut self, tenant: &TenantId, runner: TenantRunner) {
        let (lent_for, mut slot) = runner.into_slot();
        // What is in an instance's memory must never reach another tenant.
        assert!(lent_for == *tenant, "the runner of tenant {lent_for} was given back for tenant {tenant}");
        if slot.is_stale(&self.snapshot.artifacts) {
            slot.instance = None;
        }
        self.shared.put(lent_for, slot);
    }

    fn discard(&mut self, tenant: &TenantId) {
        self.shared.discard(tenant);
    }
}
