//! The simulation and the host with known mistakes compiled in, one of which is switched on.
//!
//! `switchboard_core::mutation::ALL` lists the mistakes. The environment variable `SWITCHBOARD_MUTATION` names the one that
//! a process runs with; without the variable it runs with none. One build serves all mutants.
//!
//! | binary | feature | what it is |
//! |---|---|---|
//! | `mutant-simulate` | `simulation` | `simulate`, with its flags |
//! | `mutant-host` | `host` | `switchboard`, with its commands and flags |
//!
//! The feature `mutations` is both.
//!
//! Cargo unites the features of all packages that are built together. So this package is empty without its features, and
//! no product package may depend on it.
#![forbid(unsafe_code)]

#[cfg(feature = "core")]
use std::process::ExitCode;

/// The environment variable that names the mutation of a process.
#[cfg(feature = "core")]
pub const VARIABLE: &str = "SWITCHBOARD_MUTATION";

/// Runs a program with the mutation that the environment names, or with none.
#[cfg(feature = "core")]
pub fn run(main: fn() -> ExitCode) -> ExitCode {
    if let Some(name) = std::env::var_os(VARIABLE)
        && let Err(error) = switchboard_core::mutation::activate(&name.to_string_lossy())
    {
        eprintln!("{VARIABLE}: {error}");
        return ExitCode::FAILURE;
    }
    main()
}
