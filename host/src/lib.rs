//! The host: Kafka, plugins and lookups behind the traits of `switchboard-core`, and the commands.
#![deny(unsafe_code)]

pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod host;
pub mod instance;
pub mod kafka;
pub mod lookup;
pub mod release;
pub mod sandbox;
pub mod shutdown;
pub mod telemetry;
