//! Does the host do on a real broker what its documentation says? All tests are in one binary, so that they share the
//! broker ([`switchboard_tests::kafka::Kafka::shared`]).

#![forbid(unsafe_code)]

mod checkpoint;
mod conformance;
mod dead_letters;
mod doctor;
mod expiry;
mod group;
mod harness;
mod lookups;
mod offset_metadata;
mod overload;
mod purge;
mod recovery;
mod releases;
mod start;
mod stream;
mod swaps;
