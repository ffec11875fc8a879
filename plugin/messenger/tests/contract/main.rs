//! The messenger's contract, tested natively through the plugin's own entry point.

mod decisions;
mod directory;
mod encoding;
mod input;
mod properties;
mod tenant;
mod vectors;
