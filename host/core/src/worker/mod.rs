//! The worker: it consumes, decides and commits.
//!
//! For each consumed record the worker commits the outputs, the state changes, the dead letter and the offset in one
//! transaction, or none of them.
//!
//! ```text
//!  poll ─▶ intake ─▶ own shard? ──yes──▶ lanes ─▶ jobs on executors ─▶ results ─▶ commit: one transaction
//!                        └──────no──▶ repartition topic ────────────────▲          (outputs, changelog, offsets)
//! ```
//!
//! `Worker::step` does one bounded piece of work: it takes in events (`intake`), goes on with takeovers and direct paths, hands
//! tenants' messages to executors and takes in what they finished (`running`), and commits what is finished (`commit`). Executors
//! go on during all of this.
//!
//! A record has one of these dispositions (`message`):
//!
//! | disposition | what becomes of the record |
//! |---|---|
//! | repartition | It takes the hop: it is sent to its tenant's shard, which another worker owns, or whose path is closed |
//! | process | It waits in its tenant's queue (`lanes`), and its tenant's release handles it (`job`). It came from the shard, or directly from a source |
//! | dead letter | It is sent to the dead-letter topic |
//! | skip | It is a barrier |
//!
//! The group assigns shards (`assignment`). Source partitions follow by their [anchors](anchor). `paths` has the rules of the
//! direct path, `positions` those of the committed offsets.
//!
//! The worker knows Kafka, plugins, executors and lookups only as traits: the `ports` of Kafka, `Plugins`, `Executors` and
//! `Lookups`. It waits only in calls of `ports`, and `Clock` is its only clock. So a simulation can run it from a seed.
//! `transaction` alone orders begin, send, offsets, commit and abort.
//!
//! `mutated!("name")` marks the place of a known mistake; see [`crate::mutation`].

mod assignment;
mod commit;
mod config;
mod executors;
mod fault;
mod fetch;
mod intake;
mod job;
mod lanes;
mod lookups;
mod message;
mod observer;
mod paths;
mod plugins;
mod ports;
mod positions;
mod process;
mod releases;
mod results;
mod running;
mod step;
mod throttled_warn;
mod transaction;

pub use config::{BatchLimits, StartFrom, WorkerConfig};
pub use executors::{Executors, Finished};
pub use fault::{Cause, Fault, KafkaErrorCode, NotNow};
pub use fetch::Fetch;
pub use job::Job;
pub use lookups::{LookupError, Lookups};
pub use observer::{Load, Observer, Settled};
pub use plugins::{Answers, Call, MigrateError, Outcome, Plugins, Query, Runner};
pub use ports::{
    Broker, Changelog, Clock, Consumed, Consumer, Destination, Event, GroupOffset, Partition, Producer, Restored,
    Start, anchor,
};
pub(crate) use process::process;
pub use process::{Need, Verdict};
pub use step::{FatalError, Next, Worker};
pub use transaction::Receipt;
