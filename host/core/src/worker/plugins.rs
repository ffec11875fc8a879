//! Plugins, as the worker needs them: which release handles whose messages, and the calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::record::{Coordinates, DeadLetter, Outbound, Record, Tenant, TenantId};
use crate::routing::{Release, Routing};
use crate::state::TenantState;

/// One message for a plugin. In header names, U+FFFD replaces bytes that are not UTF-8.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The message's tenant.
    pub tenant: &'a Tenant,
    /// The message.
    pub record: &'a Record,
    /// The message's origin. Its topic is the alias that the plugin sees. The plugin's random numbers are seeded with it.
    pub origin: &'a Coordinates,
}

/// A query to a lookup source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Query {
    /// The name of the lookup source.
    pub source: String,
    /// What is looked up.
    pub key: String,
}

/// The answers that a message has. They are part of its input until it is settled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    answers: BTreeMap<Query, Option<Vec<u8>>>,
}

impl Answers {
    /// The answer to a query. `None`: it is not known yet. `Some(None)`: the source has no entry.
    pub fn get(&self, query: &Query) -> Option<Option<&[u8]>> {
        self.answers.get(query).map(Option::as_deref)
    }

    /// Adds the answer to a query. `None`: the source has no entry.
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
    /// The message is handled. These are its outputs, in order.
    Outputs(Vec<Outbound>),
    /// The plugin says that the message can never be handled.
    Rejected(String),
    /// The plugin says that it cannot use an answer.
    UnusableAnswer(String),
    /// The call exceeded a limit or trapped.
    Failed(DeadLetter),
    /// The call was dropped, as it needs an answer that is not known yet.
    Missing(Query),
}

/// Why a release did not migrate a tenant's state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    /// The release cannot migrate state of that version.
    #[error("{release} does not take over state of version {from}")]
    Version {
        /// The release, for people.
        release: String,
        /// The version of the tenant's state.
        from: u32,
    },
    /// The plugin says that it cannot migrate this state.
    #[error("{0}")]
    Rejected(String),
    /// The call exceeded a limit or trapped.
    #[error("{0}")]
    Failed(DeadLetter),
}

/// Runs the messages of one tenant. A call's changes to `state` are staged with the message, and the caller drops them unless
/// the outcome is `Outputs`. After any other outcome the tenant's next call runs in a fresh wasm instance.
pub trait Runner {
    /// Has a release handle a message. A pure function of its arguments.
    fn handle(&mut self, release: &Arc<Release>, call: Call<'_>, state: &mut TenantState, answers: &Answers)
    -> Outcome;

    /// Has a release migrate a tenant's state from version `from`, one of `Release::migrates`. The changes are staged, as
    /// those of a message.
    ///
    /// # Errors
    /// Why it could not. The caller drops what it staged.
    fn migrate(
        &mut self,
        release: &Arc<Release>,
        tenant: &Tenant,
        from: u32,
        state: &mut TenantState,
    ) -> Result<(), MigrateError>;
}

/// The plugins of one member: which release runs whose messages, and what runs them.
pub trait Plugins {
    /// What runs the messages of one tenant. It moves into a job, to another thread, and comes back with it.
    type Runner: Runner;

    /// The routing to use from now on, if it has changed since the last call. All releases that are ready in the routing can be
    /// called by runners that are lent from now on.
    fn routing(&mut self) -> Option<Arc<Routing>>;

    /// What runs the tenant's next messages, with its warm wasm instance if there is one.
    fn lend(&mut self, tenant: &TenantId) -> Self::Runner;

    /// Takes back what `lend` gave.
    fn give_back(&mut self, tenant: &TenantId, runner: Self::Runner);

    /// The tenant's next call has to run in a fresh wasm instance: what the present one has seen did not happen. A runner
    /// that is lent is dropped by the caller instead of given back.
    fn discard(&mut self, tenant: &TenantId);
}
