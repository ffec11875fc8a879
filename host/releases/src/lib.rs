//! Releases: what the control topic wants this host to run, made ready away from the workers, and handed to them.
//!
//! A `Publication` is one routing with the artifacts of its releases. `Board` has the newest; each worker's `Follower` takes
//! it between two transactions. What is on the board never changes: code that no publication and no instance has any
//! more is dropped. Whose artifacts run is in `trust`.
#![deny(unsafe_code)]

mod gate;
mod keeper;
mod shelf;
mod tally;
mod trust;

pub use keeper::{ControlTopic, Keeper, Watched};
pub use shelf::{Loader, Shelf, load_file};
pub use tally::{Tally, TallyObserver};
pub use trust::{KeyError, TrustError, TrustedKeys};
