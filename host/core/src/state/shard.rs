//! The state of all tenants of one shard.

use std::collections::{BTreeMap, BTreeSet};

use super::changelog::{CorruptKey, decode_key, encode_key};
use super::tenant::TenantState;
use crate::record::TenantId;
use crate::worker::Receipt;

/// The state of all tenants of one shard.
#[derive(Debug, Default)]
pub struct Shard {
    tenants: BTreeMap<TenantId, TenantState>,
    /// Tenants whose transaction layer may have changes.
    touched: BTreeSet<TenantId>,
}

impl Shard {
    /// The state of a tenant, for a message of it. `TenantState::accept_message` adds what the message stages to the
    /// transaction.
    pub(crate) fn tenant(&mut self, id: &TenantId) -> &mut TenantState {
        if !self.touched.contains(id) {
            self.touched.insert(id.clone());
        }
        if !self.tenants.contains_key(id) {
            self.tenants.insert(id.clone(), TenantState::default());
        }
        self.tenants.get_mut(id).expect("inserted above when it was missing")
    }

    /// The state of a tenant; `None`: it has stored nothing.
    pub fn get(&self, id: &TenantId) -> Option<&TenantState> {
        self.tenants.get(id)
    }

    /// The transaction's changes as changelog records: key and value, `None` deletes. Only the last change of each
    /// key.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
        let tenants = self.touched.iter().filter_map(|id| Some((id, self.tenants.get(id)?)));
        tenants.flat_map(|(id, tenant)| {
            tenant.changes().map(move |(key, value)| (encode_key(id, key), value.map(<[u8]>::to_vec)))
        })
    }

    /// Commits the transaction's changes. Only the receipt of a commit allows this.
    pub(crate) fn promote(&mut self, _: &Receipt) {
        self.settle(TenantState::promote);
    }

    /// Drops the transaction's changes, and returns the tenants that it touched.
    pub(crate) fn drop_staged(&mut self) -> Vec<TenantId> {
        let touched = self.touched.iter().cloned().collect();
        self.settle(TenantState::drop_staged);
        touched
    }

    /// Whether no transaction has touched it since the last one ended.
    pub(crate) fn is_settled(&self) -> bool {
        self.touched.is_empty()
    }

    fn settle(&mut self, settle: impl Fn(&mut TenantState)) {
        for id in std::mem::take(&mut self.touched) {
            if let Some(tenant) = self.tenants.get_mut(&id) {
                settle(tenant);
                if tenant.is_empty() {
                    self.tenants.remove(&id);
                }
            }
        }
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
