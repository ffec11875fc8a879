use std::sync::Arc;

use switchboard_core::record::{Class, DeadLetter, TenantId};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{MigrateError, Outcome};
use wasmtime::Store;

use super::artifact::Artifact;
use super::guest::Guest;
use super::guest_log::{LogBudget, printable};
use super::instances::new_store;
use super::limits::Limits;
use super::trap::{OutOfMemory, judge};

/// Runs a migration of a tenant's state, in an instance of its own: what it leaves in memory is no message's. What it
/// changes is in the message's layer of `state`.
///
/// The inner error, for people: why it failed. Then the layer is to be dropped.
pub(super) fn migrate(
    artifact: &Artifact,
    limits: &Limits,
    tenant: &TenantId,
    from: u32,
    state: &mut TenantState,
    budget: &mut LogBudget,
) -> Result<Result<(), MigrateError>, OutOfMemory> {
    if !artifact.release().migrates.contains(&from) {
        return Ok(Err(MigrateError::Version { release: artifact.title.to_string(), from }));
    }
    let limits = limits.of_a_migration();
    let guest = Guest::new(Arc::clone(&artifact.title), tenant.clone(), limits, *budget);
    let mut store = new_store(artifact.linked.engine(), guest);
    let result = call(&mut store, artifact, from, state);
    let guest = store.data_mut();
    let (lent, left) = guest.end();
    *budget = left;
    if let Some(lent) = lent {
        *state = lent;
    }
    let letter = match result {
        Ok(Ok(())) => return Ok(Ok(())),
        Ok(Err(reason)) => DeadLetter::new(Class::Invalid, reason),
        Err(error) => match judge(&error, limits.fuel, guest.words())? {
            Outcome::Failed(letter) => letter,
            // Not reached: a lookup traps.
            other => DeadLetter::new(Class::Trap, format!("{other:?}")),
        },
    };
    let reason = printable(&letter.reason).into_owned();
    Ok(Err(MigrateError::Failed(DeadLetter { reason, ..letter })))
}

fn call(
    store: &mut Store<Guest>,
    artifact: &Artifact,
    from: u32,
    state: &mut TenantState,
) -> wasmtime::Result<Result<(), String>> {
    let exports = artifact.linked.instantiate(store)?;
    let migration = exports.migration.expect("a plugin without the interface migrates from no version");
    store.data_mut().begin_migration(std::mem::take(state));
    migration.call_migrate(store, from)
}
