//! `simulate` with the mutation that `SWITCHBOARD_MUTATION` names.

use std::process::ExitCode;

fn main() -> ExitCode {
    switchboard_mutants::run(switchboard_simulation::main)
}
