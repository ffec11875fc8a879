//! The three traits of the context in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Entry, Level, Log, Lookup, State};

/// The state of a tenant: values by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState(pub BTreeMap<String, Vec<u8>>);

impl State for MemoryState {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.0.get(key).cloned()
    }

    fn set(&mut self, key: &str, value: Vec<u8>) {
        self.0.insert(key.to_owned(), value);
    }

    fn delete(&mut self, key: &str) {
        self.0.remove(key);
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
        self.0
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after))
            .take(limit as usize)
            .map(|(key, value)| Entry { key: key.clone(), value: value.clone() })
            .collect()
    }
}

/// The answers to lookups by source and key. A missing entry means "not found".
#[derive(Clone, Debug, Default)]
pub struct Answers(pub BTreeMap<(String, String), Vec<u8>>);

impl Answers {
    /// Sets the answer of `source` for `key`.
    pub fn set(&mut self, source: &str, key: &str, answer: &str) {
        self.0.insert((source.to_owned(), key.to_owned()), answer.as_bytes().to_vec());
    }
}

impl Lookup for Answers {
    fn lookup(&self, source: &str, key: &str) -> Option<Vec<u8>> {
        self.0.get(&(source.to_owned(), key.to_owned())).cloned()
    }
}

/// Log lines in the order in which they were written.
#[derive(Debug, Default)]
pub struct Lines(Mutex<Vec<(Level, String)>>);

impl Lines {
    /// Takes the lines that have been written so far.
    pub fn take(&self) -> Vec<(Level, String)> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Level, String)>> {
        // A plugin that panics leaves whole lines.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for Lines {
    fn clone(&self) -> Self {
        Self(Mutex::new(self.lock().clone()))
    }
}

impl Log for Lines {
    fn log(&self, level: Level, message: &str) {
        self.lock().push((level, message.to_owned()));
    }
}
