//! The binary `switchboard`: settings, commands, and the process that runs a host.
//!
//! | module | question that it answers |
//! |---|---|
//! | `cli` | Which commands and flags are there? |
//! | `config` | Which settings are there, and what are their values? |
//! | `wiring` | How are the parts of a host created from the settings? |
//! | `commands` | What does each command do? |
//! | `host` | How do members of the group run on threads, and how do they stop? |
//! | `executors` | Which thread runs which plugin call or lookup, and for how long? |
//! | `services` | Which background threads does a host have besides these? |
//! | `process_instance` | Which name does this process have in its application? |
//!
//! This is the only crate that knows all others. It contains no rules about messages, transactions or routes: those are
//! in `switchboard-core`.
#![deny(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod config;
mod executors;
mod host;
mod process_instance;
mod services;
mod signals;
mod telemetry;
mod wiring;

use std::process::ExitCode;

use cli::{Command, ReleaseCommand};
use commands::Outcome;

/// Does what the command line says. The binary sets the allocator and calls this.
pub fn main() -> ExitCode {
    match run(cli::parse().command) {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::ProblemFound) => ExitCode::FAILURE,
        Err(error) => {
            // One line: the error and its causes.
            eprintln!("switchboard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Run(settings) => commands::run::run(*settings),
        Command::Doctor { settings, json } => commands::doctor::doctor(*settings, json),
        Command::Deploy(args) => commands::deploy::deploy(*args),
        Command::Releases(args) => commands::releases::releases(*args),
        Command::Route(command) => commands::route::route(command),
        Command::Rollback(args) => commands::rollback::rollback(*args),
        Command::Release(ReleaseCommand::Prune(args)) => commands::prune::prune(*args),
        Command::Inspect { plugin, json } => commands::inspect::inspect(&plugin, json),
        Command::Test { plugin, vectors, ignore_header } => commands::test::test(&plugin, &vectors, &ignore_header),
        Command::Demo { plugin, demo, release, script } => {
            commands::demo::demo(&plugin, &demo, &release, script.as_deref())
        }
    }
}
