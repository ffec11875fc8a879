//! What the black-box tests stand on: a real broker, a real HTTP directory, the host as a child process, and small
//! clients. Nothing here knows the inside of the host; a test sees what an operator sees.
//!
//! Everything that is started here ends when its value is dropped, and also when the test process dies in any other
//! way ([`process`]). Every wait is for a condition, and fails when nothing changes any more ([`progress`]); the error says what
//! was seen. No verdict goes by total time, so a slow machine only takes longer.

#![deny(unsafe_code)]

pub mod app;
pub mod chaos;
pub mod client;
pub mod directory;
pub mod fleet;
pub mod generator;
pub mod host;
pub mod kafka;
pub mod native;
pub mod process;
pub mod progress;
pub mod proxy;
pub mod soak;
pub mod under_load;
pub mod witness;
