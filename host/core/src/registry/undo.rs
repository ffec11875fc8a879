use std::collections::BTreeSet;

use super::decision::{ChangeRequest, Decision, Refusal};
use super::records::{ChangeKind, RouteChange, RouteValue, Scope};
use super::state::{Entry, RegistryState};
use crate::record::{Offset, TenantId};
use crate::routing::Digest;
use crate::routing::Route;

/// Undoes the last change of routes that is not undone yet, as far as its routes are still what it made them; with
/// `tenants`, the last change of each of these tenants' own routes, and of nothing else. What is restored has no gate: it
/// has run before, and an operator's rollback is not to be rolled back further by itself.
///
/// # Errors
/// When there is no such change, or a release that it replaced has been removed.
pub fn rollback(
    control: &RegistryState,
    tenants: &BTreeSet<TenantId>,
    stamp: ChangeRequest,
) -> Result<Decision, Refusal> {
    let history = control.history();
    let mut routes = Vec::new();
    if tenants.is_empty() {
        routes.extend(last_undoable(control, &history, |_| true));
    }
    for tenant in tenants {
        let own = last_undoable(control, &history, |scope| matches!(scope, Scope::Tenant(own) if own == tenant));
        if own.is_empty() {
            return Err(Refusal::NothingToUndo { of: format!("of the route of the tenant {tenant} ") });
        }
        routes.extend(own);
    }
    if routes.is_empty() {
        return Err(Refusal::NothingToUndo { of: String::new() });
    }
    for value in routes.iter().filter_map(|touched| touched.after.as_ref()) {
        control.must_have(&value.route().release)?;
    }
    let warnings = routes.iter().filter_map(|touched| cannot_go_back(control, touched)).collect();
    let mut decision = Decision::new(ChangeKind::Rollback, stamp, Vec::new(), routes, Vec::new());
    decision.warnings = warnings;
    Ok(decision)
}

/// Routes back what a release was deployed to, because it fails: the route that was set at this offset, and with it the
/// others that the same change gave to the release. Nothing when one of them is not so any more.
///
/// # Errors
/// [`Refusal::Stale`] when the route names another release now, or was set anew.
pub fn automatic_rollback(
    control: &RegistryState,
    release: &Digest,
    offset: Offset,
    stamp: ChangeRequest,
) -> Result<Decision, Refusal> {
    let set_here = |(_, value, at): &(Scope, RouteValue, Offset)| *at == offset && value.route().release == *release;
    let (scope, value, _) = control.routed().find(set_here).ok_or(Refusal::Stale)?;
    let made = |touched: &&RouteChange| touched.after.as_ref() == Some(&value) && touched.route == scope;
    let change =
        control.history().into_iter().rev().find(|entry| entry.change.routes.iter().any(|touched| made(&touched)));
    let routes = match change {
        Some(entry) => {
            let same = |touched: &&RouteChange| {
                let value = touched.after.as_ref();
                value.is_some_and(|value| value.route().release == *release)
                    && control.route(&touched.route).as_ref() == value
            };
            entry.change.routes.iter().filter(same).map(|touched| back(control, touched, Some(&entry.id))).collect()
        }
        // Somebody has set it by hand.
        None => {
            let touched = RouteChange { route: scope, before: None, after: Some(value), undoes: None };
            vec![back(control, &touched, None)]
        }
    };
    Ok(Decision::new(ChangeKind::AutomaticRollback, stamp, Vec::new(), routes, Vec::new()))
}

/// A route back to what its tenants ran before `touched`.
fn back(control: &RegistryState, touched: &RouteChange, undoes: Option<&str>) -> RouteChange {
    let RouteChange { route, before, after, .. } = touched;
    let previous = after.as_ref().and_then(|value| value.route().previous);
    let after = match (route, previous) {
        (Scope::Percentage, _) | (_, None) => None,
        (_, Some(previous)) => match before {
            Some(before) if before.route().release == previous => Some(before.clone().ungated()),
            // It was the first pin of its tenant: without it, that may run what it ran before.
            None if runs_without(control, route, previous) => None,
            _ => Some(RouteValue::Route(Route { release: previous, previous: None, gate: None })),
        },
    };
    RouteChange { undoes: undoes.map(str::to_owned), ..control.touch(route.clone(), after) }
}

/// Whether a tenant would run this release if it had no pin.
fn runs_without(control: &RegistryState, scope: &Scope, release: Digest) -> bool {
    matches!(scope, Scope::Tenant(_)) && without(control, scope) == Some(release)
}

/// What tenants of a route run if that is not there.
fn without(control: &RegistryState, scope: &Scope) -> Option<Digest> {
    let mut table = control.routes().clone();
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

/// What undoes the last change that can be undone, of the routes that are meant.
fn last_undoable(control: &RegistryState, history: &[&Entry], is_meant: impl Fn(&Scope) -> bool) -> Vec<RouteChange> {
    let undone: BTreeSet<_> = history
        .iter()
        .flat_map(|entry| &entry.change.routes)
        .filter_map(|touched| Some((touched.undoes.as_deref()?, &touched.route)))
        .collect();
    let ungated = |value: &Option<RouteValue>| value.clone().map(RouteValue::ungated);
    let undo = |entry: &Entry, touched: &RouteChange| {
        let RouteChange { route, before, after, .. } = touched;
        let is_so = ungated(&control.route(route)) == ungated(after);
        (is_meant(route) && is_so && !undone.contains(&(entry.id.as_str(), route)))
            .then(|| RouteChange { undoes: Some(entry.id.clone()), ..control.touch(route.clone(), ungated(before)) })
    };
    history
        .iter()
        .rev()
        .filter(|entry| !matches!(entry.change.what, ChangeKind::Rollback | ChangeKind::AutomaticRollback))
        .map(|entry| entry.change.routes.iter().filter_map(|touched| undo(entry, touched)).collect::<Vec<_>>())
        .find(|undone| !undone.is_empty())
        .unwrap_or_default()
}

/// What becomes of tenants whose state cannot be read by the release that they are to run again.
pub(super) fn cannot_go_back(control: &RegistryState, touched: &RouteChange) -> Option<String> {
    let now = touched.before.as_ref()?.route().release;
    let then = match &touched.after {
        Some(after) => after.route().release,
        None => without(control, &touched.route)?,
    };
    let version = control.release(&now)?.manifest.state_version;
    (!control.release(&then)?.takes_over(version)).then(|| {
        format!(
            "{}: tenants whose state has version {version} already stay on {}, because {} cannot take it over",
            touched.route,
            control.title(&now),
            control.title(&then)
        )
    })
}
