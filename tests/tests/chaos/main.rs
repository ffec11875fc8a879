//! Faults made on purpose, on clusters of their own.

#![forbid(unsafe_code)]

mod late_request;
mod lost_join;
mod short;
mod stage;
