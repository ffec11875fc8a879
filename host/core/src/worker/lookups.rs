//! Lookup sources, as the worker needs them.

use std::error::Error;
use std::time::Duration;

use super::plugins::Query;
use crate::record::Tenant;

/// Why a lookup has no answer, for its message's dead letter.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LookupError(Box<dyn Error + Send + Sync>);

impl LookupError {
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// Where answers to lookups come from.
pub trait Lookups {
    /// The answer as far as it is known without asking: remembered, or `Some(None)` because no such source is
    /// configured. Does not wait.
    fn known(&mut self, tenant: &Tenant, query: &Query) -> Option<Option<Vec<u8>>>;

    /// Asks; `None`: the source says that there is none. Waits for at most `budget`, retries included. `attempt` counts
    /// the answers to this question that its plugin could not use: above 0 the source is left some time to mend itself.
    ///
    /// # Errors
    /// Why no answer can be had, for the dead letter.
    fn fetch(
        &mut self,
        tenant: &Tenant,
        query: &Query,
        attempt: u32,
        budget: Duration,
    ) -> Result<Option<Vec<u8>>, LookupError>;
}
