//! `switchboard` with the mutation that `SWITCHBOARD_MUTATION` names.

use std::process::ExitCode;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    switchboard_mutants::run(switchboard::main)
}
