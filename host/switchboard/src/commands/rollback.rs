//! `switchboard rollback`: undoes the last change of routes that is not undone yet.

use switchboard_core::registry::rollback as decide;

use super::Outcome;
use super::application::{Application, change, new_request};
use crate::cli::RollbackArgs;

/// Rolls a change back.
///
/// # Errors
/// Why nothing was changed, and what to do.
pub fn rollback(args: RollbackArgs) -> anyhow::Result<Outcome> {
    let RollbackArgs { tenant, note, wait, json, settings } = args;
    let application = Application::new(settings)?;
    let tenants = application.tenants(&tenant)?;
    let request = new_request(note);
    change(&mut application.writer()?, json, wait.time(), |registry| Ok(decide(registry, &tenants, request.clone())?))
}
