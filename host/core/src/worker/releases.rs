//! Which release handles a tenant's messages on this worker, and the one point of the tenant's stream where that changes.
//!
//! A worker takes a routing after it has read records, and before it hands them to a job. A tenant changes to another release
//! at its first message in a job with the other routing. The entry of its last run (`LastRun`), and what a migration changed,
//! are finished like a message's changes, before those of the message. So the next owner of the shard finds the state in the
//! layout that the entry names.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::message::Message;
use super::plugins::{MigrateError, Runner};
use super::process::Verdict;
use crate::record::{Class, ControlPosition, DeadLetter, Tenant, TenantId};
use crate::routing::{Digest, LastRun, OnFailure, Release, Routing, Target};
use crate::state::TenantState;

/// The version of state without an entry of a last run: it was written before there were such entries.
const FIRST_STATE_VERSION: u32 = 1;

/// The routing that a worker uses, and what its jobs decided for each tenant.
#[derive(Debug, Default)]
pub(super) struct Releases {
    routing: Arc<Routing>,
    /// What was decided before this number was raised does not count any more.
    round: u64,
    /// Decided at a tenant's first message since the routing was taken.
    decided: BTreeMap<TenantId, Decided>,
    /// Releases that failed to migrate a tenant's state. They are not tried again for each routing.
    refused: BTreeMap<TenantId, RefusedMigration>,
}

/// What a job knows about the release of its tenant.
#[derive(Debug)]
pub(super) struct TenantRelease {
    routing: Arc<Routing>,
    round: u64,
    decided: Option<Decided>,
    refused: Option<RefusedMigration>,
}

/// Something that the observer learns once the job has come back.
#[derive(Debug)]
pub(super) enum Report {
    RunsFallback { wanted: Digest, on: Digest, why: String },
    Refused { release: Arc<Release>, why: String },
    Waits { missing_release: Option<Digest>, why: String },
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
        self.round += 1;
        self.decided.clear();
    }

    /// Takes what is known about a tenant's release, for a job.
    pub(super) fn lend(&mut self, tenant: &TenantId) -> TenantRelease {
        TenantRelease {
            routing: Arc::clone(&self.routing),
            round: self.round,
            decided: self.decided.remove(tenant),
            refused: self.refused.remove(tenant),
        }
    }

    /// Takes back what a job knows about its tenant's release. Returns whether what it decided still counts: no other routing
    /// was taken, and no shard was given back.
    pub(super) fn give_back(&mut self, tenant: &TenantId, release: TenantRelease) -> bool {
        let is_current = release.round == self.round;
        if let Some(decided) = release.decided.filter(|_| is_current) {
            self.decided.insert(tenant.clone(), decided);
        }
        if let Some(refused) = release.refused {
            self.refused.insert(tenant.clone(), refused);
        }
        is_current
    }

    /// Forgets what was decided for a tenant, as what the decision changed is dropped.
    pub(super) fn forget(&mut self, tenant: &TenantId) {
        if !mutated!("decision-remembered-over-a-rollback") {
            self.decided.remove(tenant);
        }
    }

    /// Forgets all about tenants. They may come back from another worker with other state.
    pub(super) fn forget_all(&mut self) {
        self.round += 1;
        self.decided.clear();
        self.refused.clear();
    }

    /// `Routing::changed` of the routing in use.
    pub(super) fn routes_changed(&self) -> Option<ControlPosition> {
        self.routing.changed()
    }
}

impl TenantRelease {
    /// The release that was decided on.
    pub(super) fn decided(&self) -> Option<Arc<Release>> {
        self.decided.as_ref().map(|decided| Arc::clone(&decided.release))
    }

    /// Forgets what was decided, as what the decision changed is dropped.
    pub(super) fn forget(&mut self) {
        self.decided = None;
    }

    /// Why this release failed to migrate the tenant's state, if it has been tried.
    fn refusal(&self, release: &Release, last_run: Option<LastRun>) -> Option<String> {
        let refused = self.refused.as_ref()?;
        (refused.release == release.digest && refused.left_by == last_run).then(|| refused.why.clone())
    }

    /// The release that handles the tenant's next message. The tenant's state has that release's version. What the release
    /// changed when it took over is staged, also when the tenant has to wait.
    ///
    /// # Errors
    /// Why the tenant has to wait for another routing.
    pub(super) fn choose(
        &mut self,
        tenant: &Tenant,
        message: &Message,
        state: &mut TenantState,
        runner: &mut impl Runner,
        reports: &mut Vec<Report>,
    ) -> Result<ChosenRelease, Waits> {
        let decided = match &self.decided {
            Some(decided) => Ok(decided.clone()),
            None => self.decide(tenant, state, runner, reports).inspect(|decided| {
                self.decided = Some(decided.clone());
            }),
        };
        let chosen = decided.and_then(|decided| {
            let consumes = decided.release.consumes(&message.origin.topic);
            let not_consumed = if consumes { None } else { Some(self.not_consumed(&decided, message)?) };
            Ok(ChosenRelease { release: decided.release, not_consumed })
        });
        chosen.inspect_err(|waits| {
            tracing::warn!(tenant = %tenant.id, reason = %waits, "messages wait");
            reports.push(Report::Waits { missing_release: waits.missing_release, why: waits.why.clone() });
        })
    }

    /// The verdict on a message whose topic the tenant's release does not consume.
    fn not_consumed(&self, decided: &Decided, message: &Message) -> Result<Verdict, Waits> {
        let (topic, routes) = (&*message.origin.topic, message.routes);
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
        runner: &mut impl Runner,
        reports: &mut Vec<Report>,
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
            Wanted::Ready(release) => match self.run_wanted(release, &mut tenant, runner, reports) {
                Ok(decided) => return Ok(decided),
                Err(why) => Unavailable { wanted: release.digest, previous: None, why },
            },
            Wanted::Unavailable(unavailable) => unavailable,
        };
        fall_back(&routing, &mut tenant, unavailable, runner, reports)
    }

    /// Has the wanted release take the tenant over.
    ///
    /// # Errors
    /// Why it cannot.
    fn run_wanted(
        &mut self,
        release: &Arc<Release>,
        tenant: &mut TenantAtHand<'_>,
        runner: &mut impl Runner,
        reports: &mut Vec<Report>,
    ) -> Result<Decided, String> {
        let last_run = tenant.last_run;
        let taken = match self.refusal(release, last_run) {
            Some(why) => Err(why),
            None => tenant.take_over(release, runner).map_err(|error| error.to_string()),
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
                reports.push(Report::Refused { release: Arc::clone(release), why: why.clone() });
                let found = last_run.map_or(FIRST_STATE_VERSION, |last_run| last_run.state_version);
                if release.migrates.contains(&found) {
                    let refused = RefusedMigration { release: release.digest, left_by: last_run, why: why.clone() };
                    self.refused = Some(refused);
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
    fn take_over(&mut self, release: &Arc<Release>, runner: &mut impl Runner) -> Result<(), TakeOverError> {
        take_over(release, self.tenant, self.last_run.as_ref(), self.state, runner)
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
    runner: &mut impl Runner,
    reports: &mut Vec<Report>,
) -> Result<Decided, Waits> {
    let last = tenant.last_run.map(|last_run| last_run.release);
    let fallback = last.or(previous).filter(|fallback| *fallback != wanted);
    match fallback.and_then(|fallback| routing.ready(&fallback)) {
        Some(release) if tenant.take_over(release, runner).is_ok() => {
            if tenant.last_run.is_none() {
                tenant.state.set_host_entry(LastRun::KEY, tenant.run_of(release).encode());
            }
            let id = &tenant.tenant.id;
            tracing::warn!(release = %release.title(), tenant = %id, reason = %why, "runs the fallback release");
            reports.push(Report::RunsFallback { wanted, on: release.digest, why: why.clone() });
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
    runner: &mut impl Runner,
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
    match runner.migrate(release, tenant, found, state) {
        Ok(()) => {
            let title = release.title();
            tracing::info!(release = %title, tenant = %tenant.id, from = found, to = wanted, "state migrated");
            Ok(())
        }
        Err(error) => {
            if !mutated!("keep-what-a-failed-migration-staged") {
                state.reject_message();
            }
            Err(TakeOverError::Migration { release: release.title().to_string(), wanted, found, error })
        }
    }
}
