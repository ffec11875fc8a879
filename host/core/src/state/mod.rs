//! What a tenant remembers: an ordered map of text to bytes in three layers.
//!
//! A message's changes are staged on top of those of its transaction, and these on top of what is committed. Layers
//! are only ever joined downwards: a message's by `accept_message`, a transaction's by `Shard::promote`, which wants the
//! receipt of a commit. The changelog's codec is here too. This room does no I/O and knows no clock.

mod changelog;
mod shard;
mod tenant;

pub use changelog::{CorruptKey, decode_key, encode_key};
pub use shard::Shard;
pub use tenant::{Entry, StateError, StateLimits, TenantState};
