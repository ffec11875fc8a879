//! The harness of the black-box tests: a real broker, a real HTTP directory, the host as a child process, and small
//! clients. The harness does not know the inside of the host. A test sees what an operator sees.
//!
//! * Everything that the harness starts ends when its value is dropped, and also when the test process dies
//!   ([`process`]).
//! * Every wait is for a condition. It fails when nothing changes for a while ([`progress`]), and the error says what the
//!   test saw.
//! * No test judges the total time, so a test on a slow machine only takes longer.

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
