//! Lookup sources, as the worker needs them.

use std::error::Error;
use std::time::Duration;

use super::plugins::Query;
use crate::record::Tenant;

/// Why a lookup has no answer. The message's dead letter has the text.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LookupError(Box<dyn Error + Send + Sync>);

impl LookupError {
    /// An error with this cause.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// The lookup sources of a process.
pub trait Lookups {
    /// The answer, if it is known without a request. `Some(None)`: the source has no entry, or no such source is configured.
    /// Does not wait. Any thread that runs messages may ask.
    fn known(&self, tenant: &Tenant, query: &Query) -> Option<Option<Vec<u8>>>;

    /// Asks the source. `None`: it has no entry. Waits for at most `budget`, retries included. `attempt` counts the answers to
    /// this query that the plugin could not use; above 0 an implementation may wait before it asks. A tenant has
    /// one call at a time, apart from calls whose answers are no longer needed.
    ///
    /// # Errors
    /// Why there is no answer, for the dead letter.
    fn fetch(
        &self,
        tenant: &Tenant,
        query: &Query,
        attempt: u32,
        budget: Duration,
    ) -> Result<Option<Vec<u8>>, LookupError>;
}
