//! State: what each tenant has stored, an ordered map of text to bytes in three layers.
//!
//! * Question: which value does a key have for a message, for its open transaction, and after a commit?
//! * May use: `record`, and `worker`'s [`Receipt`], the proof of a commit.
//! * Never: does I/O, reads a clock, promotes staged changes without a receipt.
//!
//! | layer | content | joins the layer below by |
//! |---|---|---|
//! | message | the changes of the running message | `TenantState::accept` |
//! | finished | the changes of finished messages, each with its version, also while their transaction commits | `TenantState::promote`, which requires a proof of the commit |
//! | committed | what the changelog has | - |
//!
//! A state moves into the job that runs its tenant's messages, and back. The changes of finished messages can be dropped from
//! any version on, as when the broker refuses an output.
//!
//! The codec of the changelog's keys is here too.

mod changelog;
mod shard;
mod tenant;

pub use changelog::{CorruptKey, decode_key, encode_key};
pub use shard::Shard;
pub(crate) use tenant::{Change, Version};
pub use tenant::{Entry, StateError, StateLimits, TenantState};

use crate::worker::Receipt;

/// The proof that a tenant's changes are committed up to and including a version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Promotion(Version);

impl Promotion {
    /// Only the receipt of a commit allows this.
    pub(crate) fn new(through: Version, _: &Receipt) -> Self {
        Self(through)
    }

    fn through(self) -> Version {
        self.0
    }
}
