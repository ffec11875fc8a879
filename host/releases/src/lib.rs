//! The releases of one host: loaded away from the workers, published to them, and watched by health gates.
//!
//! | module | question that it answers |
//! |---|---|
//! | `controller` | What happens when the control topic changes? One thread follows the topic and drives all other modules. |
//! | `control_topic` | How does this host read the control topic, write its status, and write a rollback? |
//! | `artifact_store` | Which releases does this host have, and which can it not run? |
//! | `loader` | How is an artifact fetched, verified and compiled? |
//! | `trust` | Who may sign artifacts? |
//! | `health` | How many messages of each release failed, and which tenants run which release? |
//! | `gate` | Does a new release fail so often that its route is rolled back? |
//! | `status` | When does this host write its status, and what does the status contain? |
//! | `watched_file` | Did the plugin file of the configuration change? |
//!
//! The crate may use the control topic's clients (`switchboard-kafka`) and the sandbox. It never touches a worker's
//! consumer, producer or state: workers take a `RoutingSnapshot` from the `RoutingWatch` between two transactions. A
//! published snapshot never changes. The code of a release is dropped with the last snapshot and the last wasm instance
//! that use it.
#![deny(unsafe_code)]

mod artifact_store;
mod control_topic;
mod controller;
mod gate;
mod health;
mod loader;
mod status;
mod trust;
mod watched_file;

pub use artifact_store::ArtifactStore;
pub use control_topic::ControlTopic;
pub use controller::ReleaseController;
pub use health::{HealthObserver, ReleaseHealth};
pub use loader::{Loader, load_file};
pub use trust::{KeyError, TrustError, TrustedKeys};
pub use watched_file::WatchedFile;
