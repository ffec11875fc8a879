//! What a record means: whose it is, how it travels, what may be sent for it.
//!
//! Records become messages here and outputs become records: tenants are decoded from headers, trace contexts are
//! continued, outputs are checked against what their plugin may send, dead letters are written. Bytes of keys, values
//! and foreign headers are never changed. This room knows no Kafka client and no plugin.

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
