use std::collections::{BTreeSet, HashMap};

use super::changelog::{CorruptKey, decode_key, encode_key};
use super::tenant::TenantState;
use crate::record::TenantId;
use crate::worker::Receipt;

/// The state of all tenants of one shard.
#[derive(Debug, Default)]
pub struct Shard {
    tenants: HashMap<TenantId, TenantState>,
    /// Tenants whose transaction layer may hold changes; ordered, so that a run from a seed repeats to the letter.
    touched: BTreeSet<TenantId>,
}

impl Shard {
    /// A tenant's state to hand a message of it; what the message stages becomes part of the transaction by
    /// `TenantState::accept_message`.
    pub(crate) fn tenant(&mut self, id: &TenantId) -> &mut TenantState {
        if !self.touched.contains(id) {
            self.touched.insert(id.clone());
        }
        if !self.tenants.contains_key(id) {
            self.tenants.insert(id.clone(), TenantState::default());
        }
        self.tenants.get_mut(id).expect("inserted above when it was missing")
    }

    /// What a tenant has committed and staged.
    pub fn get(&self, id: &TenantId) -> Option<&TenantState> {
        self.tenants.get(id)
    }

    /// The transaction's changes as changelog records: key, value (`None` deletes). The last change of a key only.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
        let tenants = self.touched.iter().filter_map(|id| Some((id, self.tenants.get(id)?)));
        tenants.flat_map(|(id, tenant)| {
            tenant.changes().map(move |(key, value)| (encode_key(id, key), value.map(<[u8]>::to_vec)))
        })
    }

    /// The transaction's changes become committed state: only a commit's receipt allows it.
    pub(crate) fn promote(&mut self, _: &Receipt) {
        self.settle(TenantState::promote);
    }

    /// The transaction's changes are dropped. Gives the tenants that it touched.
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
    /// When the record is none of Switchboard's.
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

    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// Number of tenants with state.
    pub fn len(&self) -> usize {
        self.tenants.len()
    }
}
