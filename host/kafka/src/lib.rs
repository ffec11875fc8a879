//! rdkafka behind the worker's `Broker`: the only room that knows Kafka's client.
//!
//! A worker has a group consumer, a consumer for restores and a transactional producer. Nothing here decides what to
//! commit, retry or skip: errors are put into the worker's classes (`producer`), rebalances into its events (`client`).
//! Beside it: the changelog for checkpoints (`tail`), names (`topology`), properties (`properties`), internal topics (`topics`,
//! `fit`, `purge`), the control topic (`control`), the group's place (`history`), the lag (`lag`), what `doctor` looks at (`doctor`), the embedded broker.
#![deny(unsafe_code)]

mod broker;
mod changelog;
mod client;
pub mod control;
mod doctor;
mod embedded;
mod finding;
mod fit;
mod group;
mod history;
mod lag;
mod native;
mod producer;
mod properties;
mod purge;
mod readers;
mod restore;
mod shutdown;
mod tail;
mod topics;
mod topology;

pub use broker::KafkaBroker;
pub use doctor::{Doctor, Section};
pub use embedded::EmbeddedBroker;
pub use finding::{Finding, Level};
pub use history::{Committed, HistoryError, check_history};
pub use lag::tell_lag;
pub use properties::{ClientOptions, GroupProtocol, PropertyError};
pub use purge::Purge;
pub use readers::Readers;
pub use shutdown::{AskOnDrop, Shutdown};
pub use tail::Tail;
pub use topics::{Admin, TopicError, prepare, prepare_control};
pub use topology::{TopicName, Topology, TopologyError};
