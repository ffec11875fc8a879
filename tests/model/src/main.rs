//! The binary `switchboard-model`; `make model` runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    switchboard_model::main()
}
