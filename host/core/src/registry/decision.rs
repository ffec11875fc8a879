use super::records::{Actor, Change, ChangeKind, ControlRecord, Key, RouteChange, RouteValue, Scope};
use super::state::RegistryState;
use crate::routing::Digest;

/// Who asks for a change, and under which id: the same one however often it is tried, so that whether it was made can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRequest {
    /// Unique.
    pub id: String,
    pub by: Actor,
    pub note: Option<String>,
}

/// What a command comes to: records to be written in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub id: String,
    pub change: Change,
    /// The record of the change is the last one, so its offset is that of the whole. Empty: there is nothing to do.
    pub writes: Vec<ControlRecord>,
    /// What the operator should know of it.
    pub warnings: Vec<String>,
}

impl Decision {
    /// The records of a change: `writes`, then its routes, then itself.
    pub(super) fn new(
        what: ChangeKind,
        stamp: ChangeRequest,
        releases: Vec<Digest>,
        routes: Vec<RouteChange>,
        mut writes: Vec<ControlRecord>,
    ) -> Self {
        let ChangeRequest { id, by, note } = stamp;
        for RouteChange { route, after, .. } in &routes {
            let key = Key::Route(route.clone());
            writes.push(match after {
                Some(value) => ControlRecord::json(key, value),
                None => ControlRecord::tombstone(key),
            });
        }
        let change = Change { what, by, note, releases, routes };
        writes.push(ControlRecord::json(Key::Change(id.clone()), &change));
        Self { id, change, writes, warnings: Vec::new() }
    }
}

/// Why a command does nothing, with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "{release} has state version {version}, but {replaced}, {whose}, has {former}, and {release} does not say that it can \
         take that over: deploy a build that migrates from version {former}, or first give tenants that are to stay on \
         {replaced} a route of their own"
    )]
    StateVersion { release: String, version: u32, replaced: String, whose: String, former: u32 },
    #[error("{0} is what all tenants run that have no route of their own: a percentage of them cannot try it")]
    AlreadyDefault(String),
    #[error("the release {0} is not there any more: deploy its artifact again")]
    Gone(String),
    #[error("that is so already: nothing was changed")]
    NothingToChange,
    #[error("there is no route {0} to clear; `switchboard route show` lists them")]
    NoRoute(Scope),
    #[error("there is no change {of}that could be undone; `switchboard releases --history` lists what was done")]
    NothingToUndo { of: String },
    #[error("the route was changed meanwhile, so it is left as it is")]
    Stale,
}

impl RegistryState {
    /// A change of one route to what it shall be.
    pub(super) fn touch(&self, route: Scope, after: Option<RouteValue>) -> RouteChange {
        RouteChange { before: self.route(&route), route, after, undoes: None }
    }

    /// Whether all of a release is there.
    pub(super) fn must_have(&self, release: &Digest) -> Result<(), Refusal> {
        self.chunks(release).map(drop).ok_or_else(|| Refusal::Gone(self.title(release)))
    }
}
