use wasmtime::component::{Component, InstancePre};
use wasmtime::{Engine, Result, Store};

use super::artifact::told;
use super::bindings::exports::switchboard::plugin::{handler, migration};
use super::engine::Sandbox;
use super::guest::Guest;
use super::wasi;

/// The export that makes a component a plugin.
pub(super) const HANDLER: &str = "switchboard:plugin/handler@0.1.0";
/// The export that a plugin has when it takes over state of other versions.
const MIGRATION: &str = "switchboard:plugin/migration@0.1.0";

/// A plugin's code, linked with what the host gives it, and where in it the contract's exports are.
pub(super) struct Linked {
    pre: InstancePre<Guest>,
    handler: handler::GuestIndices,
    migration: Option<migration::GuestIndices>,
}

/// One instance's exports.
pub(super) struct Exports {
    pub(super) handler: handler::Guest,
    pub(super) migration: Option<migration::Guest>,
}

/// Exports whose types differ from the contract's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Mismatch(String);

#[allow(clippy::needless_pass_by_value)] // for map_err
fn mismatch(error: wasmtime::Error) -> Mismatch {
    Mismatch(told(&error))
}

impl Linked {
    /// # Errors
    /// When imports differ from what the host has, or an exported interface has not all of its functions.
    pub(super) fn new(sandbox: &Sandbox, component: &Component) -> Result<Self> {
        let mut linker = sandbox.linker.clone();
        wasi::deny(&mut linker, component, &sandbox.engine)?;
        let pre = linker.instantiate_pre(component)?;
        let handler = handler::GuestIndices::new(&pre)?;
        let has_migration = component.get_export_index(None, MIGRATION).is_some();
        let migration = has_migration.then(|| migration::GuestIndices::new(&pre)).transpose()?;
        Ok(Self { pre, handler, migration })
    }

    pub(super) fn engine(&self) -> &Engine {
        self.pre.engine()
    }

    /// # Errors
    /// As the guest's own start ends; a `Mismatch` when the exports' types differ from the contract's.
    pub(super) fn instantiate(&self, store: &mut Store<Guest>) -> Result<Exports> {
        let instance = self.pre.instantiate(&mut *store)?;
        let handler = self.handler.load(&mut *store, &instance).map_err(mismatch)?;
        let migration = self.migration.as_ref().map(|indices| indices.load(store, &instance));
        Ok(Exports { handler, migration: migration.transpose().map_err(mismatch)? })
    }
}
