//! The host: Kafka, plugins and lookups behind the traits of `switchboard-core`, and the commands.
#![deny(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod config;
pub mod host;
pub mod instance;
pub mod signals;
pub mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command, ReleaseCommand};

/// Does what the command line says. The binary sets the allocator and calls this.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => commands::run::run(*args).map(|()| true),
        Command::Doctor { args, json } => commands::doctor::doctor(*args, json),
        Command::Deploy(args) => commands::deploy::deploy(*args),
        Command::Releases(args) => commands::releases::releases(*args).map(|()| true),
        Command::Route(command) => commands::route::route(command),
        Command::Rollback(args) => commands::rollback::rollback(*args),
        Command::Release(ReleaseCommand::Prune(args)) => commands::prune::prune(*args).map(|()| true),
        Command::Inspect { plugin, json } => commands::inspect::inspect(&plugin, json).map(|()| true),
        Command::Test { plugin, vectors, ignore_header } => commands::test::test(&plugin, &vectors, &ignore_header),
        Command::Demo { plugin, demo, release, script } => {
            commands::demo::demo(&plugin, &demo, &release, script.as_deref()).map(|()| true)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // One line: the error and, where they say more, its causes.
            eprintln!("switchboard: {error:#}");
            ExitCode::FAILURE
        }
    }
}
