//! One file a command.

mod control;
pub mod demo;
pub mod deploy;
pub mod doctor;
pub mod inspect;
pub mod prune;
pub mod releases;
pub mod rollback;
mod rollout;
pub mod route;
pub mod run;
pub mod test;
