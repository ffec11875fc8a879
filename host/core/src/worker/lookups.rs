//! Lookup sources, as the worker needs them.

use std::time::Duration;

use super::plugins::Query;
use crate::envelope::Tenant;

/// Where answers to lookups come from.
pub trait Lookups {
    /// The answer to a question; `None`: the source says that there is none, or no such source is configured. Waits for
    /// at most `budget`, retries included. `attempt` counts the answers to this question that its plugin could not
    /// use: above 0 nothing remembered is given again, and the source is left some time to mend itself.
    ///
    /// # Errors
    /// Why no answer can be had, for the dead letter.
    fn fetch(
        &mut self,
        tenant: &Tenant,
        query: &Query,
        attempt: u32,
        budget: Duration,
    ) -> Result<Option<Vec<u8>>, String>;
}
