//! A compiled component, linked with the host's imports.
//!
//! Linking happens once an artifact; `Linked::instantiate` then only makes the instance and looks up its exports by
//! index.

use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{Engine, Result, Store};

use crate::bindings::contract::exports::switchboard::plugin::{handler, migration};
use crate::guest::Guest;
use crate::trap::one_line;
use crate::wasi;

/// The export that makes a component a plugin.
pub(crate) const HANDLER_EXPORT: &str = "switchboard:plugin/handler@0.1.0";
/// The export of a plugin that can migrate state of other versions.
const MIGRATION_EXPORT: &str = "switchboard:plugin/migration@0.1.0";

/// A plugin's code, linked with the host's functions, and the places of the contract's exports in it.
pub(crate) struct Linked {
    pre: InstancePre<Guest>,
    handler: handler::GuestIndices,
    migration: Option<migration::GuestIndices>,
}

/// The exports of one instance.
pub(crate) struct Exports {
    pub(crate) handler: handler::Guest,
    pub(crate) migration: Option<migration::Guest>,
}

/// The types of the exports differ from the contract's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Mismatch(String);

#[allow(clippy::needless_pass_by_value)] // for map_err
fn mismatch(error: wasmtime::Error) -> Mismatch {
    Mismatch(one_line(&error))
}

impl Linked {
    /// Links a component. `linker` has the granted imports; the denied ones are added here, because their names depend
    /// on the component.
    ///
    /// # Errors
    /// When the imports differ from the host's, or an exported interface lacks a function.
    pub(crate) fn new(linker: &Linker<Guest>, component: &Component) -> Result<Self> {
        let mut linker = linker.clone();
        wasi::deny(&mut linker, component)?;
        let pre = linker.instantiate_pre(component)?;
        let handler = handler::GuestIndices::new(&pre)?;
        let has_migration = component.get_export_index(None, MIGRATION_EXPORT).is_some();
        let migration = has_migration.then(|| migration::GuestIndices::new(&pre)).transpose()?;
        Ok(Self { pre, handler, migration })
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.pre.engine()
    }

    /// Makes an instance.
    ///
    /// # Errors
    /// When the guest's start function fails. A `Mismatch` when the types of the exports differ from the contract's.
    pub(crate) fn instantiate(&self, store: &mut Store<Guest>) -> Result<Exports> {
        let instance = self.pre.instantiate(&mut *store)?;
        let handler = self.handler.load(&mut *store, &instance).map_err(mismatch)?;
        let migration = self.migration.as_ref().map(|indices| indices.load(store, &instance));
        Ok(Exports { handler, migration: migration.transpose().map_err(mismatch)? })
    }
}
