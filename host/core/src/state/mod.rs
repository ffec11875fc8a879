//! State: what each tenant has stored, an ordered map of text to bytes in three layers.
//!
//! * Question: which value does a key have for a message, for its open transaction, and after a commit?
//! * May use: `record`, and `worker`'s [`Receipt`](crate::worker::Receipt), the proof of a commit.
//! * Never: does I/O, reads a clock, promotes staged changes without a receipt.
//!
//! | layer | content | joins the layer below by |
//! |---|---|---|
//! | message | the changes of the current message | `TenantState::accept_message` |
//! | transaction | the changes of the open transaction | `Shard::promote`, which requires a receipt |
//! | committed | what the changelog has | - |
//!
//! The codec of the changelog's keys is here too.

mod changelog;
mod shard;
mod tenant;

pub use changelog::{CorruptKey, decode_key, encode_key};
pub use shard::Shard;
pub use tenant::{Entry, StateError, StateLimits, TenantState};
