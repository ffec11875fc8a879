//! The control topic: what its records are, what they come to, and what may be written next.
//!
//! `records` has the keys and values; `RegistryState` is the fold of all records, in order; `deploy`, `set_routes`, `clear_routes`, `rollback`,
//! `automatic_rollback` and `prune` are the commands: from what there is to the records to write, or to a refusal that says
//! what to do. `rollout` tells from the hosts' records how far a change has come. Whoever writes reads the topic to its end
//! first, and is fenced when another one writes meanwhile, so a command always decides by what there is. Pure: nothing is
//! read or written here.
//!
//! What there is follows from the last record of each key alone, so that it is the same for a reader of the whole log
//! and for one that comes after compaction.

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
pub use rollout::{HostProgress, Rollout, Stage, Verdict, Watch};
pub use state::{Deployed, Entry, FindError, HostRecord, RegistryState};
pub use status::{Failures, HostStatus, Loaded, Running, State, Staying, Waiting};
pub use undo::{automatic_rollback, rollback};

#[cfg(test)]
mod tests;
