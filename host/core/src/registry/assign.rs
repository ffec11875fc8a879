//! The commands that give tenants a release: `deploy`, `set_routes` and `clear_routes`.

use std::collections::{BTreeMap, BTreeSet};

use super::decision::{ChangeRequest, Decision, Refusal};
use super::records::{CHUNK_BYTES, ChangeKind, ControlRecord, Key, ReleaseRecord, RouteChange, RouteValue, Scope};
use super::state::RegistryState;
use super::status::{FallbackTenant, HostStatus, Running};
use super::undo::cannot_go_back;
use crate::record::TenantId;
use crate::routing::{Digest, Gate, Percent, Route, Share};

/// The tenants that a release is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// All tenants without a more specific route.
    Default,
    /// A percentage of those tenants.
    Percent(Percent),
    /// These tenants. Their routes (pins) take precedence over all others.
    Tenants(BTreeSet<TenantId>),
}

/// An artifact to deploy, and the tenants that shall run it.
#[derive(Debug, Clone)]
pub struct Deployment<'a> {
    /// The digest of the artifact.
    pub release: Digest,
    /// The bytes of the artifact.
    pub artifact: &'a [u8],
    /// The record to write for the release.
    pub record: ReleaseRecord,
    /// The tenants that shall run it.
    pub audience: Audience,
    /// The health gate of the new routes, if there is one.
    pub gate: Option<Gate>,
}

impl ReleaseRecord {
    /// The number of chunks of an artifact with `size` bytes.
    pub fn chunks_of(size: usize) -> u32 {
        u32::try_from(size.div_ceil(CHUNK_BYTES)).expect("an artifact is far below 2 PiB")
    }
}

/// Deploys a release: writes its artifact unless the topic already has it, and routes the audience to it.
///
/// # Errors
/// If the release cannot take over the state of the tenants' current releases.
pub fn deploy(
    registry: &RegistryState,
    deployment: &Deployment<'_>,
    request: ChangeRequest,
) -> Result<Decision, Refusal> {
    let Deployment { release, artifact, record, audience, gate } = deployment;
    let routes = match assign(registry, *release, record, audience, *gate) {
        // A repeated deployment changes no route. It still gets an entry in the history and makes the release the
        // newest.
        Err(Refusal::NothingToChange) => Vec::new(),
        routes => routes?,
    };
    let (mut record, mut writes) = (record.clone(), Vec::new());
    match registry.release(release).filter(|_| registry.chunks(release).is_some()) {
        // The stored chunks may have another size than `CHUNK_BYTES`.
        Some(there) => {
            record.chunks = there.chunks;
            // A repeated deployment without a signature keeps the stored one.
            record.signature = record.signature.or_else(|| there.signature.clone());
        }
        None => {
            let chunks = artifact.chunks(CHUNK_BYTES).zip(0..);
            let key = |number| Key::Chunk { release: *release, number };
            writes
                .extend(chunks.map(|(chunk, number)| ControlRecord { key: key(number), value: Some(chunk.to_vec()) }));
        }
    }
    writes.push(ControlRecord::json(Key::Release(*release), &record));
    Ok(Decision::new(ChangeKind::Deploy, request, vec![*release], routes, writes))
}

/// Routes tenants to a release that is already deployed.
///
/// # Errors
/// If the release is not there, if the routes already are as requested, or if it cannot take over the state of the
/// tenants' current releases.
pub fn set_routes(
    registry: &RegistryState,
    release: Digest,
    audience: &Audience,
    gate: Option<Gate>,
    request: ChangeRequest,
) -> Result<Decision, Refusal> {
    registry.must_have(&release)?;
    let record = registry.release(&release).ok_or_else(|| Refusal::Gone(release.short()))?;
    let routes = assign(registry, release, record, audience, gate)?;
    Ok(Decision::new(ChangeKind::RouteSet, request, Vec::new(), routes, Vec::new()))
}

/// Removes routes. Their tenants run what the remaining routes say.
///
/// # Errors
/// If one of the routes does not exist.
pub fn clear_routes(
    registry: &RegistryState,
    scopes: &BTreeSet<Scope>,
    request: ChangeRequest,
) -> Result<Decision, Refusal> {
    if let Some(missing) = scopes.iter().find(|scope| registry.route(scope).is_none()) {
        return Err(Refusal::NoRoute(missing.clone()));
    }
    let routes: Vec<_> = scopes.iter().map(|scope| registry.route_change(scope.clone(), None)).collect();
    let warnings = routes.iter().filter_map(|touched| cannot_go_back(registry, touched)).collect();
    Ok(Decision { warnings, ..Decision::new(ChangeKind::RouteClear, request, Vec::new(), routes, Vec::new()) })
}

/// The routes that give `release` to the audience, after the check that it can take over the state of all these tenants.
fn assign(
    registry: &RegistryState,
    release: Digest,
    record: &ReleaseRecord,
    audience: &Audience,
    gate: Option<Gate>,
) -> Result<Vec<RouteChange>, Refusal> {
    let Assignment { routes, replaced } = Assignment::of(registry, release, audience, gate)?;
    check_state_versions(
        registry,
        &release,
        record,
        replaced.into_iter().chain(reported(registry, &release, audience)),
    )?;
    let changes = routes.into_iter().map(|(scope, after)| registry.route_change(scope, after));
    let changes: Vec<_> = changes.filter(|change| change.before != change.after).collect();
    if changes.is_empty() { Err(Refusal::NothingToChange) } else { Ok(changes) }
}

/// The routes of an audience, and what they replace.
struct Assignment {
    /// The new value of each route; `None` clears it.
    routes: BTreeMap<Scope, Option<RouteValue>>,
    replaced: Vec<ReplacedRelease>,
}

impl Assignment {
    fn of(registry: &RegistryState, release: Digest, audience: &Audience, gate: Option<Gate>) -> Result<Self, Refusal> {
        let table = registry.routes();
        let (default, share) = (table.default.route.as_ref(), table.share.route.as_ref());
        let route = |replaced: Option<&Route>| Route { release, previous: previous(replaced, release), gate };
        let mut replaced: Vec<Option<&Route>> = Vec::new();
        let mut routes = BTreeMap::new();
        match audience {
            Audience::Default => {
                replaced.push(default);
                routes.insert(Scope::Default, Some(RouteValue::Route(route(default))));
                // The percentage that tried this release is not needed any more: all of its tenants run the default.
                if share.is_some_and(|share| share.route.release == release) {
                    routes.insert(Scope::Percentage, None);
                }
            }
            Audience::Percent(percent) => {
                if default.is_some_and(|default| default.release == release) {
                    return Err(Refusal::AlreadyDefault(registry.title(&release)));
                }
                // Tenants of the new percentage may have been in the percentage of another release.
                replaced.extend([default, share.map(|share| &share.route)]);
                let share = Share { percent: *percent, route: route(default) };
                routes.insert(Scope::Percentage, Some(RouteValue::Share(share)));
            }
            Audience::Tenants(tenants) => {
                for tenant in tenants {
                    let resolved = table.resolve(tenant).route;
                    replaced.push(resolved);
                    routes.insert(Scope::Tenant(tenant.clone()), Some(RouteValue::Route(route(resolved))));
                }
            }
        }
        Ok(Self { routes, replaced: replaced.into_iter().flatten().map(ReplacedRelease::of_route).collect() })
    }
}

/// A release whose tenants another release is to take over.
struct ReplacedRelease {
    release: Digest,
    /// As the host reported it; `None`: only the release's record says it.
    state_version: Option<u32>,
    /// A relative clause for the refusal.
    whose: String,
}

impl ReplacedRelease {
    fn of_route(route: &Route) -> Self {
        Self { release: route.release, state_version: None, whose: "which it replaces".into() }
    }
}

/// Refuses a release that cannot take over the state of one of the replaced releases.
fn check_state_versions(
    registry: &RegistryState,
    release: &Digest,
    record: &ReleaseRecord,
    replaced: impl Iterator<Item = ReplacedRelease>,
) -> Result<(), Refusal> {
    for ReplacedRelease { release: former, state_version, whose } in replaced.filter(|old| old.release != *release) {
        let recorded = registry.release(&former).map(|record| record.manifest.state_version);
        if let Some(version) = recorded.or(state_version)
            && !record.takes_over(version)
        {
            return Err(Refusal::StateVersion {
                release: record.manifest.title(release).to_string(),
                version: record.manifest.state_version,
                replaced: registry.title(&former),
                whose,
                former: version,
            });
        }
    }
    Ok(())
}

/// The releases that living hosts report for tenants of this audience, whatever the routes say: fallback releases, and the
/// releases of config files.
///
/// A host counts as living if it was alive when the newest record was written. No other host has run its tenants since.
fn reported(registry: &RegistryState, release: &Digest, audience: &Audience) -> Vec<ReplacedRelease> {
    let includes = |tenant: &TenantId| {
        let scope = registry.scope_of(tenant);
        match audience {
            Audience::Default => scope.is_none_or(|scope| scope == Scope::Default),
            Audience::Percent(percent) => !matches!(scope, Some(Scope::Tenant(_))) && percent.includes(release, tenant),
            Audience::Tenants(tenants) => tenants.contains(tenant),
        }
    };
    let replaced = |release, state_version, tenant: &TenantId| {
        let whose = format!("which the tenant {tenant} runs");
        includes(tenant).then_some(ReplacedRelease { release, state_version, whose })
    };
    let living = registry.newest().into_iter().flat_map(|newest| registry.living(newest)).map(|host| &host.status);
    let found = living.flat_map(|HostStatus { tenants, fallback, .. }| {
        let running = |running: &Running| {
            running.names.iter().find_map(|tenant| replaced(running.release, running.state_version, tenant))
        };
        let on_fallback = |fallback: &FallbackTenant| replaced(fallback.release, None, &fallback.tenant);
        tenants.iter().filter_map(running).chain(fallback.iter().filter_map(on_fallback)).collect::<Vec<_>>()
    });
    found.collect()
}

/// What the tenants of a replaced route ran before `release`; `None`: the artifact of their host's config file.
fn previous(replaced: Option<&Route>, release: Digest) -> Option<Digest> {
    replaced.and_then(|route| if route.release == release { route.previous } else { Some(route.release) })
}
