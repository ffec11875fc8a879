//! The demo's word `swap`: publishes a routing snapshot that gives one tenant another release. A real host's release
//! controller publishes such a snapshot when a route changes in the control topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchboard_core::record::{ControlPosition, Offset, TenantId, TenantSchema};
use switchboard_core::routing::{Availability, OnFailure, Route, RouteTable, Routing, Versioned};
use switchboard_sandbox::{Artifact, RoutingSnapshot, RoutingWatch};

use super::format::{Demo, DemoTenant};

/// How long the demo waits until the worker has applied a snapshot. A worker looks for one at least ten times a second.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// The releases of the demo, and the routes of its tenants.
pub(super) struct DemoReleases {
    watch: RoutingWatch,
    /// The first release is the default.
    releases: Vec<Arc<Artifact>>,
    schema: TenantSchema,
    table: RouteTable,
    /// Counts the changes of routes, in place of the control topic's offsets.
    offset: Offset,
}

/// A swap that the worker has applied.
pub(super) struct Swap<'a> {
    pub(super) artifact: &'a Artifact,
    /// How long it took until the worker had applied it. Messages were processed meanwhile.
    pub(super) duration: Duration,
}

impl DemoReleases {
    /// All tenants run the first release.
    ///
    /// # Panics
    /// Without a release.
    pub(super) fn new(releases: Vec<Arc<Artifact>>, schema: TenantSchema) -> Self {
        let watch = RoutingWatch::new(RoutingSnapshot::fixed(Arc::clone(&releases[0])));
        Self { watch, releases, schema, table: RouteTable::default(), offset: Offset::ZERO }
    }

    /// Where the worker finds the newest routing snapshot.
    pub(super) fn routing_watch(&self) -> &RoutingWatch {
        &self.watch
    }

    /// Whether there is another release.
    pub(super) fn has_others(&self) -> bool {
        self.releases.len() > 1
    }

    /// Gives a tenant the next release. After the last release follows the one before it.
    ///
    /// # Errors
    /// When the worker does not apply the swap in time.
    pub(super) fn swap(&mut self, demo: &Demo, tenant: &DemoTenant) -> Result<Swap<'_>, String> {
        let headers = demo.headers(tenant)?;
        let tenant = self.schema.decode(&headers).map_err(|letter| letter.reason)?.id;
        let next = self.next_of(&tenant);
        self.offset = self.offset.next();
        let route = Route { release: self.releases[next].digest(), previous: None, gate: None };
        let slot = Versioned { route: Some(route), offset: Some(self.offset) };
        self.table.pins.insert(tenant, slot);
        let started = Instant::now();
        let number = self.watch.publish(self.snapshot());
        while self.watch.applied_by_all() < number {
            if started.elapsed() >= APPLY_TIMEOUT {
                return Err("the worker has not applied the new route".into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(Swap { artifact: &self.releases[next], duration: started.elapsed() })
    }

    fn next_of(&self, tenant: &TenantId) -> usize {
        let route = self.table.pins.get(tenant).and_then(|pin| pin.route.as_ref());
        let current = route.and_then(|route| self.releases.iter().position(|known| known.digest() == route.release));
        match current.unwrap_or(0) + 1 {
            next if next < self.releases.len() => next,
            // Alternates between the last two releases.
            _ => self.releases.len() - 2,
        }
    }

    fn snapshot(&self) -> RoutingSnapshot {
        let ready = |artifact: &Arc<Artifact>| (artifact.digest(), Availability::Ready(Arc::clone(artifact.release())));
        let releases: BTreeMap<_, _> = self.releases.iter().map(ready).collect();
        let read = ControlPosition { topic: None, offset: self.offset.next() };
        let base = Some(self.releases[0].digest());
        let routing = Routing::new(self.table.clone(), Some(read), base, releases, OnFailure::Keep);
        let artifacts = self.releases.iter().map(|artifact| (artifact.digest(), Arc::clone(artifact))).collect();
        RoutingSnapshot { routing: Arc::new(routing), artifacts }
    }
}
