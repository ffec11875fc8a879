//! The host: Kafka, plugins and lookups behind the traits of `switchboard-core`, and the commands.
#![deny(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod config;
pub mod host;
pub mod instance;
pub mod signals;
pub mod telemetry;
