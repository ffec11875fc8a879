//! What a command decides: the records to write, or a refusal.

use super::records::{Actor, Change, ChangeKind, ControlRecord, Key, RouteChange, RouteValue, Scope};
use super::state::RegistryState;
use crate::routing::Digest;

/// A request for a change: its id, who asks and why. A retry uses the same id, so that a writer can see whether an
/// earlier attempt was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRequest {
    /// The unique id of the change.
    pub id: String,
    /// Who asks for the change.
    pub actor: Actor,
    /// The reason, for people.
    pub note: Option<String>,
}

/// The outcome of a command: records to write in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The id of the change.
    pub id: String,
    /// The entry of the history.
    pub change: Change,
    /// The records to write. The last one is that of the change, so its offset stands for the whole. Empty: nothing to
    /// do.
    pub writes: Vec<ControlRecord>,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

impl Decision {
    /// Puts the records into the order in which they are written: `writes`, the routes, the change itself.
    pub(super) fn new(
        kind: ChangeKind,
        request: ChangeRequest,
        releases: Vec<Digest>,
        routes: Vec<RouteChange>,
        mut writes: Vec<ControlRecord>,
    ) -> Self {
        let ChangeRequest { id, actor, note } = request;
        for RouteChange { route, after, .. } in &routes {
            let key = Key::Route(route.clone());
            writes.push(match after {
                Some(value) => ControlRecord::json(key, value),
                None => ControlRecord::tombstone(key),
            });
        }
        let change = Change { kind, actor, note, releases, routes };
        writes.push(ControlRecord::json(Key::Change(id.clone()), &change));
        Self { id, change, writes, warnings: Vec::new() }
    }
}

/// Why a command was refused. The texts say what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The release cannot take over the state of a release that it would replace.
    #[error(
        "{release} has state version {version}, but {replaced}, {whose}, has {former}: deploy a build that migrates from \
         version {former}, or first give the tenants that shall keep {replaced} a route of their own"
    )]
    StateVersion {
        /// Name, version and digest of the refused release.
        release: String,
        /// Its state version.
        version: u32,
        /// Name, version and digest of the release that it would replace.
        replaced: String,
        /// Where that one runs, as a relative clause.
        whose: String,
        /// The state version of that one.
        former: u32,
    },
    /// The release is already the default one, and was asked for a percentage.
    #[error("{0} is already the default release, so a percentage of the tenants cannot try it: give another release")]
    AlreadyDefault(String),
    /// The artifact of the release is not in the topic any more.
    #[error("the release {0} has been removed: deploy its artifact again")]
    Gone(String),
    /// The change would change nothing.
    #[error("the routes are already as requested: nothing was changed")]
    NothingToChange,
    /// A route to clear does not exist.
    #[error("there is no route {0} to clear; `switchboard route show` lists them")]
    NoRoute(Scope),
    /// No change can be undone.
    #[error("there is no change {of}to undo; `switchboard releases --history` lists all changes")]
    NothingToUndo {
        /// Of which route, with a space at the end; empty: of any.
        of: String,
    },
    /// The route was set again since the command looked at it.
    #[error("the route has been changed in the meantime: nothing was changed")]
    Stale,
}

impl RegistryState {
    /// The change of one route to `after`.
    pub(super) fn route_change(&self, route: Scope, after: Option<RouteValue>) -> RouteChange {
        RouteChange { before: self.route(&route), route, after, undoes: None }
    }

    /// Refuses when the record or a chunk of the release is missing.
    pub(super) fn must_have(&self, release: &Digest) -> Result<(), Refusal> {
        self.chunks(release).map(drop).ok_or_else(|| Refusal::Gone(self.title(release)))
    }
}
