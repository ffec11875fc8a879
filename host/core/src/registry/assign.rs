use std::collections::{BTreeMap, BTreeSet};

use super::decision::{ChangeRequest, Decision, Refusal};
use super::records::{CHUNK_BYTES, ChangeKind, ControlRecord, Key, ReleaseRecord, RouteChange, RouteValue, Scope};
use super::state::RegistryState;
use super::status::{HostStatus, Running, Staying};
use super::undo::cannot_go_back;
use crate::record::TenantId;
use crate::routing::Digest;
use crate::routing::{Gate, Percent, Route, Share};

/// Who shall run a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// All tenants that no other route is for.
    Default,
    /// A part of those.
    Percent(Percent),
    /// These, whatever other routes say.
    Tenants(BTreeSet<TenantId>),
}

/// An artifact to deploy, and to whom.
#[derive(Debug, Clone)]
pub struct Deployment<'a> {
    pub release: Digest,
    pub artifact: &'a [u8],
    pub record: ReleaseRecord,
    pub audience: Audience,
    pub gate: Option<Gate>,
}

impl ReleaseRecord {
    /// Number of chunks that an artifact of this size has.
    pub fn chunks_of(size: usize) -> u32 {
        u32::try_from(size.div_ceil(CHUNK_BYTES)).expect("an artifact is far below 2 PiB")
    }
}

/// Writes an artifact, unless it is there, and routes its tenants to it.
///
/// # Errors
/// When its state version does not go with what these tenants run.
pub fn deploy(control: &RegistryState, deployment: &Deployment<'_>, stamp: ChangeRequest) -> Result<Decision, Refusal> {
    let Deployment { release, artifact, record, audience, gate } = deployment;
    let routes = match assign(control, *release, record, audience, *gate) {
        // It is deployed again: that it was is worth an entry, and makes it the newest.
        Err(Refusal::NothingToChange) => Vec::new(),
        routes => routes?,
    };
    let (mut record, mut writes) = (record.clone(), Vec::new());
    match control.release(release).filter(|_| control.chunks(release).is_some()) {
        // They may have been cut to another size.
        Some(there) => {
            record.chunks = there.chunks;
            // Who deploys it again need not have its signature.
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
    Ok(Decision::new(ChangeKind::Deploy, stamp, vec![*release], routes, writes))
}

/// Routes tenants to a release that was deployed before.
///
/// # Errors
/// When it is not there, it is so already, or its state version does not go with what these tenants run.
pub fn set_routes(
    control: &RegistryState,
    release: Digest,
    audience: &Audience,
    gate: Option<Gate>,
    stamp: ChangeRequest,
) -> Result<Decision, Refusal> {
    control.must_have(&release)?;
    let record = control.release(&release).ok_or_else(|| Refusal::Gone(release.short()))?;
    let routes = assign(control, release, record, audience, gate)?;
    Ok(Decision::new(ChangeKind::RouteSet, stamp, Vec::new(), routes, Vec::new()))
}

/// Takes routes away: their tenants run what the remaining routes say.
///
/// # Errors
/// When one of them is not there.
pub fn clear_routes(
    control: &RegistryState,
    scopes: &BTreeSet<Scope>,
    stamp: ChangeRequest,
) -> Result<Decision, Refusal> {
    if let Some(none) = scopes.iter().find(|scope| control.route(scope).is_none()) {
        return Err(Refusal::NoRoute(none.clone()));
    }
    let routes: Vec<_> = scopes.iter().map(|scope| control.touch(scope.clone(), None)).collect();
    let warnings = routes.iter().filter_map(|touched| cannot_go_back(control, touched)).collect();
    Ok(Decision { warnings, ..Decision::new(ChangeKind::RouteClear, stamp, Vec::new(), routes, Vec::new()) })
}

fn assign(
    control: &RegistryState,
    release: Digest,
    record: &ReleaseRecord,
    audience: &Audience,
    gate: Option<Gate>,
) -> Result<Vec<RouteChange>, Refusal> {
    let table = control.routes();
    let (default, share) = (table.default.route.as_ref(), table.share.route.as_ref());
    let route = |replaced: Option<&Route>| Route { release, previous: previous(replaced, release), gate };
    let mut replaced: Vec<Option<&Route>> = Vec::new();
    let mut touched = BTreeMap::new();
    match audience {
        Audience::Default => {
            replaced.push(default);
            touched.insert(Scope::Default, Some(RouteValue::Route(route(default))));
            // All tenants run it now.
            if share.is_some_and(|share| share.route.release == release) {
                touched.insert(Scope::Percentage, None);
            }
        }
        Audience::Percent(percent) => {
            if default.is_some_and(|default| default.release == release) {
                return Err(Refusal::AlreadyDefault(control.title(&release)));
            }
            // Some of its tenants may have been among those of another release.
            replaced.extend([default, share.map(|share| &share.route)]);
            let share = Share { percent: *percent, route: route(default) };
            touched.insert(Scope::Percentage, Some(RouteValue::Share(share)));
        }
        Audience::Tenants(tenants) => {
            for tenant in tenants {
                let resolved = table.resolve(tenant).route;
                replaced.push(resolved);
                touched.insert(Scope::Tenant(tenant.clone()), Some(RouteValue::Route(route(resolved))));
            }
        }
    }
    let routed = replaced.into_iter().flatten().map(|route| Former {
        release: route.release,
        state_version: None,
        whose: "which it replaces".into(),
    });
    for Former { release: former, state_version, whose } in routed.chain(reported(control, &release, audience)) {
        let record_of = control.release(&former).map(|record| record.manifest.state_version);
        if let Some(version) = record_of.or(state_version).filter(|_| former != release)
            && !record.takes_over(version)
        {
            return Err(Refusal::StateVersion {
                release: format!("{} {} ({})", record.manifest.name, record.manifest.version, release.short()),
                version: record.manifest.state_version,
                replaced: control.title(&former),
                whose,
                former: version,
            });
        }
    }
    let routes: Vec<_> = touched.into_iter().map(|(scope, after)| control.touch(scope, after)).collect();
    let routes: Vec<_> = routes.into_iter().filter(|touched| touched.before != touched.after).collect();
    if routes.is_empty() { Err(Refusal::NothingToChange) } else { Ok(routes) }
}

/// A release whose tenants another one is to take over.
struct Former {
    release: Digest,
    state_version: Option<u32>,
    whose: String,
}

/// What hosts say that tenants of this audience run now, whatever routes say: what they stay on, and what is on file. A host's
/// word counts as long as it lived when the newest record was written: nobody else has run its tenants since.
fn reported(control: &RegistryState, release: &Digest, audience: &Audience) -> Vec<Former> {
    let includes = |tenant: &TenantId| {
        let scope = control.scope_of(tenant);
        match audience {
            Audience::Default => scope.is_none_or(|scope| scope == Scope::Default),
            Audience::Percent(percent) => !matches!(scope, Some(Scope::Tenant(_))) && percent.includes(release, tenant),
            Audience::Tenants(tenants) => tenants.contains(tenant),
        }
    };
    let former = |release, state_version, tenant: &TenantId| {
        includes(tenant).then(|| Former { release, state_version, whose: format!("which the tenant {tenant} runs") })
    };
    let living = control.newest().into_iter().flat_map(|newest| control.living(newest)).map(|seen| &seen.status);
    let found = living.flat_map(|HostStatus { tenants, staying, .. }| {
        let runs = |running: &Running| {
            running.names.iter().find_map(|tenant| former(running.release, running.state_version, tenant))
        };
        let stays = |staying: &Staying| former(staying.release, None, &staying.tenant);
        tenants.iter().filter_map(runs).chain(staying.iter().filter_map(stays)).collect::<Vec<_>>()
    });
    found.collect()
}

/// What tenants ran before a release, by the route that they had; `None`: the artifact of their host's config file.
fn previous(replaced: Option<&Route>, release: Digest) -> Option<Digest> {
    replaced.and_then(|route| if route.release == release { route.previous } else { Some(route.release) })
}
