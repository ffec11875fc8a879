//! The pure core of Switchboard: everything that can be decided without Kafka, WebAssembly, HTTP, a clock or a thread.
//!
//! Each module answers one question and states what it may use. Since the core is pure, all of it runs in a simulation from a
//! seed. The crate's `clippy.toml` and the lints below forbid clocks, threads, files, environment variables and the iteration
//! of hash tables, whose order is random.
//!
//! | module | question | may use | never |
//! |---|---|---|---|
//! | [`record`] | What does a record mean: whose is it, and what may be sent for it? | - | knows a Kafka client or a plugin |
//! | [`routing`] | Which release does a tenant run? | `record` | reads a topic, compiles an artifact |
//! | [`registry`] | What does the control topic say, and what may be written to it next? | `record`, `routing` | writes anything itself |
//! | [`state`] | What has a tenant stored? | `record`, and `worker`'s [`Receipt`](worker::Receipt) | does I/O, promotes staged changes without a receipt |
//! | [`worker`] | What does a worker do next? | all above, and the outside world through traits | commits a part of a record's effects |
//! | [`vectors`] | Does a plugin do what its test vectors say? | all above | needs a broker |
//!
//! # Example
//!
//! From a record's headers to its tenant, the tenant's shard, and the release that the tenant runs:
//!
//! ```
//! use switchboard_core::record::{HeaderKind, Headers, TenantHeader, TenantSchema, shard_of};
//! use switchboard_core::routing::{Digest, Route, RouteTable, Versioned};
//!
//! let header = |name: &str, kind| TenantHeader { name: name.into(), kind };
//! let schema = TenantSchema::new(vec![header("REGION", HeaderKind::Text), header("MAJOR_VERSION", HeaderKind::U16)]);
//!
//! let mut headers = Headers::new();
//! headers.add("REGION", "G/M");
//! headers.add("MAJOR_VERSION", 83_u16.to_be_bytes());
//! let tenant = schema.decode(&headers).expect("all tenant headers are there");
//! assert_eq!(tenant.id.as_str(), "G%2FM/83");
//! assert!(i32::from(shard_of(&tenant.id, 16)) < 16);
//!
//! // All tenants run release 1, this one is pinned to release 2.
//! let route = |number| Some(Route { release: Digest::new([number; 32]), previous: None, gate: None });
//! let mut table = RouteTable::default();
//! table.default = Versioned { route: route(1), offset: Some(5.into()) };
//! table.pins.insert(tenant.id.clone(), Versioned { route: route(2), offset: Some(9.into()) });
//! let resolved = table.resolve(&tenant.id);
//! assert_eq!(resolved.route.map(|route| route.release), Some(Digest::new([2; 32])));
//! assert_eq!(resolved.offset, Some(9.into()));
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

#[macro_use]
pub mod mutation;

pub mod record;
pub mod registry;
pub mod routing;
pub mod state;
pub mod vectors;
pub mod worker;
