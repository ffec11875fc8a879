//! Switchboard's pure core.
//!
//! What a record means (`envelope`), what a tenant remembers (`state`), which release it runs (`release`), and the machine
//! that consumes, decides and commits (`worker`), which drives the outside world through the traits `Broker`, `Plugins` and
//! `Lookups`. No Kafka client, wasm engine, HTTP, clock or thread is used here, so all of it runs in a simulation, from a
//! seed. `vectors` runs test vectors against any implementation of `Plugins`.
#![forbid(unsafe_code)]

#[macro_use]
pub mod mutation;

pub mod record;
pub mod registry;
pub mod routing;
pub mod state;
pub mod vectors;
pub mod worker;
