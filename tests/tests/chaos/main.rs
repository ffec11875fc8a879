//! Does exactly-once hold when hosts, brokers and connections fail? Each test makes faults on a cluster of its own.

#![forbid(unsafe_code)]

mod late_request;
mod lost_join;
mod proxied_broker;
mod short;
