//! The state of one tenant in its three layers.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::Promotion;

/// The first character of the host's own keys.
const HOST_KEY: char = '\0';

/// The limits on a tenant's state. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateLimits {
    /// One key.
    pub key: usize,
    /// One value.
    pub value: usize,
    /// The sum of all keys and values of a tenant.
    pub tenant: u64,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self { key: 512, value: 1 << 20, tenant: 64 << 20 }
    }
}

/// Why a plugin's change of the state was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StateError {
    /// The key is empty or one of the host's.
    #[error("a state key must not be empty and must not start with U+0000")]
    Key,
    /// The key is too long.
    #[error("a state key of {length} bytes, at most {most} are allowed")]
    KeyTooLong {
        /// The length of the key in bytes.
        length: usize,
        /// The limit.
        most: usize,
    },
    /// The value is too long.
    #[error("a state value of {length} bytes, at most {most} are allowed")]
    ValueTooLong {
        /// The length of the value in bytes.
        length: usize,
        /// The limit.
        most: usize,
    },
    /// The tenant's state would become too large.
    #[error("the tenant's state would have {bytes} bytes, at most {most} are allowed")]
    TenantFull {
        /// The size that the state would have, in bytes.
        bytes: u64,
        /// The limit.
        most: u64,
    },
}

/// A key and its value.
pub type Entry = (String, Vec<u8>);

/// A change of an entry, as the changelog gets it: key and value; `None` deletes.
pub(crate) type Change = (String, Option<Arc<[u8]>>);

/// The number of changes that a tenant's state has seen since it was restored. Each result that changes something has the
/// version that it made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u64);

impl Version {
    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The changes of a key that are finished and not yet committed, by ascending version.
type Finished = Vec<(Version, Option<Arc<[u8]>>)>;

/// The state of one tenant. The changes of the current message hide those of finished messages, and these hide the committed
/// entries. Of a key's finished changes the newest counts.
#[derive(Debug, Default)]
pub struct TenantState {
    committed: BTreeMap<String, Arc<[u8]>>,
    finished: BTreeMap<String, Finished>,
    message: BTreeMap<String, Option<Arc<[u8]>>>,
    version: Version,
    /// The size of all keys and values in bytes, as finished messages left it.
    finished_bytes: u64,
    /// The same, as the current message has left it so far.
    message_bytes: u64,
}

impl TenantState {
    /// The value of a key as the plugin sees it. The host's own entries are hidden.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        if key.starts_with(HOST_KEY) {
            return None;
        }
        self.value(key)
    }

    fn value(&self, key: &str) -> Option<&[u8]> {
        match self.message.get(key) {
            Some(change) => change.as_deref(),
            None => self.finished_value(key),
        }
    }

    /// The value that finished messages left.
    fn finished_value(&self, key: &str) -> Option<&[u8]> {
        match self.finished.get(key).and_then(|changes| changes.last()) {
            Some((_, change)) => change.as_deref(),
            None => self.committed.get(key).map(AsRef::as_ref),
        }
    }

    /// Stages a change of the message.
    ///
    /// # Errors
    /// If the key or the value is not allowed, or the tenant's limit is exceeded. Then nothing is staged.
    pub fn set(&mut self, key: &str, value: Vec<u8>, limits: &StateLimits) -> Result<(), StateError> {
        if key.is_empty() || key.starts_with(HOST_KEY) {
            return Err(StateError::Key);
        }
        if key.len() > limits.key {
            return Err(StateError::KeyTooLong { length: key.len(), most: limits.key });
        }
        if value.len() > limits.value {
            return Err(StateError::ValueTooLong { length: value.len(), most: limits.value });
        }
        let bytes = self.message_bytes - self.entry_bytes(key) + weight(key, &value);
        if bytes > limits.tenant {
            return Err(StateError::TenantFull { bytes, most: limits.tenant });
        }
        self.message_bytes = bytes;
        self.message.insert(key.to_owned(), Some(value.into()));
        Ok(())
    }

    /// Stages the deletion of a key. Deleting a key that does not exist is not an error.
    pub fn delete(&mut self, key: &str) {
        if self.get(key).is_some() {
            self.message_bytes -= self.entry_bytes(key);
            self.message.insert(key.to_owned(), None);
        }
    }

    /// Up to `limit` entries whose keys start with `prefix` and come after `after`, in the byte order of the keys.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Entry> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = (from, Bound::Unbounded);
        let newest = |changes: &'_ Finished| changes.last().and_then(|(_, change)| change.clone());
        let mut committed = self.committed.range::<str, _>(range).map(|(k, v)| (k, Some(v.clone()))).peekable();
        let mut finished = self.finished.range::<str, _>(range).map(|(k, v)| (k, newest(v))).peekable();
        let mut message = self.message.range::<str, _>(range).map(|(k, v)| (k, v.clone())).peekable();
        let mut entries = Vec::new();
        while entries.len() < limit {
            let heads = [committed.peek(), finished.peek(), message.peek()];
            let Some(key) = heads.iter().flatten().map(|(key, _)| *key).min() else { break };
            if !key.starts_with(prefix) {
                break;
            }
            // The value of the upper layer hides those below, and all layers advance past the key.
            let mut value = None;
            value = committed.next_if(|(k, _)| *k == key).map_or(value, |(_, v)| v);
            value = finished.next_if(|(k, _)| *k == key).map_or(value, |(_, v)| v);
            value = message.next_if(|(k, _)| *k == key).map_or(value, |(_, v)| v);
            if let (Some(value), false) = (value, key.starts_with(HOST_KEY)) {
                entries.push((key.clone(), value.to_vec()));
            }
        }
        entries
    }

    /// The value of one of the host's own entries.
    pub fn host_entry(&self, key: &'static str) -> Option<&[u8]> {
        assert!(key.starts_with(HOST_KEY));
        self.value(key)
    }

    /// Stages an entry of the host's own, between messages. It joins the finished changes by `accept`.
    pub(crate) fn set_host_entry(&mut self, key: &'static str, value: Vec<u8>) {
        assert!(key.starts_with(HOST_KEY));
        if mutated!("last-run-outside-the-transaction") {
            self.committed.insert(key.to_owned(), value.into());
            return;
        }
        self.message.insert(key.to_owned(), Some(value.into()));
    }

    /// Whether a plugin has stored anything.
    pub(crate) fn has_entries(&self) -> bool {
        !self.list("", None, 1).is_empty()
    }

    /// The size of all keys and values in bytes, staged changes included. The host's own entries do not count.
    pub fn bytes(&self) -> u64 {
        self.message_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.finished.is_empty() && self.message.is_empty()
    }

    /// The version of the finished changes.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// The changes of the message are finished. Returns them with the version that they made; `None`: there are none.
    pub(crate) fn accept(&mut self) -> Option<(Version, Vec<Change>)> {
        if self.message.is_empty() {
            return None;
        }
        self.version = self.version.next();
        self.finished_bytes = self.message_bytes;
        let changes: Vec<_> = std::mem::take(&mut self.message).into_iter().collect();
        for (key, value) in &changes {
            let change = (self.version, value.clone());
            match self.finished.get_mut(key) {
                Some(earlier) => earlier.push(change),
                None => {
                    self.finished.insert(key.clone(), vec![change]);
                }
            }
        }
        Some((self.version, changes))
    }

    /// Drops the changes of the message. This needs no receipt: only the message itself has seen them.
    pub fn reject_message(&mut self) {
        self.message.clear();
        self.message_bytes = self.finished_bytes;
    }

    /// Finished changes become committed entries, up to and including a version.
    pub(crate) fn promote(&mut self, promotion: Promotion) {
        assert!(self.message.is_empty(), "a message is accepted or rejected before its transaction ends");
        let through = promotion.through();
        let committed = &mut self.committed;
        self.finished.retain(|key, changes| {
            let count = changes.partition_point(|(version, _)| *version <= through);
            if let Some((_, change)) = changes.drain(..count).next_back() {
                match change {
                    Some(value) => committed.insert(key.clone(), value),
                    None => committed.remove(key),
                };
            }
            !changes.is_empty()
        });
    }

    /// Drops the finished changes after this version, and those of the message. Those of the version itself stay.
    pub(crate) fn drop_after(&mut self, version: Version) {
        self.reject_message();
        let keys: Vec<_> = self.finished.keys().cloned().collect();
        for key in keys {
            let before = self.entry_bytes(&key);
            let changes = self.finished.get_mut(&key).expect("nothing was removed since");
            changes.retain(|(made, _)| *made <= version);
            if changes.is_empty() {
                self.finished.remove(&key);
            }
            self.finished_bytes = self.finished_bytes - before + self.entry_bytes(&key);
        }
        self.message_bytes = self.finished_bytes;
    }

    /// Applies a committed entry from the changelog. Nothing may be finished or staged.
    pub(super) fn restore(&mut self, key: &str, value: Option<Vec<u8>>) {
        let before = self.entry_bytes(key);
        match value {
            Some(value) => self.committed.insert(key.to_owned(), value.into()),
            None => self.committed.remove(key),
        };
        self.finished_bytes = self.finished_bytes - before + self.entry_bytes(key);
        self.message_bytes = self.finished_bytes;
    }

    fn entry_bytes(&self, key: &str) -> u64 {
        self.value(key).map_or(0, |value| weight(key, value))
    }
}

/// The size of an entry for the limits. The host's own entries cost a tenant nothing.
fn weight(key: &str, value: &[u8]) -> u64 {
    if key.starts_with(HOST_KEY) { 0 } else { (key.len() + value.len()) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StateLimits = StateLimits { key: 4, value: 8, tenant: 20 };

    fn state() -> TenantState {
        let mut state = TenantState::default();
        for (key, value) in [("a1", "c"), ("a2", "c"), ("b", "c"), ("\0v", "host")] {
            state.restore(key, Some(value.into()));
        }
        state.set("a2", b"t".to_vec(), &StateLimits::default()).unwrap();
        state.set("a3", b"t".to_vec(), &StateLimits::default()).unwrap();
        state.accept().unwrap();
        state.delete("a1");
        state.set("a4", b"m".to_vec(), &StateLimits::default()).unwrap();
        state
    }

    fn list(state: &TenantState, prefix: &str, after: Option<&str>, limit: usize) -> String {
        let entries = state.list(prefix, after, limit);
        entries.iter().map(|(k, v)| format!("{k}={} ", String::from_utf8_lossy(v))).collect()
    }

    #[test]
    fn upper_layers_hide_lower_ones_in_get_and_list() {
        let state = state();
        assert_eq!(state.get("a1"), None);
        assert_eq!(state.get("a2"), Some(&b"t"[..]));
        assert_eq!(list(&state, "a", None, 9), "a2=t a3=t a4=m ");
        assert_eq!(list(&state, "", None, 9), "a2=t a3=t a4=m b=c ");
        assert_eq!(list(&state, "a", Some("a2"), 1), "a3=t ");
        assert_eq!(list(&state, "a", Some("0"), 1), "a2=t ");
        assert_eq!(list(&state, "a", Some("b"), 9), "");
        assert_eq!(list(&state, "a", None, 0), "");
    }

    #[test]
    fn a_rejected_message_and_dropped_changes_leave_nothing() {
        let mut state = state();
        state.reject_message();
        assert_eq!(list(&state, "", None, 9), "a1=c a2=t a3=t b=c ");
        state.drop_after(Version::default());
        assert_eq!(list(&state, "", None, 9), "a1=c a2=c b=c ");
        assert_eq!(state.bytes(), 3 + 3 + 2);
    }

    #[test]
    fn changes_are_committed_up_to_a_version_and_dropped_from_the_next_on() {
        let mut state = state();
        let first = state.version();
        let (second, changes) = state.accept().unwrap();
        let changes: Vec<_> = changes.into_iter().map(|(key, value)| (key, value.is_some())).collect();
        assert_eq!(changes, [("a1".into(), false), ("a4".into(), true)]);
        state.set("a2", b"x".to_vec(), &StateLimits::default()).unwrap();
        state.accept().unwrap();
        assert_eq!(list(&state, "", None, 9), "a2=x a3=t a4=m b=c ");
        state.promote(Promotion(first));
        assert_eq!(list(&state, "", None, 9), "a2=x a3=t a4=m b=c ", "a promotion changes nothing that is seen");
        state.drop_after(second);
        assert_eq!(list(&state, "", None, 9), "a2=t a3=t a4=m b=c ");
        state.drop_after(first);
        assert_eq!(list(&state, "", None, 9), "a1=c a2=t a3=t b=c ");
        assert_eq!(state.bytes(), 4 * 3 - 1);
        assert!(state.finished.is_empty(), "all of it is committed");
    }

    #[test]
    fn a_plugin_cannot_use_the_keys_of_the_host() {
        let mut state = state();
        assert_eq!(state.get("\0v"), None);
        state.delete("\0v");
        assert_eq!(state.value("\0v"), Some(&b"host"[..]));
        assert_eq!(state.set("\0v", vec![], &LIMITS), Err(StateError::Key));
        assert_eq!(state.set("", vec![], &LIMITS), Err(StateError::Key));
    }

    #[test]
    fn limits_hold_and_a_refused_change_changes_nothing() {
        let mut state = TenantState::default();
        assert!(matches!(state.set("12345", vec![], &LIMITS), Err(StateError::KeyTooLong { .. })));
        assert!(matches!(state.set("1", vec![0; 9], &LIMITS), Err(StateError::ValueTooLong { .. })));
        state.set("1", vec![0; 8], &LIMITS).unwrap();
        state.set("2", vec![0; 8], &LIMITS).unwrap();
        assert_eq!(state.set("3", vec![0; 8], &LIMITS), Err(StateError::TenantFull { bytes: 27, most: 20 }));
        state.set("2", vec![0; 2], &LIMITS).unwrap();
        state.set("3", vec![0; 7], &LIMITS).unwrap();
        state.delete("1");
        state.delete("1");
        assert_eq!(state.bytes(), 11);
    }
}
