//! The state of all tenants of one shard.

use std::collections::BTreeMap;

use super::changelog::{CorruptKey, decode_key};
use super::tenant::TenantState;
use crate::record::TenantId;

/// The state of the tenants of one shard, except of those whose messages are running: a job has theirs.
#[derive(Debug, Default)]
pub struct Shard {
    tenants: BTreeMap<TenantId, TenantState>,
}

impl Shard {
    /// Takes the state of a tenant out, for a job.
    pub(crate) fn take(&mut self, id: &TenantId) -> TenantState {
        self.tenants.remove(id).unwrap_or_default()
    }

    /// Puts the state of a tenant back.
    pub(crate) fn put(&mut self, id: &TenantId, state: TenantState) {
        if !state.is_empty() {
            self.tenants.insert(id.clone(), state);
        }
    }

    /// Changes the state of a tenant, if it has stored anything.
    pub(crate) fn change(&mut self, id: &TenantId, change: impl FnOnce(&mut TenantState)) {
        if let Some(state) = self.tenants.get_mut(id) {
            change(state);
            if state.is_empty() {
                self.tenants.remove(id);
            }
        }
    }

    /// The state of a tenant; `None`: it has stored nothing, or a job has its state.
    pub fn get(&self, id: &TenantId) -> Option<&TenantState> {
        self.tenants.get(id)
    }

    /// Applies a record of the changelog.
    ///
    /// # Errors
    /// If Switchboard did not write the record.
    pub(crate) fn restore(&mut self, key: &[u8], value: Option<Vec<u8>>) -> Result<(), CorruptKey> {
        let (id, key) = decode_key(key)?;
        if !self.tenants.contains_key(id) {
            self.tenants.insert(TenantId::new(id), TenantState::default());
        }
        let tenant = self.tenants.get_mut(id).expect("inserted above when it was missing");
        tenant.restore(key, value);
        if tenant.is_empty() {
            self.tenants.remove(id);
        }
        Ok(())
    }

    /// Whether no tenant has stored anything.
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// The number of tenants that have stored something.
    pub fn len(&self) -> usize {
        self.tenants.len()
    }
}
