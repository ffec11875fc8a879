//! How does librdkafka serve one worker?
//!
//! A worker has four clients: a consumer in the application's group, which reads shards (`group_member`), a consumer of source
//! partitions (`source_reader`), a consumer for restores (see `restore`), and a transactional producer (`producer`). `broker` puts
//! them behind the worker's ports.
//!
//! `options` has the properties of all clients of a process. `context` receives what librdkafka reports outside of answers.
//! `wake_up` lets a worker wait for two consumers and for other threads. `topic_names`, `consumer_errors` and `convert` translate names, errors and
//! numbers.
//!
//! These clients never decide what to commit, retry or skip. An error becomes one of the worker's classes, a rebalance one of its
//! events.

mod broker;
mod consumer_errors;
pub(crate) mod context;
pub(crate) mod convert;
mod group_member;
#[cfg(test)]
pub(crate) mod mock;
pub(crate) mod options;
pub(crate) mod producer;
mod source_reader;
mod topic_names;
mod wake_up;

pub use broker::{KafkaBroker, SharedClients};
pub use options::{ClientOptions, GroupProtocol, PropertyError};
pub use wake_up::WakeUp;

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::KafkaResult;

use context::PlainContext;

/// A consumer or admin client that logs its errors.
///
/// # Errors
/// When librdkafka refuses the configuration.
pub(crate) fn new_client<T: FromClientConfigAndContext<PlainContext>>(config: &ClientConfig) -> KafkaResult<T> {
    T::from_config_and_context(config, PlainContext::new(config))
}
