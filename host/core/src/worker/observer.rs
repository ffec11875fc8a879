use super::process::Verdict;
use crate::envelope::{Coordinates, TenantId};

/// Told of what a worker does; changes nothing. The default does not look.
pub trait Observer {
    /// A message has its verdict, in the transaction that is open. `tenant` is `None` where it could not be decoded.
    fn settled(&mut self, _source: &Coordinates, _tenant: Option<&TenantId>, _verdict: &Verdict) {}

    /// All that was settled since the last end of a transaction is committed.
    fn committed(&mut self) {}

    /// All that was settled since the last end of a transaction is undone.
    fn aborted(&mut self) {}
}

/// Does not look.
impl Observer for () {}
