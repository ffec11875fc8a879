//! The machine that keeps the promise: for every consumed record its outputs, its state changes, its dead letter and
//! its offset are committed in one transaction, or none of them is.
//!
//! `Worker::step` does one bounded piece of work: it takes in events, goes on with restores, and runs one batch of one
//! of the two verbs. A source record is *routed* to its tenant's shard; a shard's record is *processed* by the plugin.
//! The worker drives the traits `Broker`, `Plugins` and `Lookups`; it never waits but through them, and has no other
//! view of time, so a simulation can run it from a seed. Only `transaction` orders begin, send, offsets, commit, abort.

mod assignment;
mod broker;
mod config;
mod inbox;
mod lookups;
mod observer;
mod plugins;
mod process;
mod releases;
mod resolve_lookups;
mod step;
mod transaction;

pub use broker::{
    Broker, Cause, Consumed, Destination, Event, Fault, KafkaErrorCode, NotNow, Partition, Restored, Start,
};
pub use config::{BatchLimits, StartFrom, WorkerConfig};
pub use lookups::{LookupError, Lookups};
pub use observer::{Observer, Settled};
pub use plugins::{Answers, Call, MigrateError, Outcome, Plugins, Query};
pub(crate) use process::process;
pub use process::{Need, Verdict};
pub use step::{FatalError, Next, Worker};
pub use transaction::Receipt;
