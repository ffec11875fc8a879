//! The worker: it consumes, decides and commits.
//!
//! For each consumed record the worker commits the outputs, the state changes, the dead letter and the offset in one
//! transaction, or none of them.
//!
//! `Worker::step` does one bounded piece of work. It takes in events, goes on with takeovers and direct paths, and runs one
//! batch in one transaction. A batch is the front of one queue. Each of its records has a disposition:
//!
//! | disposition | what becomes of the record |
//! |---|---|
//! | repartition | It takes the hop: it is sent to its tenant's shard, which another worker owns, or whose path is closed |
//! | process | Its tenant's release handles it. It came from the shard, or directly from a source |
//! | dead letter | It is sent to the dead-letter topic |
//! | skip | It is a barrier |
//!
//! The group assigns shards (`assignment`). Source partitions follow by their [anchors](anchor). `paths` has the rules of the
//! direct path.
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
