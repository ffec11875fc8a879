//! Why a call ended without a result, and what that means for the message.
//!
//! The host ends a call with a `HostTrap`, wasmtime with its own `Trap`. `outcome_of` turns both into the worker's
//! `Outcome`, or into `OutOfMemory` when the machine and not the guest is at fault. This file only classifies: it runs
//! nothing and logs nothing.

use std::io;
use std::time::Duration;

use switchboard_core::record::{Class, DeadLetter};
use switchboard_core::state::StateError;
use switchboard_core::worker::{Outcome, Query};
use wasmtime::{FrameInfo, Trap, WasmBacktrace};

/// The reason why a host function ends a call. wasmtime passes it through to the caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostTrap {
    #[error("the answer to a lookup is not there yet")]
    MissingAnswer(Query),
    #[error("more than {max_bytes} bytes of memory")]
    Memory { max_bytes: usize },
    #[error("no more memory: {0}")]
    OutOfMemory(String),
    #[error("more than {max_fuel} units of fuel for what the host did")]
    HostFuel { max_fuel: u64 },
    #[error("more than {max_bytes} bytes in one call of the host")]
    HostCall { max_bytes: usize },
    #[error("more than {0:?} of CPU time")]
    CpuTime(Duration),
    #[error(transparent)]
    State(StateError),
    #[error(
        "{0} is not available in describe(), in migrates-from() or before the first message, and lookups not in migrate()"
    )]
    Unavailable(&'static str),
    #[error("waits for a clock: time does not pass while a message is handled")]
    WaitsForClock,
    #[error("left by exit({0})")]
    Exit(u8),
    #[error("{0} is not granted to plugins")]
    NotGranted(String),
    #[error("{0}")]
    Misuse(&'static str),
}

impl HostTrap {
    fn class(&self) -> Class {
        match self {
            Self::MissingAnswer(_) => Class::Lookup,
            Self::CpuTime(_) => Class::Deadline,
            Self::State(StateError::Key) => Class::Trap,
            Self::State(_)
            | Self::Memory { .. }
            | Self::OutOfMemory(_)
            | Self::HostFuel { .. }
            | Self::HostCall { .. } => Class::Limit,
            Self::Unavailable(_) | Self::WaitsForClock | Self::Exit(_) | Self::NotGranted(_) | Self::Misuse(_) => {
                Class::Trap
            }
        }
    }
}

/// The machine has no memory, or no memory mapping, left for an instance. As far as the host can see, the guest is not
/// at fault.
#[derive(Debug)]
pub(crate) struct OutOfMemory(pub(crate) DeadLetter);

/// The outcome of a call that ended with `error`.
///
/// `max_fuel` is the call's limit of fuel. `stderr_tail` is what the guest wrote to stderr last.
pub(crate) fn outcome_of(error: &wasmtime::Error, max_fuel: u64, stderr_tail: &str) -> Result<Outcome, OutOfMemory> {
    if let Some(trap) = error.downcast_ref::<HostTrap>() {
        let letter = DeadLetter::new(trap.class(), trap.to_string());
        return match trap {
            HostTrap::MissingAnswer(query) => Ok(Outcome::Missing(query.clone())),
            HostTrap::OutOfMemory(_) => Err(OutOfMemory(letter)),
            _ => Ok(Outcome::Failed(letter)),
        };
    }
    // wasmtime makes system calls only to get memory.
    if error.chain().any(|cause| cause.is::<io::Error>() || cause.is::<rustix::io::Errno>()) {
        let reason = format!("no more memory: {}", one_line(error));
        return Err(OutOfMemory(DeadLetter::new(Class::Limit, reason)));
    }
    let letter = match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => DeadLetter::new(Class::Limit, format!("more than {max_fuel} units of fuel")),
        Some(trap) => {
            let trap = format!("{trap}{}", innermost_functions(error));
            DeadLetter::new(Class::Trap, with_stderr_tail(&trap, stderr_tail))
        }
        None => {
            let reason = error.root_cause().to_string();
            let class = if is_limit(&reason) { Class::Limit } else { Class::Trap };
            DeadLetter::new(class, reason)
        }
    };
    Ok(Outcome::Failed(letter))
}

/// Recognises those of wasmtime's limits that have a text and no type. A test covers each of them.
fn is_limit(reason: &str) -> bool {
    // Store::set_hostcall_fuel
    reason.contains("fuel allocated for hostcalls has been exhausted")
        // Store::set_max_component_handles
        || reason.contains("store handle limit exceeded")
        // ResourceLimiter::{instances, memories, tables}
        || reason.starts_with("resource limit exceeded")
}

/// Names the innermost functions, as far as the plugin's name section contains them.
fn innermost_functions(error: &wasmtime::Error) -> String {
    let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    let names: Vec<_> = frames
        .iter()
        .filter_map(FrameInfo::func_name)
        // `#` leaves out the hash, which differs from build to build.
        .map(|name| format!("{:#}", rustc_demangle::demangle(name)))
        .collect();
    if names.is_empty() { String::new() } else { format!(" in {}", names.join(", called by ")) }
}

/// Adds what the guest wrote to stderr last. A Rust panic writes a message to stderr and then executes `unreachable`: here
/// the message replaces the trap, because it says more.
fn with_stderr_tail(trap: &str, stderr_tail: &str) -> String {
    match stderr_tail.find("panicked at ") {
        Some(start) => stderr_tail[start..].to_owned(),
        None if stderr_tail.is_empty() => trap.to_owned(),
        None => format!("{trap}; last on stderr: {stderr_tail}"),
    }
}

/// An error of wasmtime, with its causes, on one line.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    let chain: Vec<_> = error.chain().map(|cause| cause.to_string().replace('\n', " ")).collect();
    chain.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_replaces_the_trap_and_another_line_follows_it() {
        assert_eq!(with_stderr_tail("wasm trap: x", ""), "wasm trap: x");
        assert_eq!(with_stderr_tail("wasm trap: x", "oh no"), "wasm trap: x; last on stderr: oh no");
        let tail = "thread 'main' panicked at src/lib.rs:1:2: boom";
        assert_eq!(with_stderr_tail("wasm trap: x", tail), "panicked at src/lib.rs:1:2: boom");
    }
}
