//! `switchboard rollback`: undoes the last change of routes.

use switchboard_core::registry::rollback as decide;

use super::control::{Application, change, stamp};
use crate::cli::RollbackArgs;

/// Rolls back; false: it was waited for, and trouble was seen.
///
/// # Errors
/// Why nothing was changed, with what to do.
pub fn rollback(args: RollbackArgs) -> anyhow::Result<bool> {
    let RollbackArgs { tenant, note, wait, json, settings } = args;
    let application = Application::new(settings)?;
    let (tenants, stamp) = (application.tenants(&tenant)?, stamp(note));
    change(&mut application.writer()?, json, wait.time(), |control| Ok(decide(control, &tenants, stamp.clone())?))
}
