//! Releases and routes: which plugin artifact handles which tenant's messages.
//!
//! A *release* is one artifact by its digest; a *route* says who runs it: all tenants (the default), a percentage of them,
//! or one (a pin). Pins come before the percentage, the percentage before the default. All of it is the content of the
//! control topic, and a worker goes by one `Routing`: the routes up to some place of that topic, and the releases that this
//! host has ready. What a tenant ran under last stands in its own changelog (`LastRun`), so that it never goes back to an older
//! route because it moved to another worker. Pure: no topic is read here and nothing is compiled.

mod digest;
mod last_run;
mod manifest;
mod resolve;
mod routes;

pub use digest::{Digest, DigestError};
pub use last_run::LastRun;
pub use manifest::Manifest;
pub use resolve::{Availability, OnFailure, Release, Routing, Target};
pub use routes::{Gate, Percent, PercentError, Resolved, Route, RouteTable, Share, Versioned};
