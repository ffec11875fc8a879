//! The barrier: a record of the repartition topic that its writer reads back.

use serde::{Deserialize, Serialize};

use super::headers::Headers;
use super::kafka_record::Record;

/// The only header of a barrier.
const HEADER: &str = "switchboard-barrier";

/// Names one barrier among all that were ever written to a shard. Its writer waits for it, and everybody else skips it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Barrier {
    /// The run of the worker that wrote it: a random number.
    pub incarnation: u64,
    /// Counts the barriers of that run.
    pub number: u64,
}

impl Barrier {
    /// The record: no key, no value, one header.
    pub fn to_record(self) -> Record {
        let bytes = postcard::to_extend(&self, Vec::new()).expect("a Vec takes any length, and numbers have a form");
        let headers = [(HEADER, Some(&bytes))].into_iter().collect();
        Record { headers, ..Record::default() }
    }

    /// The barrier, if the record is one.
    pub fn from_record(record: &Record) -> Option<Self> {
        let headers: &Headers = &record.headers;
        let header = headers.iter().next().filter(|header| headers.len() == 1 && header.name == HEADER.as_bytes())?;
        postcard::from_bytes(header.value?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_is_read_as_it_was_written_and_nothing_else_is_one() {
        let barrier = Barrier { incarnation: u64::MAX, number: 3 };
        assert_eq!(Barrier::from_record(&barrier.to_record()), Some(barrier));
        let mut other = barrier.to_record();
        other.headers.add("more", "x");
        for record in [Record::default(), other] {
            assert_eq!(Barrier::from_record(&record), None);
        }
    }
}
