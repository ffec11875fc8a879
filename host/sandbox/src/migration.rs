//! Migrates one tenant's state to the layout of another release.
//!
//! A migration runs in an instance of its own, so that it leaves nothing in the memory of the instance that handles
//! messages. Its changes are staged in the message's layer of the state: the worker commits them with the first message,
//! or drops them.

use std::sync::Arc;

use switchboard_core::record::{Class, DeadLetter, TenantId};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{MigrateError, Outcome};
use wasmtime::Store;

use crate::artifact::Artifact;
use crate::guest::{Guest, new_store};
use crate::guest_log::{LogBudget, printable};
use crate::limits::Limits;
use crate::trap::{OutOfMemory, outcome_of};

/// Which release migrates whose state, from which version of the layout.
#[derive(Clone, Copy)]
pub(crate) struct Migration<'a> {
    pub(crate) artifact: &'a Artifact,
    pub(crate) tenant: &'a TenantId,
    pub(crate) from: u32,
}

impl Migration<'_> {
    /// Runs the migration.
    ///
    /// # Errors
    /// `OutOfMemory` when the machine has no room for the instance. The inner error says why the migration
    /// failed, on one line; the caller then drops what was staged.
    pub(crate) fn run(
        self,
        limits: &Limits,
        state: &mut TenantState,
        budget: &mut LogBudget,
    ) -> Result<Result<(), MigrateError>, OutOfMemory> {
        let Self { artifact, tenant, from } = self;
        if !artifact.release().migrates.contains(&from) {
            return Ok(Err(MigrateError::Version { release: artifact.title().to_string(), from }));
        }
        let limits = limits.for_migration();
        let guest = Guest::new(Arc::clone(artifact.title()), tenant.clone(), limits, *budget);
        let mut store = new_store(artifact.linked().engine(), guest);
        let result = self.call(&mut store, state);
        let guest = store.data_mut();
        let (lent, left) = guest.end_call();
        *budget = left;
        if let Some(lent) = lent {
            *state = lent;
        }
        let letter = match result {
            Ok(Ok(())) => return Ok(Ok(())),
            Ok(Err(reason)) => DeadLetter::new(Class::Invalid, reason),
            Err(error) => match outcome_of(&error, limits.fuel, guest.stderr_tail())? {
                Outcome::Failed(letter) => letter,
                // Unreachable: a lookup traps.
                other => DeadLetter::new(Class::Trap, format!("{other:?}")),
            },
        };
        let reason = printable(&letter.reason).into_owned();
        Ok(Err(MigrateError::Failed(DeadLetter { reason, ..letter })))
    }

    fn call(self, store: &mut Store<Guest>, state: &mut TenantState) -> wasmtime::Result<Result<(), String>> {
        let exports = self.artifact.linked().instantiate(store)?;
        let migration = exports.migration.expect("a plugin without the interface migrates from no version");
        store.data_mut().begin_migration(std::mem::take(state));
        migration.call_migrate(store, self.from)
    }
}
