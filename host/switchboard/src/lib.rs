//! The binary `switchboard`: settings, commands, and the process that runs a host.
//!
//! | module | question that it answers |
//! |---|---|
//! | `cli` | Which commands and flags are there? |
//! | `config` | Which settings are there, and what are their values? |
//! | `wiring` | How are the parts of a host created from the settings? |
//! | `commands` | What does each command do? |
//! | `host` | How do workers run on threads, and how do they stop? |
//! | `services` | Which background threads does a host have besides workers? |
//! | `process_instance` | Which name does this process have in its application? |
//!
//! This is the only crate that knows all others. It contains no rules about messages, transactions or routes: those are
//! in `switchboard-core`.
#![deny(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod config;
mod host;
mod process_instance;
mod services;
mod signals;
mod telemetry;
mod wiring;
