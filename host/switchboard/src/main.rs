//! The binary `switchboard`.

use std::process::ExitCode;

use switchboard::cli::{self, Command, ReleaseCommand};
use switchboard::commands::{self, Outcome};

/// Records are many small allocations that one thread makes and another one frees, also in librdkafka. With glibc's
/// allocator a worker spent half of its time on them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
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
