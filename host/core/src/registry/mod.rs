//! The registry: the content of the control topic, and the decisions about what to write to it next.
//!
//! * Question: given all control records, which releases, routes and hosts exist, and which records does a command
//!   write?
//! * May use: `record` and `routing`.
//! * Never: reads or writes a topic, reads a clock.
//!
//! | type or function | purpose |
//! |---|---|
//! | [`Key`], [`ReleaseRecord`], [`RouteValue`], [`Change`], [`HostStatus`] | keys and values of the control topic |
//! | [`RegistryState`] | all records up to some offset, folded in order |
//! | [`deploy`], [`set_routes`], [`clear_routes`], [`rollback`], [`automatic_rollback`], [`prune`] | commands: from the state to a [`Decision`] or a [`Refusal`] |
//! | [`RegistryState::rollout`], [`RolloutWatch`] | how far the living hosts have applied a change |
//!
//! A writer first reads the topic to its end. It is fenced when another writer writes meanwhile. So every command
//! decides on the current state.
//!
//! The state depends only on the last record of each key. A reader of the whole log and a reader that starts after
//! compaction see the same.

mod assign;
mod decision;
mod prune;
mod records;
mod rollout;
mod state;
mod status;
mod undo;

pub use assign::{Audience, Deployment, clear_routes, deploy, set_routes};
pub use decision::{ChangeRequest, Decision, Refusal};
pub use prune::prune;
pub use records::{
    Actor, CHUNK_BYTES, Change, ChangeKind, ControlRecord, Key, Malformed, ReleaseRecord, RouteChange, RouteValue,
    Scope, ScopeError,
};
pub use rollout::{HostProgress, Rollout, RolloutStage, RolloutVerdict, RolloutWatch};
pub use state::{Deployed, Entry, FindError, HostRecord, RegistryState, RouteEntry};
pub use status::{Failures, FallbackTenant, HostLoad, HostStatus, LoadState, LoadedRelease, Running, WaitingTenant};
pub use undo::{automatic_rollback, rollback};

#[cfg(test)]
mod tests;
