//! Records: what they mean, how they travel, and what may be sent for them.
//!
//! * Question: which tenant does a record belong to, and which records may be produced because of it?
//! * May use: nothing else in this crate.
//! * Never: knows a Kafka client or a plugin; changes the bytes of keys, values or foreign headers.
//!
//! | type or function | purpose |
//! |---|---|
//! | [`Record`], [`Headers`], [`Coordinates`] | a Kafka record, and where it was first consumed |
//! | [`TenantSchema`], [`Tenants`], [`shard_of`] | from a record's headers to its tenant and shard |
//! | [`Barrier`] | a record of the repartition topic that its writer reads back |
//! | [`to_repartitioned`], [`from_repartitioned`] | the form of a source record in the repartition topic |
//! | [`OutputRules`] | the check of a plugin's outputs, and the headers that the host adds |
//! | [`DeadLetter`] | why a message cannot be handled, and its record in the dead-letter topic |
//! | [`Trace`] | W3C Trace Context |
//! | [`Offset`], [`Timestamp`], [`PartitionIndex`], [`ShardId`], [`ControlPosition`] | numbers with a meaning |

mod barrier;
mod control_position;
mod dead_letter;
mod headers;
mod kafka_record;
mod non_negative;
mod offset;
mod outputs;
mod partition;
mod repartition;
mod tenant;
mod timestamp;
mod trace;

pub use barrier::Barrier;
pub use control_position::{ControlPosition, TopicId};
pub use dead_letter::{Class, DeadLetter, HEADER_PREFIX};
pub use headers::{Header, Headers};
pub use kafka_record::{Coordinates, Record};
pub use non_negative::OutOfRange;
pub use offset::Offset;
pub use outputs::{Outbound, Outgoing, OutputLimits, OutputRules};
pub use partition::{PartitionIndex, ShardId};
pub use repartition::{RepartitionError, Repartitioned, from_repartitioned, to_repartitioned};
pub use tenant::{HeaderKind, Tenant, TenantHeader, TenantId, TenantSchema, TenantTextError, Tenants, shard_of};
pub use timestamp::Timestamp;
pub use trace::Trace;
