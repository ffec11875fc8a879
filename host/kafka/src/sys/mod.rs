//! Which calls of librdkafka have no safe form in rdkafka? They are here, and only here is `rdkafka-sys` used.
//!
//! `headers` reads and writes headers, `transactions` flushes and sends offsets, `describe` makes admin requests, `queue` looks
//! at a consumer's queue.
//!
//! Each `unsafe` block has one operation and says why it is sound.
#![allow(unsafe_code)]

pub(crate) mod describe;
mod headers;
mod queue;
mod transactions;

pub use describe::AdminRequestError;
pub(crate) use headers::{read_headers, write_headers};
pub(crate) use queue::QueuedConsumer;
pub(crate) use transactions::{CallError, Membership, flush, is_member, send_offsets};

use std::time::Duration;

/// librdkafka's form of a time-out.
fn milliseconds(timeout: Duration) -> i32 {
    i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
}
