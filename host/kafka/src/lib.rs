//! rdkafka behind the worker's `Broker`: the only room that knows Kafka's client.
//!
//! A worker has a group consumer, a consumer for restores and a transactional producer. Nothing here decides what to
//! commit, retry or skip: errors are put into the worker's classes (`producer`), rebalances into its events (`client`).
//! Beside it: the changelog for checkpoints (`tail`), names (`topology`), properties (`properties`), internal topics (`topics`,
//! `fit`, `purge`), the control topic (`control`), the group's place (`history`), the lag (`lag`), what `doctor` looks at (`doctor`), the embedded broker.
#![deny(unsafe_code)]

mod broker;
mod changelog;
mod changelog_tail;
mod client;
mod committed_offsets;
pub mod control;
mod convert;
mod doctor;
mod embedded;
mod finding;
mod group;
mod lag;
mod producer;
mod properties;
mod purge;
mod restore;
mod shutdown;
mod sys;
mod topic_requirements;
mod topics;
mod topology;
mod watermarks;

pub use broker::KafkaBroker;
pub use changelog_tail::ChangelogTail;
pub use committed_offsets::{Committed, HistoryError, check_history};
pub use doctor::{Doctor, Section};
pub use embedded::EmbeddedBroker;
pub use finding::{Finding, Level};
pub use lag::tell_lag;
pub use properties::{ClientOptions, GroupProtocol, PropertyError};
pub use purge::Purge;
pub use shutdown::{AskOnDrop, Shutdown};
pub use sys::TopicIdError;
pub use topics::{Admin, TopicError, prepare, prepare_control};
pub use topology::{TopicName, Topology, TopologyError};
pub use watermarks::Watermarks;
