//! Tests on a real broker: one binary, so that all of them share one ([`switchboard_tests::kafka::Kafka::shared`]).

#![forbid(unsafe_code)]

mod checkpoint;
mod conformance;
mod dead_letters;
mod doctor;
mod expiry;
mod group;
mod harness;
mod lookups;
mod overload;
mod purge;
mod recovery;
mod releases;
mod start;
mod stream;
mod swaps;
