//! A plugin that does what its message says, good or bad, for tests of the sandbox. A message's value is a word and its
//! arguments, separated by spaces.

#[cfg(target_family = "wasm")]
#[allow(unsafe_code)]
mod raw;

#[cfg(target_family = "wasm")]
mod words;

#[cfg(target_family = "wasm")]
switchboard_sdk::export!(words::Hostile, migrate);
