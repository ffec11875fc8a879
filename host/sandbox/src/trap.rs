use std::io;
use std::time::Duration;

use switchboard_core::record::{Class, DeadLetter};
use switchboard_core::state::StateError;
use switchboard_core::worker::{Outcome, Query};
use wasmtime::{FrameInfo, Trap, WasmBacktrace};

/// Why the host ends a call: a host function's error, which wasmtime hands through to the caller.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostTrap {
    #[error("the answer to a lookup is not there yet")]
    Missing(Query),
    #[error("more than {most} bytes of memory")]
    Memory { most: usize },
    #[error("no more memory: {0}")]
    NoMemory(String),
    #[error("more than {most} units of fuel for what the host did")]
    HostFuel { most: u64 },
    #[error("more than {most} bytes in one call of the host")]
    HostCall { most: usize },
    #[error("more than {0:?} of CPU time")]
    CpuTime(Duration),
    #[error(transparent)]
    State(StateError),
    #[error(
        "{0} cannot be asked for in describe(), in migrates-from() or before the first message, and lookups not in migrate()"
    )]
    NotNow(&'static str),
    #[error("waits for a clock: time does not pass while a message is handled")]
    Waits,
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
            Self::Missing(_) => Class::Lookup,
            Self::CpuTime(_) => Class::Deadline,
            Self::State(StateError::Key) => Class::Trap,
            Self::State(_)
            | Self::Memory { .. }
            | Self::NoMemory(_)
            | Self::HostFuel { .. }
            | Self::HostCall { .. } => Class::Limit,
            Self::NotNow(_) | Self::Waits | Self::Exit(_) | Self::NotGranted(_) | Self::Misuse(_) => Class::Trap,
        }
    }
}

/// The machine has no more memory, or mappings of it, for an instance: not the guest's fault, as far as one can tell.
#[derive(Debug)]
pub(super) struct OutOfMemory(pub(super) DeadLetter);

/// What a call that ended with `error` comes to. `words`: what the guest wrote to stderr last.
pub(super) fn judge(error: &wasmtime::Error, fuel: u64, words: &str) -> Result<Outcome, OutOfMemory> {
    if let Some(halt) = error.downcast_ref::<HostTrap>() {
        let letter = DeadLetter::new(halt.class(), halt.to_string());
        return match halt {
            HostTrap::Missing(query) => Ok(Outcome::Missing(query.clone())),
            HostTrap::NoMemory(_) => Err(OutOfMemory(letter)),
            _ => Ok(Outcome::Failed(letter)),
        };
    }
    // What wasmtime asks of the operating system is memory.
    if error.chain().any(|cause| cause.is::<io::Error>() || cause.is::<rustix::io::Errno>()) {
        let chain: Vec<_> = error.chain().map(ToString::to_string).collect();
        return Err(OutOfMemory(DeadLetter::new(Class::Limit, format!("no more memory: {}", chain.join(": ")))));
    }
    let letter = match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => DeadLetter::new(Class::Limit, format!("more than {fuel} units of fuel")),
        Some(trap) => DeadLetter::new(Class::Trap, last_words(&format!("{trap}{}", place(error)), words)),
        None => {
            let reason = error.root_cause().to_string();
            let class = if is_limit(&reason) { Class::Limit } else { Class::Trap };
            DeadLetter::new(class, reason)
        }
    };
    Ok(Outcome::Failed(letter))
}

/// Some of wasmtime's limits have no type of their own, only a text. Tests hold on to each.
fn is_limit(reason: &str) -> bool {
    // Store::set_hostcall_fuel
    reason.contains("fuel allocated for hostcalls has been exhausted")
        // Store::set_max_component_handles
        || reason.contains("store handle limit exceeded")
        // ResourceLimiter::{instances, memories, tables}
        || reason.starts_with("resource limit exceeded")
}

/// The innermost functions, as far as the plugin's names section tells them.
fn place(error: &wasmtime::Error) -> String {
    let frames = error.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    let names: Vec<_> = frames
        .iter()
        .filter_map(FrameInfo::func_name)
        // Without the hash that a build gives them.
        .map(|name| format!("{:#}", rustc_demangle::demangle(name)))
        .collect();
    if names.is_empty() { String::new() } else { format!(" in {}", names.join(", called by ")) }
}

/// A panic of Rust is a message on stderr, then the trap `unreachable`: the message says more.
fn last_words(trap: &str, words: &str) -> String {
    match words.find("panicked at ") {
        Some(start) => words[start..].to_owned(),
        None if words.is_empty() => trap.to_owned(),
        None => format!("{trap}; its last words: {words}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        assert_eq!(last_words("wasm trap: x", ""), "wasm trap: x");
        assert_eq!(last_words("wasm trap: x", "oh no"), "wasm trap: x; its last words: oh no");
        let words = "thread 'main' panicked at src/lib.rs:1:2: boom";
        assert_eq!(last_words("wasm trap: x", words), "panicked at src/lib.rs:1:2: boom");
    }
}
