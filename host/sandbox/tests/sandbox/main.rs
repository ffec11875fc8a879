//! The sandbox against hostile plugins: `tests/guests/hostile`, which does what each message says, and components written
//! by hand.

mod artifacts;
mod code_cache;
mod handmade;
mod instances;
mod limits;
mod migration;
mod releases;
mod runner;
mod support;
mod world;
