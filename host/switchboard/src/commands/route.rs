//! `switchboard route`: shows or changes which release tenants run.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard_core::record::{Offset, TenantId};
use switchboard_core::registry::{RegistryState, RouteEntry, RouteValue, Scope, clear_routes, set_routes};
use switchboard_core::routing::Gate;

use super::Outcome;
use super::application::{Application, change, new_request};
use super::output::{new_table, print_table, route_title};
use crate::cli::{RouteCommand, Scopes};

/// Shows or changes routes.
///
/// # Errors
/// Why nothing was shown or changed, and what to do.
pub fn route(command: RouteCommand) -> anyhow::Result<Outcome> {
    match command {
        RouteCommand::Show { tenant, json, settings } => {
            let application = Application::new(*settings)?;
            let tenant = application.tenants(tenant.as_slice())?.pop_first();
            show(&application.read()?, tenant.as_ref(), json)?;
            Ok(Outcome::Success)
        }
        RouteCommand::Set { release, assignment, wait, json, settings } => {
            let application = Application::new(*settings)?;
            let (audience, gate) = (application.audience(&assignment)?, assignment.gate());
            let request = new_request(assignment.note);
            change(&mut application.writer()?, json, wait.time(), |registry| {
                Ok(set_routes(registry, registry.find(&release)?, &audience, gate, request.clone())?)
            })
        }
        RouteCommand::Clear { scopes, note, wait, json, settings } => {
            let application = Application::new(*settings)?;
            let scopes = scopes_from_flags(&application, &scopes)?;
            let request = new_request(note);
            change(&mut application.writer()?, json, wait.time(), |registry| {
                Ok(clear_routes(registry, &scopes, request.clone())?)
            })
        }
    }
}

/// The routes that the flags name.
fn scopes_from_flags(application: &Application, scopes: &Scopes) -> anyhow::Result<BTreeSet<Scope>> {
    let tenants = application.tenants(&scopes.tenant)?.into_iter().map(Scope::Tenant);
    let others = [(scopes.percentage, Scope::Percentage), (scopes.default, Scope::Default)];
    Ok(tenants.chain(others.into_iter().filter_map(|(is_set, scope)| is_set.then_some(scope))).collect())
}

/// Prints all routes, or the route that decides what a tenant runs.
fn show(registry: &RegistryState, tenant: Option<&TenantId>, as_json: bool) -> anyhow::Result<()> {
    let only = tenant.map(|tenant| registry.scope_of(tenant));
    let routes = registry.routed().filter(|entry| only.as_ref().is_none_or(|only| only.as_ref() == Some(&entry.scope)));
    let routes: Vec<_> = routes.collect();
    if as_json {
        let routes = routes.iter().map(|entry| route_json(registry, &entry.scope, &entry.value, entry.offset));
        println!("{:#}", json!({ "routes": routes.collect::<Result<Vec<_>, _>>()? }));
        return Ok(());
    }
    if routes.is_empty() {
        println!("there is no route: tenants run the plugin that their hosts have configured, if any");
        return Ok(());
    }
    let mut table = new_table(&["ROUTE", "RELEASE", "PREVIOUS", "GATE"]);
    for RouteEntry { scope, value, .. } in &routes {
        let route = value.route();
        let gate = |gate: Gate| {
            let time = humantime::format_duration(Duration::from_secs(gate.seconds));
            format!("{} of {} within {time}", gate.failures, gate.messages)
        };
        table.add_row([
            scope.to_string(),
            route_title(registry, value),
            route.previous.map_or("configured plugin".to_owned(), |previous| registry.title(&previous)),
            route.gate.map_or("none".to_owned(), gate),
        ]);
    }
    print_table(&mut table);
    Ok(())
}

fn route_json(
    registry: &RegistryState,
    scope: &Scope,
    value: &RouteValue,
    offset: Offset,
) -> serde_json::Result<Value> {
    let mut json = serde_json::to_value(value)?;
    json["route"] = json!(scope);
    json["offset"] = json!(offset);
    if let Some(record) = registry.release(&value.route().release) {
        json["name"] = json!(record.manifest.name);
        json["version"] = json!(record.manifest.version);
    }
    Ok(json)
}
