//! The binary `switchboard`.

use std::process::ExitCode;

/// Records are many small allocations that one thread makes and another one frees, also in librdkafka. With glibc's
/// allocator a host spent half of its time on them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    switchboard::main()
}
