//! Releases and routes: which plugin artifact handles which tenant's messages.
//!
//! * Question: given the routes and the releases that a host has ready, which release does a tenant run?
//! * May use: `record`.
//! * Never: reads a topic, compiles an artifact.
//!
//! A *release* is one artifact, identified by its digest. A *route* gives it tenants: all of them (the default), a
//! percentage, or one (a pin). A pin takes precedence over the percentage, the percentage over the default.
//!
//! The routes are the content of the control topic. A worker uses one [`Routing`] at a time: the routes up to one
//! offset of that topic, and the releases that the host has ready. Each tenant's changelog records what the tenant ran
//! last ([`LastRun`]). So a tenant that moves to another worker never goes back to older routes.

mod digest;
mod last_run;
mod manifest;
mod resolve;
mod routes;
mod title;

pub use digest::{Digest, DigestError};
pub use last_run::LastRun;
pub use manifest::Manifest;
pub use resolve::{Availability, OnFailure, Release, Routing, Target, aliases};
pub use routes::{Gate, Percent, PercentError, Resolved, Route, RouteTable, Share, Versioned};
pub use title::ReleaseTitle;
