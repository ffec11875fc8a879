//! Which release handles a tenant's messages on this worker, and the one point of its stream where that changes.
//!
//! A worker takes a routing between two transactions; a tenant changes over at its first message after that. What it ran
//! under is staged with that message, as an entry of its state: so the record, the state as the release before left it, a
//! migration of it and the entry are committed together, and whoever takes the tenant over finds them together. Where the
//! message has to wait for a lookup, entry and migration are committed before it, with the shard's offset, which fences them.

use std::collections::HashMap;
use std::sync::Arc;

use super::observer::Observer;
use super::plugins::{MigrateError, Plugins};
use super::process::Verdict;
use crate::record::{Class, ControlPosition, DeadLetter, Tenant, TenantId};
use crate::routing::{Digest, LastRun, OnFailure, Release, Routing, Target};
use crate::state::TenantState;

/// The first layout's version: of state that was written before it was noted down.
const FIRST_LAYOUT: u32 = 1;

/// The routing that a worker goes by, and what it came to for each tenant.
#[derive(Debug, Default)]
pub(super) struct Releases {
    routing: Arc<Routing>,
    /// Decided at a tenant's first message since the routing was taken.
    decided: HashMap<TenantId, Decided>,
    /// Releases that failed to migrate a tenant's state, as it was left by what it ran: not tried again for each routing.
    refused: HashMap<TenantId, RefusedMigration>,
}

/// A release that failed to migrate a tenant's state.
#[derive(Debug)]
struct RefusedMigration {
    release: Digest,
    /// What the state was left by.
    left_by: Option<LastRun>,
    why: String,
}

/// What a tenant runs.
#[derive(Debug, Clone)]
struct Decided {
    release: Arc<Release>,
    /// `None`: the release of its route.
    fallback: Option<Arc<Fallback>>,
}

/// Why a tenant stays on another release than the wanted one.
#[derive(Debug)]
struct Fallback {
    wanted: Digest,
    why: String,
}

/// What of a message decides whether its tenant's release handles it.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageOrigin<'a> {
    /// Of its topic.
    pub(super) alias: &'a str,
    /// The newest change of a route that was known to the worker that repartitioned it.
    pub(super) routes: Option<ControlPosition>,
}

/// What is to be done with a message.
pub(super) struct ChosenRelease {
    pub(super) release: Arc<Release>,
    /// The release does not consume its topic, and this becomes of it. `None`: the release handles it.
    pub(super) not_consumed: Option<Verdict>,
}

impl Releases {
    pub(super) fn take(&mut self, routing: Arc<Routing>) {
        self.routing = routing;
        self.forget();
    }

    /// Decisions are made anew: what they staged is gone.
    pub(super) fn forget(&mut self) {
        self.decided.clear();
    }

    /// Tenants may come back from elsewhere with another state.
    pub(super) fn forget_all(&mut self) {
        self.forget();
        self.refused.clear();
    }

    /// Why this release failed to migrate what the tenant has, when that has been tried.
    fn refusal(&self, release: &Release, tenant: &Tenant, ran: Option<LastRun>) -> Option<String> {
        let refused = self.refused.get(&tenant.id)?;
        (refused.release == release.digest && refused.left_by == ran).then(|| refused.why.clone())
    }

    /// `Routing::changed` of the routing that the worker goes by.
    pub(super) fn routes_changed(&self) -> Option<ControlPosition> {
        self.routing.changed()
    }

    /// The release that handles the tenant's next message; its state has been made to fit.
    ///
    /// # Errors
    /// Why the tenant has to wait for another routing. What its release staged when it took over stays staged.
    pub(super) fn choose(
        &mut self,
        tenant: &Tenant,
        message: MessageOrigin<'_>,
        state: &mut TenantState,
        plugins: &mut impl Plugins,
        observer: &mut impl Observer,
    ) -> Result<ChosenRelease, Waits> {
        let decided = match self.decided.get(&tenant.id) {
            Some(decided) => Ok(decided.clone()),
            None => self.decide(tenant, state, plugins, observer).inspect(|decided| {
                self.decided.insert(tenant.id.clone(), decided.clone());
            }),
        };
        let chosen = decided.and_then(|decided| {
            let consumes = decided.release.consumes(message.alias);
            let not_consumed = if consumes { None } else { Some(self.pass_over(&decided, message)?) };
            Ok(ChosenRelease { release: decided.release, not_consumed })
        });
        chosen.inspect_err(|waits| {
            tracing::warn!(tenant = %tenant.id, "messages wait: {waits}");
            observer.waits(&tenant.id, waits.missing_release, &waits.why);
        })
    }

    /// What becomes of a message whose topic the tenant's release does not consume.
    fn pass_over(&self, decided: &Decided, message: MessageOrigin<'_>) -> Result<Verdict, Waits> {
        let MessageOrigin { alias: topic, routes } = message;
        // By the routes that its router knew it may be that the tenant's release does.
        if let Some(routes) = routes.filter(|routes| !self.routing.has_read(*routes)) {
            let why = format!(
                "a record of {topic}, which {} does not consume, was routed by routes as of offset {} of the control topic, \
                 which has not been read that far here",
                title(&decided.release),
                routes.offset
            );
            return Err(Waits { why, missing_release: None });
        }
        match &decided.fallback {
            Some(fallback) if self.routing.may_consume(&fallback.wanted, topic) => {
                let Fallback { wanted, why } = &**fallback;
                if self.routing.may_become_ready(wanted) {
                    let why = format!("{topic} is consumed by release {}: {why}", wanted.short());
                    return Err(Waits { why, missing_release: None });
                }
                let reason = format!(
                    "{topic} is consumed by release {}, to which the tenant's route leads, but the tenant stays on {}: {why}",
                    wanted.short(),
                    title(&decided.release)
                );
                Ok(Verdict::DeadLetter(DeadLetter::new(Class::Release, reason)))
            }
            // Another tenant's release does.
            _ => Ok(Verdict::Outputs(Vec::new())),
        }
    }

    fn decide(
        &mut self,
        tenant: &Tenant,
        state: &mut TenantState,
        plugins: &mut impl Plugins,
        observer: &mut impl Observer,
    ) -> Result<Decided, Waits> {
        let waits = |why: String| Waits { why, missing_release: None };
        let ran = state.host_entry(LastRun::KEY).and_then(LastRun::decode);
        if let Some(route) = ran.and_then(|ran| ran.route)
            && !self.routing.has_read(route)
        {
            return Err(waits(format!(
                "it last ran by a route at offset {} of the control topic, which has not been read that far here",
                route.offset
            )));
        }
        let (target, route) = self.routing.target(&tenant.id);
        let (wanted, previous, why) = match target {
            Target::Nothing => {
                let why = "no route leads to a release: `switchboard deploy` one for all tenants, or for this one";
                return Err(waits(why.into()));
            }
            Target::Unavailable { release, previous, why } => {
                let why = format!("this host cannot run release {}: {why}", release.short());
                if self.routing.on_failure() == OnFailure::Stop {
                    return Err(waits(why));
                }
                (release, previous, why)
            }
            Target::Run(release) => match self.refusal(release, tenant, ran).map_or_else(
                || take_over(release, tenant, ran.as_ref(), state, plugins).map_err(|error| error.to_string()),
                Err,
            ) {
                Ok(()) => {
                    let now = LastRun { release: release.digest, state_version: release.manifest.state_version, route };
                    if ran.is_none_or(|ran| ran != now) {
                        state.set_host_entry(LastRun::KEY, now.encode());
                    }
                    return Ok(Decided { release: Arc::clone(release), fallback: None });
                }
                Err(why) => {
                    let release = Arc::clone(release);
                    observer.refused(&tenant.id, &release, &why);
                    let found = ran.map_or(FIRST_LAYOUT, |ran| ran.state_version);
                    if release.migrates.contains(&found) {
                        let refused = RefusedMigration { release: release.digest, left_by: ran, why: why.clone() };
                        self.refused.insert(tenant.id.clone(), refused);
                    }
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
                    state.set_host_entry(
                        LastRun::KEY,
                        LastRun { release: release.digest, state_version, route }.encode(),
                    );
                }
                tracing::warn!(tenant = %tenant.id, "stays on {}: {why}", title(release));
                observer.stays(&tenant.id, wanted, release.digest, &why);
                Ok(Decided { release: Arc::clone(release), fallback: Some(Arc::new(Fallback { wanted, why })) })
            }
            ready => Err(Waits { why, missing_release: old.filter(|_| ready.is_none()) }),
        }
    }
}

/// Why a tenant has to wait, and the release that it could stay on, if that were ready.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct Waits {
    why: String,
    missing_release: Option<Digest>,
}

/// Why a release cannot take over a tenant's state.
#[derive(Debug, thiserror::Error)]
enum TakeOverError {
    #[error("{release} has state version {wanted} and cannot take over version {found}, which the tenant's state has")]
    Version { release: String, wanted: u32, found: u32 },
    #[error("{release} failed to migrate the tenant's state from version {found} to {wanted}: {error}")]
    Migration {
        release: String,
        wanted: u32,
        found: u32,
        #[source]
        error: MigrateError,
    },
}

/// Makes the tenant's state one of the release's layout.
fn take_over(
    release: &Arc<Release>,
    tenant: &Tenant,
    ran: Option<&LastRun>,
    state: &mut TenantState,
    plugins: &mut impl Plugins,
) -> Result<(), TakeOverError> {
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
        return Err(TakeOverError::Version { release: title(release), wanted, found });
    }
    match plugins.migrate(release, tenant, found, state) {
        Ok(()) => {
            state.accept_message();
            tracing::info!(tenant = %tenant.id, "state migrated from version {found} to {wanted} by {}", title(release));
            Ok(())
        }
        Err(error) => {
            state.reject_message();
            Err(TakeOverError::Migration { release: title(release), wanted, found, error })
        }
    }
}

fn title(release: &Release) -> String {
    let Release { digest, manifest, .. } = release;
    format!("{} {} ({})", manifest.name, manifest.version, digest.short())
}
