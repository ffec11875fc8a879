//! The binary `switchboard`.

use std::process::ExitCode;

/// Records are many small allocations, made on one thread and freed on another (librdkafka's too): glibc's allocator was
/// half of a worker's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    switchboard::main()
}
