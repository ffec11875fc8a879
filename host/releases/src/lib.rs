//! Releases: what the control topic wants this host to run, made ready away from the workers, and handed to them.
//!
//! A `RoutingSnapshot` is one routing with the artifacts of its releases. `RoutingWatch` has the newest; each worker's `RoutingSubscriber` takes
//! it between two transactions. What is on the board never changes: code that no publication and no instance has any
//! more is dropped. Whose artifacts run is in `trust`.
#![deny(unsafe_code)]

mod artifact_store;
mod controller;
mod gate;
mod health;
mod trust;

pub use artifact_store::{ArtifactStore, Loader, load_file};
pub use controller::{ControlTopic, ReleaseController, WatchedFile};
pub use health::{HealthObserver, ReleaseHealth};
pub use trust::{KeyError, TrustError, TrustedKeys};
