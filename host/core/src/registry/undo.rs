//! The commands that undo changes: `rollback` for operators, `automatic_rollback` for hosts.

use std::collections::BTreeSet;

use super::decision::{ChangeRequest, Decision, Refusal};
use super::records::{ChangeKind, RouteChange, RouteValue, Scope};
use super::state::{Entry, RegistryState, RouteEntry};
use crate::record::{Offset, TenantId};
use crate::routing::{Digest, Route};

/// Undoes the last change of routes that is not undone yet. It restores only routes that nobody has changed since.
///
/// With `tenants` it undoes the last change of each of these tenants' own routes, and of nothing else. Restored routes
/// have no gate: these releases have run before, and a host shall not undo an operator's rollback.
///
/// # Errors
/// If there is no such change, or if a release that it replaced has been removed.
pub fn rollback(
    registry: &RegistryState,
    tenants: &BTreeSet<TenantId>,
    request: ChangeRequest,
) -> Result<Decision, Refusal> {
    let history = registry.history();
    let mut routes = Vec::new();
    if tenants.is_empty() {
        routes.extend(last_undoable(registry, &history, |_| true));
    }
    for tenant in tenants {
        let own = last_undoable(registry, &history, |scope| matches!(scope, Scope::Tenant(own) if own == tenant));
        if own.is_empty() {
            return Err(Refusal::NothingToUndo { of: format!("of the route of the tenant {tenant} ") });
        }
        routes.extend(own);
    }
    if routes.is_empty() {
        return Err(Refusal::NothingToUndo { of: String::new() });
    }
    for value in routes.iter().filter_map(|touched| touched.after.as_ref()) {
        registry.must_have(&value.route().release)?;
    }
    let warnings = routes.iter().filter_map(|touched| cannot_go_back(registry, touched)).collect();
    let mut decision = Decision::new(ChangeKind::Rollback, request, Vec::new(), routes, Vec::new());
    decision.warnings = warnings;
    Ok(decision)
}

/// Undoes the change that gave tenants to a failing release.
///
/// It restores the route that was set at this offset. It also restores the other routes that the same change gave to the
/// release, except those that were changed since.
///
/// # Errors
/// [`Refusal::Stale`] if the route names another release now, or was set again.
pub fn automatic_rollback(
    registry: &RegistryState,
    release: &Digest,
    offset: Offset,
    request: ChangeRequest,
) -> Result<Decision, Refusal> {
    let set_here = |route: &RouteEntry| route.offset == offset && route.value.route().release == *release;
    let RouteEntry { scope, value, .. } = registry.routed().find(set_here).ok_or(Refusal::Stale)?;
    let made = |touched: &&RouteChange| touched.after.as_ref() == Some(&value) && touched.route == scope;
    let change =
        registry.history().into_iter().rev().find(|entry| entry.change.routes.iter().any(|touched| made(&touched)));
    let routes = match change {
        Some(entry) => {
            let same = |touched: &&RouteChange| {
                let value = touched.after.as_ref();
                value.is_some_and(|value| value.route().release == *release)
                    && registry.route(&touched.route).as_ref() == value
            };
            entry.change.routes.iter().filter(same).map(|touched| back(registry, touched, Some(&entry.id))).collect()
        }
        // The route was not set by a change: somebody wrote its record by hand.
        None => {
            let touched = RouteChange { route: scope, before: None, after: Some(value), undoes: None };
            vec![back(registry, &touched, None)]
        }
    };
    Ok(Decision::new(ChangeKind::AutomaticRollback, request, Vec::new(), routes, Vec::new()))
}

/// The change of a route back to the release that its tenants ran before `touched`.
fn back(registry: &RegistryState, touched: &RouteChange, undoes: Option<&str>) -> RouteChange {
    let RouteChange { route, before, after, .. } = touched;
    let previous = after.as_ref().and_then(|value| value.route().previous);
    let after = match (route, previous) {
        (Scope::Percentage, _) | (_, None) => None,
        (_, Some(previous)) => match before {
            Some(before) if before.route().release == previous => Some(before.clone().ungated()),
            // This was the first pin of its tenant. Without the pin the tenant runs the previous release.
            None if runs_without(registry, route, previous) => None,
            _ => Some(RouteValue::Route(Route { release: previous, previous: None, gate: None })),
        },
    };
    RouteChange { undoes: undoes.map(str::to_owned), ..registry.route_change(route.clone(), after) }
}

/// Whether the tenant of this pin would run `release` without it.
fn runs_without(registry: &RegistryState, scope: &Scope, release: Digest) -> bool {
    matches!(scope, Scope::Tenant(_)) && without(registry, scope) == Some(release)
}

/// The release that the tenants of a route would run without it.
fn without(registry: &RegistryState, scope: &Scope) -> Option<Digest> {
    let mut table = registry.routes().clone();
    let next = match scope {
        Scope::Tenant(tenant) => {
            table.pins.remove(tenant);
            table.resolve(tenant).route
        }
        Scope::Percentage => table.default.route.as_ref(),
        Scope::Default => None,
    };
    next.map(|route| route.release)
}

/// The changes that undo the last change that can be undone, among the routes that `is_meant` accepts.
fn last_undoable(registry: &RegistryState, history: &[&Entry], is_meant: impl Fn(&Scope) -> bool) -> Vec<RouteChange> {
    let undone: BTreeSet<_> = history
        .iter()
        .flat_map(|entry| &entry.change.routes)
        .filter_map(|touched| Some((touched.undoes.as_deref()?, &touched.route)))
        .collect();
    let ungated = |value: &Option<RouteValue>| value.clone().map(RouteValue::ungated);
    let undo = |entry: &Entry, touched: &RouteChange| {
        let RouteChange { route, before, after, .. } = touched;
        let is_so = ungated(&registry.route(route)) == ungated(after);
        (is_meant(route) && is_so && !undone.contains(&(entry.id.as_str(), route))).then(|| RouteChange {
            undoes: Some(entry.id.clone()),
            ..registry.route_change(route.clone(), ungated(before))
        })
    };
    history
        .iter()
        .rev()
        .filter(|entry| !matches!(entry.change.kind, ChangeKind::Rollback | ChangeKind::AutomaticRollback))
        .map(|entry| entry.change.routes.iter().filter_map(|touched| undo(entry, touched)).collect::<Vec<_>>())
        .find(|undone| !undone.is_empty())
        .unwrap_or_default()
}

/// A warning, if the release that tenants are to run again cannot read the state of their current release.
pub(super) fn cannot_go_back(registry: &RegistryState, touched: &RouteChange) -> Option<String> {
    let now = touched.before.as_ref()?.route().release;
    let then = match &touched.after {
        Some(after) => after.route().release,
        None => without(registry, &touched.route)?,
    };
    let version = registry.release(&now)?.manifest.state_version;
    (!registry.release(&then)?.takes_over(version)).then(|| {
        format!(
            "{}: tenants whose state has version {version} go on with {}, because {} cannot take it over",
            touched.route,
            registry.title(&now),
            registry.title(&then)
        )
    })
}
