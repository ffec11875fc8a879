//! The worker: it consumes, decides and commits.
//!
//! For each consumed record the worker commits the outputs, the state changes, the dead letter and the offset in one
//! transaction, or none of them.
//!
//! `Worker::step` does one bounded piece of work. It takes in events, goes on with restores, and runs one batch of one of
//! two verbs in one transaction:
//!
//! | verb | what a batch does |
//! |---|---|
//! | repartition | sends records of source topics to the shards of their tenants |
//! | process | has the tenants' releases handle the records of shards |
//!
//! The worker knows Kafka, plugins and lookups only as traits: the `ports` of Kafka, `Plugins` and `Lookups`. It waits only in
//! their calls, and `Clock` is its only clock. So a simulation can run it from a seed. `transaction` alone orders begin,
//! send, offsets, commit and abort.
//!
//! `mutated!("name")` marks the place of a known mistake; see [`crate::mutation`].

mod assignment;
mod config;
mod fault;
mod handle;
mod inbox;
mod lookups;
mod observer;
mod paths;
mod plugins;
mod ports;
mod process;
mod releases;
mod resolve_lookups;
mod step;
mod throttled_warn;
mod transaction;

pub use config::{BatchLimits, StartFrom, WorkerConfig};
pub use fault::{Cause, Fault, KafkaErrorCode, NotNow};
pub use lookups::{LookupError, Lookups};
pub use observer::{Observer, Settled};
pub use plugins::{Answers, Call, MigrateError, Outcome, Plugins, Query};
pub use ports::{
    Broker, Changelog, Clock, Consumed, Consumer, Destination, Event, Partition, Producer, Restored, Start, anchor,
};
pub(crate) use process::process;
pub use process::{Need, Verdict};
pub use step::{FatalError, Next, Worker};
pub use transaction::Receipt;
