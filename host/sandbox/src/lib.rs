//! Runs plugins: WebAssembly components in wasmtime, behind the trait [`Plugins`](switchboard_core::worker::Plugins).
//!
//! | type | what it is |
//! |---|---|
//! | [`Sandbox`] | loads artifacts, with a cache of compiled code |
//! | [`Artifact`] | a plugin that this host can run: compiled, linked, with its manifest |
//! | [`InstancePool`] | the wasm instances of one worker: one warm instance a tenant |
//! | [`Limits`] | what a message, an instance, a tenant and a worker may use |
//! | [`RoutingWatch`] | hands the newest routing, a [`RoutingSnapshot`], to each worker's [`RoutingSubscriber`] |
//!
//! # What a plugin cannot do
//!
//! A plugin reaches no file, network, environment variable or host clock. No function that it calls waits. Time and random
//! numbers come from the record, so the same state and the same message give the same result on every host.
//!
//! Only this crate uses wasmtime. It never talks to Kafka.
//!
//! # Errors
//!
//! * [`LoadError`]: the bytes are not a plugin that this host runs. Its text says what to do.
//! * [`Outcome`](switchboard_core::worker::Outcome): how one message's call ended. A trap or an exceeded limit is
//!   `Failed`, with a class and a reason; it leaves no state, and nothing in memory that a later message could see.
//! * Want of memory on the machine is not the message's fault: the pool drops half of its warm instances and tries again.
//!   Only a second failure becomes `Failed`.
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use switchboard_core::record::{Coordinates, Headers, Record, Tenant, TenantId};
//! use switchboard_core::state::TenantState;
//! use switchboard_core::worker::{Answers, Call, Plugins as _};
//! use switchboard_sandbox::{InstancePool, Limits, Sandbox};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limits = Limits::default();
//! let artifact = Arc::new(Sandbox::new(limits)?.load_file(Path::new("counter.wasm"))?);
//! let mut pool = InstancePool::new(Arc::clone(&artifact), limits);
//!
//! let tenant = Tenant { id: TenantId::new("acme"), headers: Headers::new(), texts: vec![] };
//! let record = Record { value: Some(b"hello".to_vec()), ..Record::default() };
//! let source = Coordinates { topic: "IN".into(), partition: 0.into(), offset: 7.into() };
//! let call = Call { tenant: &tenant, record: &record, origin: &source };
//! let mut state = TenantState::default();
//! let outcome = pool.handle(artifact.release(), call, &mut state, &Answers::default());
//! println!("{outcome:?}");
//! # Ok(())
//! # }
//! ```
//!
//! # Files, from the lowest to the highest
//!
//! | file | what it answers |
//! |---|---|
//! | `bindings` | the WIT files as Rust |
//! | `trap` | why a call ended, and what that means for the message |
//! | `limits`, `random`, `guest_log` | limits, random numbers, log lines of a guest |
//! | `guest`, `wasi` | what a guest's calls do: the contract, WASI |
//! | `linked`, `code_cache`, `compiler` | from bytes to a linked component |
//! | `artifact`, `sandbox` | from bytes to a plugin |
//! | `routing_watch`, `migration`, `instances` | a worker's instances and the routing that they follow |
#![deny(unsafe_code)]
#![warn(missing_docs)]

mod artifact;
mod bindings;
mod code_cache;
mod compiler;
mod guest;
mod guest_log;
mod instances;
mod limits;
mod linked;
mod migration;
mod random;
mod routing_watch;
mod sandbox;
mod trap;
mod wasi;

pub use artifact::{Artifact, LoadError, ManifestError, MigratesError};
pub use instances::InstancePool;
pub use limits::Limits;
pub use routing_watch::{RoutingSnapshot, RoutingSubscriber, RoutingWatch};
pub use sandbox::{Sandbox, SandboxError};
