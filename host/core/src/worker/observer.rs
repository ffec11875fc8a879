use super::process::Verdict;
use crate::record::{Coordinates, TenantId};
use crate::routing::{Digest, Release};

/// A message that has its verdict.
#[derive(Debug, Clone, Copy)]
pub struct Settled<'a> {
    /// Where its record was first consumed.
    pub origin: &'a Coordinates,
    /// `None`: it could not be decoded.
    pub tenant: Option<&'a TenantId>,
    /// `None`: no release was called.
    pub release: Option<&'a Release>,
    pub verdict: &'a Verdict,
}

/// Told of what a worker does; changes nothing. The default does not look.
pub trait Observer {
    /// A message has its verdict, in the transaction that is open.
    fn settled(&mut self, _message: Settled<'_>) {}

    /// A tenant does not run the release that its route says, but stays on the one that it ran last.
    fn stays(&mut self, _tenant: &TenantId, _wanted: Digest, _on: Digest, _why: &str) {}

    /// A release cannot take a tenant's state over, and why: its own fault.
    fn refused(&mut self, _tenant: &TenantId, _release: &Release, _why: &str) {}

    /// A tenant's messages wait, and its shard with them, until another routing is taken. It could stay on the release that it
    /// `missing_release`, if that were ready.
    fn waits(&mut self, _tenant: &TenantId, _lacks: Option<Digest>, _why: &str) {}

    /// Another routing has been taken, or partitions have gone: who runs what, who stays and who waits will be told anew.
    fn rerouted(&mut self) {}

    /// All that was settled since the last end of a transaction is committed.
    fn committed(&mut self) {}

    /// All that was settled since the last end of a transaction is undone.
    fn aborted(&mut self) {}
}

/// Does not look.
impl Observer for () {}
