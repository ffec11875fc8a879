//! What a plugin can reach while it handles a message, as three small traits and the [`Context`] that bundles them.
//! In the sandbox the host is behind them, in a test whatever the test needs.

use crate::{Entry, Level};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The tenant's state: an ordered map of text to bytes, of the message's tenant only. Changes are staged; they are
/// committed with the message's outputs, or dropped with them.
pub trait State {
    /// The value at `key`, changes of this call included.
    fn get(&self, key: &str) -> Option<Vec<u8>>;

    /// Sets the value at `key`. A key is 1 to 512 bytes long and does not start with U+0000; a value has at most 1 MiB.
    /// Beyond these, or the tenant's limit of state, the call traps.
    fn set(&mut self, key: &str, value: Vec<u8>);

    /// Deletes `key`; that it is not there is not an error.
    fn delete(&mut self, key: &str);

    /// Up to `limit` entries whose keys start with `prefix` and come after `after`, in the keys' byte order.
    fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry>;
}

/// Reference data that lives elsewhere.
pub trait Lookup {
    /// The answer of `source` for `key`. `None`: the source says that there is none, or the operator has not configured
    /// the source. A source that the manifest does not declare traps.
    ///
    /// The call does not return when the host has to fetch the answer: it drops the message's call, fetches, and
    /// handles the message again.
    fn lookup(&self, source: &str, key: &str) -> Option<Vec<u8>>;
}

/// Log lines; the host adds tenant, plugin and coordinates.
pub trait Log {
    /// Writes one line.
    fn log(&self, level: Level, message: &str);
}

/// What a plugin is given with each message.
pub struct Context<'a> {
    state: &'a mut dyn State,
    lookup: &'a dyn Lookup,
    log: &'a dyn Log,
    timestamp: u64,
}

impl<'a> Context<'a> {
    /// A context over these; `timestamp` is the message's, in milliseconds since 1970.
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
    /// When the value is no JSON of a `T`. Only the plugin writes its state, so that is an error of the plugin: a layout
    /// that changed without a new `state_version`. The panic is a trap, which leaves the state as it is.
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
    /// When `value` has no JSON, such as a map whose keys are not text.
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

    /// The time, for a plugin: the message's timestamp in milliseconds since 1970; 0 when it has none.
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }
}
