//! One file a command.

pub mod demo;
pub mod inspect;
pub mod run;
pub mod test;
