//! What a record means: whose it is, how it travels, what may be sent for it.
//!
//! Records become messages here and outputs become records: tenants are decoded from headers, trace contexts are
//! continued, outputs are checked against what their plugin may send, dead letters are written. Bytes of keys, values
//! and foreign headers are never changed. This room knows no Kafka client and no plugin.

mod dead_letter;
mod headers;
mod kafka_record;
mod outputs;
mod position;
mod repartition;
mod tenant;
mod trace;

pub use dead_letter::{Class, DeadLetter, HEADER_PREFIX};
pub use headers::{Header, Headers};
pub use kafka_record::{Coordinates, Record};
pub use outputs::{Outbound, Outgoing, OutputLimits, OutputRules};
pub use position::Position;
pub use repartition::{RepartitionError, Repartitioned, from_repartitioned, to_repartitioned};
pub use tenant::{HeaderKind, Tenant, TenantHeader, TenantId, TenantSchema, TenantTextError, Tenants, shard_of};
pub use trace::Trace;
