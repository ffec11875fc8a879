//! The sandbox: plugins behind the trait `Plugins`, as components in wasmtime.
//!
//! A `Sandbox` loads artifacts, `InstancePool` runs them: one instance a tenant, kept warm, replaced after anything but
//! success; a migration of state runs in one of its own. What a guest may call is in `guest` (state, lookups) and `wasi`;
//! what it may use in `limits`; how a call that did not succeed is judged in `verdict`. Compiled code is kept in
//! `code_cache`. Nobody else imports wasmtime.
//!
//! A guest never reaches files, network, environment or the host's clock, and nothing that it calls waits: fuel and
//! epochs bound only what runs inside of wasm.
#![deny(unsafe_code)]

mod artifact;
mod bindings;
mod code_cache;
mod engine;
mod guest;
mod guest_log;
mod instances;
mod limits;
mod linked;
mod migration;
mod random;
mod routing_watch;
mod trap;
mod wasi;

pub use artifact::{Artifact, LoadError};
pub use engine::{Sandbox, SandboxError};
pub use instances::InstancePool;
pub use limits::Limits;
pub use routing_watch::{RoutingSnapshot, RoutingSubscriber, RoutingWatch};
