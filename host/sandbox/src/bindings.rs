//! The WIT files as Rust: `wit/plugin.wit` (the contract with plugins) and `host/sandbox/wit/wasi.wit` (the part of WASI
//! 0.2 that the sandbox implements).
//!
//! Only this file calls `bindgen!`. What the functions do is in `guest` and `wasi`.
#![allow(unsafe_code, unreachable_pub, missing_docs, clippy::pedantic)]

/// The contract with plugins.
pub(crate) mod contract {
    wasmtime::component::bindgen!({
        path: "../../wit",
        // The world with all exports. `linked` finds out which of them a component has.
        world: "migrating-plugin",
        // Every host function can end the call: a limit is exceeded, or a lookup has no answer yet.
        imports: { default: trappable },
        // A message's bytes are borrowed: wasmtime copies them once, into the guest's memory.
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

/// The part of WASI 0.2 that the sandbox implements.
pub(crate) mod wasi {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "granted",
        imports: { default: trappable },
    });
}
