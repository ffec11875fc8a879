//! One file a command.

pub mod demo;
pub mod doctor;
pub mod inspect;
pub mod run;
pub mod test;
