//! The contract `wit/plugin.wit` as Rust: the only `bindgen!` call of the host.
#![allow(unsafe_code, unreachable_pub, clippy::pedantic)]

wasmtime::component::bindgen!({
    path: "../../wit",
    // With all exports: which of them a component has is found out by `linked`.
    world: "migrating-plugin",
    // Every import may end the call: for a limit, for an answer that is not there yet.
    imports: { default: trappable },
    // The bytes of a message are lent: they are copied once, into the guest's memory.
    ownership: Borrowing { duplicate_if_necessary: true },
    // The linker is shared with wasmtime-wasi's bindings, which ask for this.
    require_store_data_send: true,
});
