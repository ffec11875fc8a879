//! What a worker reports: for metrics, logs and tests.

use super::process::Verdict;
use crate::record::{Coordinates, TenantId};
use crate::routing::{Digest, Release};

/// A message that has its verdict.
#[derive(Debug, Clone, Copy)]
pub struct Settled<'a> {
    /// The source topic, partition and offset that its record comes from.
    pub origin: &'a Coordinates,
    /// `None`: the record could not be decoded.
    pub tenant: Option<&'a TenantId>,
    /// `None`: no release was called.
    pub release: Option<&'a Release>,
    /// What follows from the message.
    pub verdict: &'a Verdict,
}

/// How much a worker has to do, and how its records go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Messages that wait in their tenants' queues.
    pub queued: usize,
    /// Jobs that are handed over to executors.
    pub jobs: usize,
    /// Lookups that tenants wait for.
    pub fetches: usize,
    /// Tenants that wait for another routing.
    pub waiting_tenants: usize,
    /// Finished results that are not in a committed transaction.
    pub results: usize,
    /// Whether the last transaction was not committed, and its results are sent again.
    pub resending: bool,
    /// Direct paths that are open. Each leads from a source partition to a shard, both of this worker.
    pub direct_paths: usize,
    /// Source records that went directly to their tenants' queues, since the worker began.
    pub direct: u64,
    /// Source records that were repartitioned, since the worker began.
    pub repartitioned: u64,
    /// Committed transactions, since the worker began.
    pub transactions: u64,
}

/// Learns what a worker does, and changes nothing. By default it ignores everything.
pub trait Observer {
    /// A message has its verdict, in the open transaction. It is reported again when that transaction is not committed.
    fn settled(&mut self, _message: Settled<'_>) {}

    /// A tenant runs the fallback release `on` instead of the release that its route names.
    fn runs_fallback(&mut self, _tenant: &TenantId, _wanted: Digest, _on: Digest, _why: &str) {}

    /// A release could not take over a tenant's state, by a fault of its own.
    fn refused(&mut self, _tenant: &TenantId, _release: &Release, _why: &str) {}

    /// A tenant's messages wait until another routing is taken. The tenant could run
    /// `missing_release` if that were ready here.
    fn waits(&mut self, _tenant: &TenantId, _missing_release: Option<Digest>, _why: &str) {}

    /// Another routing was taken, or partitions were revoked. For each tenant, `runs_fallback` and `waits` will be reported again
    /// where they still hold.
    fn rerouted(&mut self) {}

    /// How much the worker has to do now. It is reported after each step.
    fn load(&mut self, _load: &Load) {}

    /// Everything that was settled since the last end of a transaction is committed.
    fn committed(&mut self) {}

    /// Everything that was settled since the last end of a transaction is undone.
    fn aborted(&mut self) {}
}

/// Ignores everything.
impl Observer for () {}
