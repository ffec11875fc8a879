//! What `swap` does in the demo: the next routing for one tenant, as the keeper of a real host publishes it when the control topic says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchboard_core::record::{ControlPosition, Offset, TenantId, TenantSchema};
use switchboard_core::routing::{Availability, OnFailure, Route, RouteTable, Routing, Versioned};

use super::format::{Demo, DemoTenant};
use switchboard_sandbox::Artifact;
use switchboard_sandbox::{RoutingSnapshot, RoutingWatch};

/// How long a worker may take to see a routing: it looks at least ten times a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// The releases of the demo, and who runs which.
pub(super) struct Stage {
    board: RoutingWatch,
    /// The first is what tenants run that have not been swapped.
    releases: Vec<Arc<Artifact>>,
    schema: TenantSchema,
    table: RouteTable,
    /// Stands for the control topic's offsets.
    offset: Offset,
}

/// A swap that was made.
pub(super) struct Swapped<'a> {
    pub(super) artifact: &'a Artifact,
    /// Until the worker went by the new routing; messages went on meanwhile.
    pub(super) taken: Duration,
}

impl Stage {
    /// # Panics
    /// Without a release.
    pub(super) fn new(releases: Vec<Arc<Artifact>>, schema: TenantSchema) -> Self {
        let board = RoutingWatch::new(RoutingSnapshot::fixed(Arc::clone(&releases[0])));
        Self { board, releases, schema, table: RouteTable::default(), offset: Offset::ZERO }
    }

    pub(super) fn board(&self) -> &RoutingWatch {
        &self.board
    }

    /// Whether there is anything to swap to.
    pub(super) fn has_others(&self) -> bool {
        self.releases.len() > 1
    }

    /// Has a tenant run the next release; after the last one comes the one before it.
    ///
    /// # Errors
    /// When the worker does not take it.
    pub(super) fn swap(&mut self, demo: &Demo, tenant: &DemoTenant) -> Result<Swapped<'_>, String> {
        let headers = demo.headers(tenant)?;
        let tenant = self.schema.decode(&headers).map_err(|letter| letter.reason)?.id;
        let next = self.next_of(&tenant);
        self.offset = self.offset.next();
        let route = Route { release: self.releases[next].digest(), previous: None, gate: None };
        let slot = Versioned { route: Some(route), offset: Some(self.offset) };
        self.table.pins.insert(tenant, slot);
        let started = Instant::now();
        let number = self.board.publish(self.publication());
        while self.board.applied_by_all() < number {
            if started.elapsed() >= PATIENCE {
                return Err("the worker does not take the new routing".into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(Swapped { artifact: &self.releases[next], taken: started.elapsed() })
    }

    fn next_of(&self, tenant: &TenantId) -> usize {
        let route = self.table.pins.get(tenant).and_then(|pin| pin.route.as_ref());
        let current = route.and_then(|route| self.releases.iter().position(|known| known.digest() == route.release));
        match current.unwrap_or(0) + 1 {
            next if next < self.releases.len() => next,
            // Back and forth between the last two.
            _ => self.releases.len() - 2,
        }
    }

    fn publication(&self) -> RoutingSnapshot {
        let ready = |artifact: &Arc<Artifact>| (artifact.digest(), Availability::Ready(Arc::clone(artifact.release())));
        let releases: BTreeMap<_, _> = self.releases.iter().map(ready).collect();
        let read = ControlPosition { topic: None, offset: self.offset.next() };
        let base = Some(self.releases[0].digest());
        let routing = Routing::new(self.table.clone(), Some(read), base, releases, OnFailure::Keep);
        let artifacts = self.releases.iter().map(|artifact| (artifact.digest(), Arc::clone(artifact))).collect();
        RoutingSnapshot { routing: Arc::new(routing), artifacts }
    }
}
