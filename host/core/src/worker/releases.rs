//! Which release handles a tenant's messages on this worker, and the one point of the tenant's stream where that changes.
//!
//! A worker takes a routing between two transactions. A tenant changes to another release at its first message after that.
//! The entry of its last run (`LastRun`) is staged in the transaction of that message. So the record, the state as the
//! former release left it, the migration of that state and the entry are committed together, and the next owner of the
//! shard finds them together. Where the message has to wait for a lookup, the entry and the migration are committed before
//! it, with the shard's offset, which fences them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::observer::Observer;
use super::plugins::{MigrateError, Plugins};
use super::process::Verdict;
use crate::record::{Class, ControlPosition, DeadLetter, Tenant, TenantId};
use crate::routing::{Digest, LastRun, OnFailure, Release, Routing, Target};
use crate::state::TenantState;

/// The version of state without an entry of a last run: it was written before there were such entries.
const FIRST_STATE_VERSION: u32 = 1;

/// The routing that a worker uses, and what it decided for each tenant.
#[derive(Debug, Default)]
pub(super) struct Releases {
    routing: Arc<Routing>,
    /// A routing that was taken within a transaction. Only a mutation does that.
    #[cfg(feature = "mutations")]
    early: Option<Arc<Routing>>,
    /// Decided at a tenant's first message since the routing was taken.
    decided: BTreeMap<TenantId, Decided>,
    /// Releases that failed to migrate a tenant's state. They are not tried again for each routing.
    refused: BTreeMap<TenantId, RefusedMigration>,
}

/// A release that failed to migrate a tenant's state.
#[derive(Debug)]
struct RefusedMigration {
    release: Digest,
    /// The run that left the state as it is.
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

/// Why a tenant runs another release than the wanted one.
#[derive(Debug)]
struct Fallback {
    wanted: Digest,
    why: String,
}

/// Where a message comes from: it decides whether the tenant's release handles the message.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageOrigin<'a> {
    /// The alias of its source topic.
    pub(super) alias: &'a str,
    /// The newest change of a route that the worker which repartitioned it had read.
    pub(super) routes: Option<ControlPosition>,
}

/// How a message is handled.
pub(super) struct ChosenRelease {
    pub(super) release: Arc<Release>,
    /// The verdict on a message whose topic the release does not consume. `None`: the release handles the message.
    pub(super) not_consumed: Option<Verdict>,
}

impl Releases {
    /// Uses this routing from now on.
    pub(super) fn take(&mut self, routing: Arc<Routing>) {
        self.routing = routing;
        self.forget();
    }

    /// Takes a routing while a transaction is open: a mistake that only a mutation makes.
    #[cfg(feature = "mutations")]
    pub(super) fn take_early(&mut self, routing: Option<Arc<Routing>>) {
        if let Some(routing) = routing {
            self.early = Some(Arc::clone(&routing));
            self.take(routing);
        }
    }

    /// The routing that was taken within the last transaction.
    #[cfg(feature = "mutations")]
    pub(super) fn taken_early(&mut self) -> Option<Arc<Routing>> {
        self.early.take()
    }

    /// Forgets what was decided, as what the decisions staged is gone.
    pub(super) fn forget(&mut self) {
        self.decided.clear();
    }

    /// Forgets all about tenants. They may come back from another worker with other state.
    pub(super) fn forget_all(&mut self) {
        self.forget();
        self.refused.clear();
    }

    /// Why this release failed to migrate the tenant's state, if it has been tried.
    fn refusal(&self, release: &Release, tenant: &Tenant, last_run: Option<LastRun>) -> Option<String> {
        let refused = self.refused.get(&tenant.id)?;
        (refused.release == release.digest && refused.left_by == last_run).then(|| refused.why.clone())
    }

    /// `Routing::changed` of the routing in use.
    pub(super) fn routes_changed(&self) -> Option<ControlPosition> {
        self.routing.changed()
    }

    /// The release that handles the tenant's next message. The tenant's state has that release's version.
    ///
    /// # Errors
    /// Why the tenant has to wait for another routing. What a release staged when it took over stays staged.
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
            let not_consumed = if consumes { None } else { Some(self.not_consumed(&decided, message)?) };
            Ok(ChosenRelease { release: decided.release, not_consumed })
        });
        chosen.inspect_err(|waits| {
            tracing::warn!(tenant = %tenant.id, reason = %waits, "messages wait");
            observer.waits(&tenant.id, waits.missing_release, &waits.why);
        })
    }

    /// The verdict on a message whose topic the tenant's release does not consume.
    fn not_consumed(&self, decided: &Decided, message: MessageOrigin<'_>) -> Result<Verdict, Waits> {
        let MessageOrigin { alias: topic, routes } = message;
        // By newer routes, which the worker that repartitioned it had read, the tenant's release may consume it.
        if let Some(routes) = routes
            && !self.routing.has_read(routes)
            && !mutated!("skip-a-record-while-behind")
        {
            let why = format!(
                "a record of {topic}, which {} does not consume, was repartitioned by routes as of offset {} of the control \
                 topic, which has not been read that far here",
                decided.release.title(),
                routes.offset
            );
            return Err(Waits::for_routes(why));
        }
        match &decided.fallback {
            Some(fallback) if self.wanted_may_consume(fallback, topic) => {
                let Fallback { wanted, why } = &**fallback;
                if self.routing.may_become_ready(wanted) {
                    let why = format!("{topic} is consumed by release {}: {why}", wanted.short());
                    return Err(Waits::for_routes(why));
                }
                let reason = format!(
                    "{topic} is consumed by release {}, to which the tenant's route leads, but the tenant runs the fallback release {}: {why}",
                    wanted.short(),
                    decided.release.title()
                );
                Ok(Verdict::DeadLetter(DeadLetter::new(Class::Release, reason)))
            }
            // The release of another tenant consumes it.
            _ => Ok(Verdict::Outputs(Vec::new())),
        }
    }

    /// Whether the wanted release consumes the topic, as far as it is known here.
    fn wanted_may_consume(&self, fallback: &Fallback, topic: &str) -> bool {
        if mutated!("dead-letter-for-a-topic-that-no-release-consumes") {
            return true;
        }
        self.routing.may_consume(&fallback.wanted, topic) && !mutated!("skip-a-record-of-the-wanted-release")
    }

    /// Decides what a tenant runs, at its first message since the routing was taken.
    fn decide(
        &mut self,
        tenant: &Tenant,
        state: &mut TenantState,
        plugins: &mut impl Plugins,
        observer: &mut impl Observer,
    ) -> Result<Decided, Waits> {
        let last_run = state.host_entry(LastRun::KEY).and_then(LastRun::decode);
        if let Some(route) = last_run.and_then(|last_run| last_run.route)
            && !self.routing.has_read(route)
            && !mutated!("run-by-older-routes")
        {
            return Err(Waits::for_routes(format!(
                "it last ran by a route at offset {} of the control topic, which has not been read that far here",
                route.offset
            )));
        }
        let routing = Arc::clone(&self.routing);
        let (target, route) = routing.target(&tenant.id);
        let mut tenant = TenantAtHand { tenant, last_run, route, state };
        let unavailable = match wanted(target, routing.on_failure())? {
            Wanted::Ready(release) => match self.run_wanted(release, &mut tenant, plugins, observer) {
                Ok(decided) => return Ok(decided),
                Err(why) => Unavailable { wanted: release.digest, previous: None, why },
            },
            Wanted::Unavailable(unavailable) => unavailable,
        };
        fall_back(&routing, &mut tenant, unavailable, plugins, observer)
    }

    /// Has the wanted release take the tenant over.
    ///
    /// # Errors
    /// Why it cannot.
    fn run_wanted(
        &mut self,
        release: &Arc<Release>,
        tenant: &mut TenantAtHand<'_>,
        plugins: &mut impl Plugins,
        observer: &mut impl Observer,
    ) -> Result<Decided, String> {
        let (id, last_run) = (&tenant.tenant.id, tenant.last_run);
        let taken = match self.refusal(release, tenant.tenant, last_run) {
            Some(why) => Err(why),
            None => tenant.take_over(release, plugins).map_err(|error| error.to_string()),
        };
        match taken {
            Ok(()) => {
                let now = tenant.run_of(release);
                let is_unchanged = |last_run: LastRun| {
                    last_run == now || mutated!("last-run-not-updated") && last_run.release == now.release
                };
                if !last_run.is_some_and(is_unchanged) {
                    tenant.state.set_host_entry(LastRun::KEY, now.encode());
                }
                Ok(Decided { release: Arc::clone(release), fallback: None })
            }
            Err(why) => {
                observer.refused(id, release, &why);
                let found = last_run.map_or(FIRST_STATE_VERSION, |last_run| last_run.state_version);
                if release.migrates.contains(&found) {
                    let refused = RefusedMigration { release: release.digest, left_by: last_run, why: why.clone() };
                    self.refused.insert(id.clone(), refused);
                }
                Err(why)
            }
        }
    }
}

/// The tenant whose release is being decided.
struct TenantAtHand<'a> {
    tenant: &'a Tenant,
    /// What it ran under last.
    last_run: Option<LastRun>,
    /// The control record that last changed anything about its route.
    route: Option<ControlPosition>,
    state: &'a mut TenantState,
}

impl TenantAtHand<'_> {
    fn take_over(&mut self, release: &Arc<Release>, plugins: &mut impl Plugins) -> Result<(), TakeOverError> {
        take_over(release, self.tenant, self.last_run.as_ref(), self.state, plugins)
    }

    /// The entry of a run by this release.
    fn run_of(&self, release: &Release) -> LastRun {
        LastRun { release: release.digest, state_version: release.manifest.state_version, route: self.route }
    }
}

/// What a tenant's route leads to on this host.
enum Wanted<'a> {
    Ready(&'a Arc<Release>),
    Unavailable(Unavailable),
}

/// A release that cannot run a tenant here.
struct Unavailable {
    wanted: Digest,
    /// The release that it replaced.
    previous: Option<Digest>,
    why: String,
}

/// The wanted release.
///
/// # Errors
/// When there is none, or it cannot run here and tenants have to wait then.
fn wanted(target: Target<'_>, on_failure: OnFailure) -> Result<Wanted<'_>, Waits> {
    match target {
        Target::Nothing => {
            let why = "no route leads to a release: `switchboard deploy` one for all tenants, or for this one";
            Err(Waits::for_routes(why.into()))
        }
        Target::Unavailable { release, previous, why } => {
            let why = format!("this host cannot run release {}: {why}", release.short());
            match on_failure {
                OnFailure::Stop => Err(Waits::for_routes(why)),
                OnFailure::Keep => Ok(Wanted::Unavailable(Unavailable { wanted: release, previous, why })),
            }
        }
        Target::Run(release) => Ok(Wanted::Ready(release)),
    }
}

/// Has the tenant run the release that it ran last. A tenant that never ran runs the one that its route replaced.
fn fall_back(
    routing: &Routing,
    tenant: &mut TenantAtHand<'_>,
    Unavailable { wanted, previous, why }: Unavailable,
    plugins: &mut impl Plugins,
    observer: &mut impl Observer,
) -> Result<Decided, Waits> {
    let last = tenant.last_run.map(|last_run| last_run.release);
    let fallback = last.or(previous).filter(|fallback| *fallback != wanted);
    match fallback.and_then(|fallback| routing.ready(&fallback)) {
        Some(release) if tenant.take_over(release, plugins).is_ok() => {
            if tenant.last_run.is_none() {
                tenant.state.set_host_entry(LastRun::KEY, tenant.run_of(release).encode());
            }
            let id = &tenant.tenant.id;
            tracing::warn!(release = %release.title(), tenant = %id, reason = %why, "runs the fallback release");
            observer.runs_fallback(id, wanted, release.digest, &why);
            Ok(Decided { release: Arc::clone(release), fallback: Some(Arc::new(Fallback { wanted, why })) })
        }
        ready => Err(Waits { why, missing_release: fallback.filter(|_| ready.is_none()) }),
    }
}

/// Why a tenant has to wait for another routing.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct Waits {
    why: String,
    /// The fallback release, where the tenant could run it if it were ready here.
    missing_release: Option<Digest>,
}

impl Waits {
    fn for_routes(why: String) -> Self {
        Self { why, missing_release: None }
    }
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

/// Has the release migrate the tenant's state, if that has another version.
fn take_over(
    release: &Arc<Release>,
    tenant: &Tenant,
    last_run: Option<&LastRun>,
    state: &mut TenantState,
    plugins: &mut impl Plugins,
) -> Result<(), TakeOverError> {
    let wanted = release.manifest.state_version;
    let found = match last_run {
        Some(last_run) => last_run.state_version,
        None if state.has_entries() => FIRST_STATE_VERSION,
        None => return Ok(()),
    };
    if found == wanted || (mutated!("go-back-to-the-old-layout") && found > wanted) {
        return Ok(());
    }
    if !release.migrates.contains(&found) {
        return Err(TakeOverError::Version { release: release.title().to_string(), wanted, found });
    }
    match plugins.migrate(release, tenant, found, state) {
        Ok(()) => {
            state.accept_migration();
            let title = release.title();
            tracing::info!(release = %title, tenant = %tenant.id, from = found, to = wanted, "state migrated");
            Ok(())
        }
        Err(error) => {
            if mutated!("keep-what-a-failed-migration-staged") {
                state.accept_message();
            } else {
                state.reject_message();
            }
            Err(TakeOverError::Migration { release: release.title().to_string(), wanted, found, error })
        }
    }
}
