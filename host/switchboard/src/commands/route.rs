//! `switchboard route`: which release tenants run.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use switchboard_core::record::{Offset, TenantId};
use switchboard_core::registry::{RegistryState, RouteValue, Scope, clear_routes, set_routes};

use super::control::{Application, change, print, route as told, stamp, table};
use crate::cli::{RouteCommand, Scopes};

/// Shows or changes routes; false: a change was waited for, and trouble was seen.
///
/// # Errors
/// Why nothing is shown or changed, with what to do.
pub fn route(command: RouteCommand) -> anyhow::Result<bool> {
    match command {
        RouteCommand::Show { tenant, json, settings } => {
            let application = Application::new(*settings)?;
            let tenant = application.tenants(tenant.as_slice())?.pop_first();
            show(&application.read()?, tenant.as_ref(), json)?;
            Ok(true)
        }
        RouteCommand::Set { release, assignment, wait, json, settings } => {
            let application = Application::new(*settings)?;
            let (audience, gate) = (application.audience(&assignment)?, assignment.gate());
            let stamp = stamp(assignment.note);
            change(&mut application.writer()?, json, wait.time(), |control| {
                Ok(set_routes(control, control.find(&release)?, &audience, gate, stamp.clone())?)
            })
        }
        RouteCommand::Clear { scopes, note, wait, json, settings } => {
            let application = Application::new(*settings)?;
            let (scopes, stamp) = (meant(&application, &scopes)?, stamp(note));
            change(&mut application.writer()?, json, wait.time(), |control| {
                Ok(clear_routes(control, &scopes, stamp.clone())?)
            })
        }
    }
}

fn meant(application: &Application, scopes: &Scopes) -> anyhow::Result<BTreeSet<Scope>> {
    let tenants = application.tenants(&scopes.tenant)?.into_iter().map(Scope::Tenant);
    let others = [(scopes.percentage, Scope::Percentage), (scopes.default, Scope::Default)];
    Ok(tenants.chain(others.into_iter().filter_map(|(is_meant, scope)| is_meant.then_some(scope))).collect())
}

fn show(control: &RegistryState, tenant: Option<&TenantId>, as_json: bool) -> anyhow::Result<()> {
    let only = tenant.map(|tenant| control.scope_of(tenant));
    let routes = control.routed().filter(|(scope, ..)| only.as_ref().is_none_or(|only| only.as_ref() == Some(scope)));
    let routes: Vec<_> = routes.collect();
    if as_json {
        let routes = routes.iter().map(|(scope, value, offset)| one(control, scope, value, *offset));
        println!("{:#}", json!({ "routes": routes.collect::<Result<Vec<_>, _>>()? }));
        return Ok(());
    }
    if routes.is_empty() {
        println!("no route: tenants run the artifact of their hosts' config files, if there is one");
        return Ok(());
    }
    let mut shown = table(&["ROUTE", "RELEASE", "BEFORE", "GATE"]);
    for (scope, value, _) in &routes {
        let route = value.route();
        let gate = |gate: switchboard_core::routing::Gate| {
            let time = humantime::format_duration(std::time::Duration::from_secs(gate.seconds));
            format!("{} of {} within {time}", gate.failures, gate.messages)
        };
        shown.add_row([
            scope.to_string(),
            told(control, value),
            route.previous.map_or("on file".to_owned(), |previous| control.title(&previous)),
            route.gate.map_or("none".to_owned(), gate),
        ]);
    }
    print(&mut shown);
    Ok(())
}

fn one(control: &RegistryState, scope: &Scope, value: &RouteValue, offset: Offset) -> serde_json::Result<Value> {
    let mut told = serde_json::to_value(value)?;
    told["route"] = json!(scope);
    told["offset"] = json!(offset);
    if let Some(record) = control.release(&value.route().release) {
        told["name"] = json!(record.manifest.name);
        told["version"] = json!(record.manifest.version);
    }
    Ok(told)
}
