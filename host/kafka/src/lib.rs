//! Kafka for Switchboard, on librdkafka: the worker's ports, internal topics, the control topic's clients, and `doctor`.
//!
//! This is the only crate that knows a Kafka client. It decides nothing about commits, retries or skips: it turns librdkafka's
//! errors into the worker's classes and its rebalances into the worker's events.
//!
//! | module | question | types |
//! |---|---|---|
//! | `clients` | how does librdkafka serve one worker? | [`KafkaBroker`], [`WakeUp`], [`SharedClients`], [`ClientOptions`], [`GroupProtocol`] |
//! | `topics` | what are the topics called, are they fit, and how far has the group come in them? | [`Topology`], [`prepare`], [`ShardCount`], [`CommittedOffsets`], [`Watermarks`], [`SourceTopics`], [`Purge`], [`report_lag`] |
//! | [`control_topic`] | how is the control topic read and changed? | [`ControlReader`](control_topic::ControlReader), [`ControlWriter`](control_topic::ControlWriter), [`ArtifactReader`](control_topic::ArtifactReader), [`StatusWriter`](control_topic::StatusWriter) |
//! | `restore` | how is a shard's changelog read, for a restore and for checkpoints? | [`ChangelogTail`] |
//! | `doctor` | what on a cluster does not suit an application, and what should the operator do? | [`Doctor`], [`Section`] |
//! | `sys` | which calls of librdkafka have no safe form in rdkafka? | [`AdminRequestError`] |
//! | `embedded` | how does a demo run without a cluster? | [`EmbeddedBroker`] |
//!
//! [`Finding`] is what checks report, at the start of `run` and in `doctor`. [`Shutdown`] is how threads are asked to stop.
//!
//! # Errors
//!
//! | error | who gets it | meaning |
//! |---|---|---|
//! | `KafkaError` of a constructor | the command | librdkafka refuses the configuration, or cannot create a client |
//! | [`PropertyError`], [`TopologyError`] | the command, before it connects | a setting contradicts another one |
//! | [`TopicError`], [`GroupMembersError`], [`CommittedOffsetsError`] | `run`, before workers start | the cluster does not suit the application, with what to do |
//! | `Fault`, `NotNow`, `Event::Failed` | the worker | see `switchboard_core::worker`: the class says what the worker may do |
//! | [`control_topic::ControlError`], [`control_topic::UpdateError`], [`control_topic::FetchError`] | commands and the release controller | the control topic cannot be read or changed |
//!
//! Trouble that lasts is logged at once and then every 5 s. The message is constant; topic, partition and cause are fields.
#![deny(unsafe_code)]

mod clients;
pub mod control_topic;
mod doctor;
mod embedded;
mod finding;
mod lock;
mod restore;
mod shutdown;
mod sys;
mod topics;

pub use clients::{ClientOptions, GroupProtocol, KafkaBroker, PropertyError, SharedClients, WakeUp};
pub use doctor::{Doctor, Section};
pub use embedded::EmbeddedBroker;
pub use finding::{Finding, Level};
pub use restore::ChangelogTail;
pub use shutdown::{AskOnDrop, Shutdown};
pub use switchboard_checkpoint::ThrottledWarn;
pub use sys::AdminRequestError;
pub use topics::{
    Admin, CommittedOffsets, CommittedOffsetsError, GroupMembersError, PreparedTopics, Purge, ShardCount, ShardOrigin,
    SourceTopics, TopicError, TopicName, TopicSettings, Topology, TopologyError, Watermarks, check_committed_offsets,
    check_group_members, prepare, prepare_control, report_lag,
};
