//! The binary `simulate`; `make simulate` runs it.

use std::process::ExitCode;

fn main() -> ExitCode {
    switchboard_simulation::main()
}
