//! Runs plugins: WebAssembly components in wasmtime, behind the trait [`Plugins`](switchboard_core::worker::Plugins).
//!
//! | type | what it is |
//! |---|---|
//! | [`Sandbox`] | loads artifacts, with a cache of compiled code |
//! | [`Artifact`] | a plugin that this host can run: compiled, linked, with its manifest |
//! | [`InstancePool`] | the wasm instances of one worker: one warm instance a tenant |
//! | [`TenantRunner`] | runs the messages of one tenant, on any thread |
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
//! * Want of memory on the machine is not the message's fault: the runner drops half of the idle instances and tries again.
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
//! use switchboard_core::worker::{Answers, Call, Plugins as _, Runner as _};
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
//! let mut runner = pool.lend(&tenant.id);
//! let outcome = runner.handle(artifact.release(), call, &mut state, &Answers::default());
//! pool.give_back(&tenant.id, runner);
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
//! | `routing_watch` | the routing that a worker follows |
//! | `wasm_instance`, `warm_instances`, `migration` | a tenant's instance, all instances of a worker, an instance that migrates |
//! | `runner`, `instances` | what runs a tenant's messages, and what lends it |
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
mod runner;
mod sandbox;
mod trap;
mod warm_instances;
mod wasi;
mod wasm_instance;

pub use artifact::{Artifact, LoadError, ManifestError, MigratesError};
pub use instances::InstancePool;
pub use limits::Limits;
pub use routing_watch::{RoutingSnapshot, RoutingSubscriber, RoutingWatch};
pub use runner::TenantRunner;
pub use sandbox::{Sandbox, SandboxError};
