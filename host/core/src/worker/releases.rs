//! Which release handles a tenant's messages on this worker, and the one point of its stream where that changes.
//!
//! A worker takes a routing between two transactions; a tenant changes over at its first message after that. What it ran
//! under is staged with that message, as an entry of its state: so the record, the state as the release before left it, a
//! migration of it and the entry are committed together, and whoever takes the tenant over finds them together. Where the
//! message has to wait for a lookup, entry and migration are committed before it, with the shard's offset, which fences them.

use std::collections::HashMap;
use std::sync::Arc;

use super::observer::Observer;
use super::plugins::Plugins;
use crate::envelope::{Tenant, TenantId};
use crate::release::{OnFailure, Ran, Release, Routing, Target};
use crate::state::TenantState;

/// The first layout's version: of state that was written before it was noted down.
const FIRST_LAYOUT: u32 = 1;

/// The routing that a worker goes by, and what it came to for each tenant.
#[derive(Debug, Default)]
pub(super) struct Releases {
    routing: Arc<Routing>,
    /// Decided at a tenant's first message since the routing was taken.
    decided: HashMap<TenantId, Arc<Release>>,
}

impl Releases {
    pub(super) fn take(&mut self, routing: Arc<Routing>) {
        self.routing = routing;
        self.forget();
    }

    /// Decisions are made anew: what they staged is gone, or tenants come back from elsewhere.
    pub(super) fn forget(&mut self) {
        self.decided.clear();
    }

    /// The release that handles the tenant's next message; its state has been made to fit.
    ///
    /// # Errors
    /// Why the tenant has to wait for another routing.
    pub(super) fn choose(
        &mut self,
        tenant: &Tenant,
        state: &mut TenantState,
        plugins: &mut impl Plugins,
        observer: &mut impl Observer,
    ) -> Result<Arc<Release>, String> {
        if let Some(release) = self.decided.get(&tenant.id) {
            return Ok(Arc::clone(release));
        }
        let release = self.decide(tenant, state, plugins, observer).inspect_err(|why| {
            tracing::warn!(tenant = %tenant.id, "messages wait: {why}");
            observer.waits(&tenant.id, why);
        })?;
        self.decided.insert(tenant.id.clone(), Arc::clone(&release));
        Ok(release)
    }

    fn decide(
        &self,
        tenant: &Tenant,
        state: &mut TenantState,
        plugins: &mut impl Plugins,
        observer: &mut impl Observer,
    ) -> Result<Arc<Release>, String> {
        let ran = state.host_entry(Ran::KEY).and_then(Ran::decode);
        if let Some(ran) = &ran
            && !self.routing.has_read(ran.route)
        {
            return Err(format!(
                "it last ran by a route at offset {} of the control topic, which has not been read that far here",
                ran.route.offset
            ));
        }
        let (target, route) = self.routing.target(&tenant.id);
        let (wanted, previous, why) = match target {
            Target::Nothing => {
                return Err(
                    "no route leads to a release: `switchboard deploy` one for all tenants, or for this one".into()
                );
            }
            Target::Unavailable { release, previous, why } => {
                let why = format!("this host cannot run release {}: {why}", release.short());
                if self.routing.on_failure() == OnFailure::Stop {
                    return Err(why);
                }
                (release, previous, why)
            }
            Target::Run(release) => match take_over(release, tenant, ran.as_ref(), state, plugins) {
                Ok(()) => {
                    let now = Ran { release: release.digest, state_version: release.manifest.state_version, route };
                    if ran.is_none_or(|ran| ran != now) {
                        state.set_host_entry(Ran::KEY, now.encode());
                    }
                    return Ok(Arc::clone(release));
                }
                Err(why) => {
                    observer.refused(&tenant.id, release, &why);
                    (release.digest, None, why)
                }
            },
        };
        // A tenant that never ran has nothing to go back to but what its route replaced.
        let old = ran.as_ref().map(|ran| ran.release).or(previous).filter(|old| *old != wanted);
        match old.and_then(|old| self.routing.ready(&old)) {
            Some(release) if take_over(release, tenant, ran.as_ref(), state, plugins).is_ok() => {
                if ran.is_none() {
                    let state_version = release.manifest.state_version;
                    state.set_host_entry(Ran::KEY, Ran { release: release.digest, state_version, route }.encode());
                }
                tracing::warn!(tenant = %tenant.id, "stays on {}: {why}", title(release));
                observer.stays(&tenant.id, wanted, release.digest, &why);
                Ok(Arc::clone(release))
            }
            _ => Err(why),
        }
    }
}

/// Makes the tenant's state one of the release's layout.
fn take_over(
    release: &Arc<Release>,
    tenant: &Tenant,
    ran: Option<&Ran>,
    state: &mut TenantState,
    plugins: &mut impl Plugins,
) -> Result<(), String> {
    let wanted = release.manifest.state_version;
    let found = match ran {
        Some(ran) => ran.state_version,
        None if state.has_entries() => FIRST_LAYOUT,
        None => return Ok(()),
    };
    if found == wanted {
        return Ok(());
    }
    if !release.migrates.contains(&found) {
        return Err(format!(
            "{} has state version {wanted} and cannot take over version {found}, which the tenant's state has",
            title(release)
        ));
    }
    match plugins.migrate(release, tenant, found, state) {
        Ok(()) => {
            state.accept_message();
            tracing::info!(tenant = %tenant.id, "state migrated from version {found} to {wanted} by {}", title(release));
            Ok(())
        }
        Err(why) => {
            state.reject_message();
            Err(format!(
                "{} failed to migrate the tenant's state from version {found} to {wanted}: {why}",
                title(release)
            ))
        }
    }
}

fn title(release: &Release) -> String {
    let Release { digest, manifest, .. } = release;
    format!("{} {} ({})", manifest.name, manifest.version, digest.short())
}
