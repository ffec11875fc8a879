//! What a plugin can reach while it handles a message: three small traits, and the [`Context`] that bundles them. In
//! the sandbox the host implements them, in a test the test kit does.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Entry, Level};

/// The state of the message's tenant: an ordered map of text to bytes. Changes are staged. They are committed together
/// with the outputs of the message, or dropped with them.
pub trait State {
    /// The value at `key`, including the changes of this call.
    fn get(&self, key: &str) -> Option<Vec<u8>>;

    /// Sets the value at `key`. A key has 1 to 512 bytes and does not start with U+0000; a value has at most 1 MiB.
    /// The call traps if it exceeds these limits or the limit of the tenant's state.
    fn set(&mut self, key: &str, value: Vec<u8>);

    /// Deletes `key`. It is not an error if the key does not exist.
    fn delete(&mut self, key: &str);

    /// Up to `limit` entries whose keys start with `prefix` and come after `after`, in the byte order of the keys.
    fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry>;
}

/// Lookups of reference data outside Kafka.
pub trait Lookup {
    /// The answer of `source` for `key`. `None`: the source has none, or the operator has not configured the source. A
    /// source that the manifest does not declare makes the call trap.
    ///
    /// If the host does not know the answer yet, the call does not return: the host drops it, fetches the answer, and
    /// handles the message again.
    fn lookup(&self, source: &str, key: &str) -> Option<Vec<u8>>;
}

/// The log. The host adds tenant, plugin and coordinates to each line.
pub trait Log {
    /// Writes one line.
    fn log(&self, level: Level, message: &str);
}

/// What a plugin can use while it handles a message.
pub struct Context<'a> {
    state: &'a mut dyn State,
    lookup: &'a dyn Lookup,
    log: &'a dyn Log,
    timestamp: u64,
}

impl<'a> Context<'a> {
    /// A context over these implementations. `timestamp` is that of the message, in milliseconds since 1970.
    pub fn new(state: &'a mut dyn State, lookup: &'a dyn Lookup, log: &'a dyn Log, timestamp: u64) -> Self {
        Self { state, lookup, log, timestamp }
    }

    /// See [`State::get`].
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.state.get(key)
    }

    /// See [`State::set`].
    pub fn set(&mut self, key: &str, value: Vec<u8>) {
        self.state.set(key, value);
    }

    /// See [`State::delete`].
    pub fn delete(&mut self, key: &str) {
        self.state.delete(key);
    }

    /// See [`State::list`].
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
        self.state.list(prefix, after, limit)
    }

    /// The value at `key`, as [`Context::set_json`] wrote it.
    ///
    /// # Panics
    ///
    /// If the value is not the JSON of a `T`. Only the plugin writes its state, so this is an error in the plugin: the
    /// layout changed without a new `state_version`. The panic is a trap, which leaves the state unchanged.
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let value = self.state.get(key)?;
        match serde_json::from_slice(&value) {
            Ok(value) => Some(value),
            Err(error) => panic!("the state at {key:?} has another layout: {error}"),
        }
    }

    /// Sets the value at `key` to `value` as compact JSON.
    ///
    /// # Panics
    ///
    /// If `value` has no JSON form, for example a map with keys that are not text.
    pub fn set_json<T: Serialize>(&mut self, key: &str, value: &T) {
        match serde_json::to_vec(value) {
            Ok(value) => self.state.set(key, value),
            Err(error) => panic!("the value for {key:?} has no JSON: {error}"),
        }
    }

    /// See [`Lookup::lookup`].
    pub fn lookup(&self, source: &str, key: &str) -> Option<Vec<u8>> {
        self.lookup.lookup(source, key)
    }

    /// See [`Log::log`].
    pub fn log(&self, level: Level, message: &str) {
        self.log.log(level, message);
    }

    /// The time: the timestamp of the message in milliseconds since 1970; 0 if it has none.
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }
}
