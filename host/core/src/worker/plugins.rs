//! Plugins, as the worker needs them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::record::{Coordinates, DeadLetter, Outbound, Record, Tenant, TenantId};
use crate::routing::{Release, Routing};
use crate::state::TenantState;

/// One message for a plugin. It is shown header names that are not UTF-8 with U+FFFD in the place of what is wrong.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub tenant: &'a Tenant,
    pub record: &'a Record,
    /// Its topic is the alias that the plugin sees; together they seed its random numbers.
    pub source: &'a Coordinates,
}

/// A question to a lookup source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Query {
    pub source: String,
    pub key: String,
}

/// The answers that a message has been given: part of its input until it is settled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    answers: BTreeMap<Query, Option<Vec<u8>>>,
}

impl Answers {
    /// `None`: not asked yet. `Some(None)`: there is none.
    pub fn get(&self, query: &Query) -> Option<Option<&[u8]>> {
        self.answers.get(query).map(Option::as_deref)
    }

    pub fn insert(&mut self, query: Query, answer: Option<Vec<u8>>) {
        self.answers.insert(query, answer);
    }

    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn take_queries(&mut self) -> Vec<Query> {
        std::mem::take(&mut self.answers).into_keys().collect()
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Outputs(Vec<Outbound>),
    /// The plugin says that the message never can be handled.
    Rejected(String),
    /// The plugin says that an answer cannot be used.
    UnusableAnswer(String),
    /// The call went over a limit or trapped.
    Failed(DeadLetter),
    /// An answer is needed that is not there yet; the call was dropped.
    Missing(Query),
}

/// Why a release did not migrate a tenant's state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    #[error("{release} does not take over state of version {from}")]
    Version { release: String, from: u32 },
    /// The plugin says that it cannot.
    #[error("{0}")]
    Rejected(String),
    /// The call went over a limit or trapped.
    #[error("{0}")]
    Failed(DeadLetter),
}

/// The plugins of one worker. Whatever a call does to `state` is the message's staged layer; the caller drops it unless
/// the outcome is `Outputs`. After any other outcome the next call of the tenant runs in a fresh instance.
pub trait Plugins {
    /// Which release handles whose messages from now on, when that has changed since the last call. Asked between
    /// transactions, so that all messages of one go by the same routing. All its releases that are ready can be called.
    fn routing(&mut self) -> Option<Arc<Routing>>;

    /// Runs one message. A pure function of its arguments.
    fn handle(&mut self, release: &Arc<Release>, call: Call<'_>, state: &mut TenantState, answers: &Answers)
    -> Outcome;

    /// Has the release take over a tenant's state from another version of its layout, one of `Release::migrates`. As with
    /// a message, what it changes is staged.
    ///
    /// # Errors
    /// Why it could not; what it staged is to be dropped.
    fn migrate(
        &mut self,
        release: &Arc<Release>,
        tenant: &Tenant,
        from: u32,
        state: &mut TenantState,
    ) -> Result<(), MigrateError>;

    /// The tenant's next call runs in a fresh instance: its transaction was aborted.
    fn discard(&mut self, tenant: &TenantId);
}
