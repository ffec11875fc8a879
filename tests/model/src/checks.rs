//! What must hold in every state: for each tenant, the committed results are a prefix of its records, in their order, and each
//! was made from the state of all before it.
//!
//! So no record is lost, doubled or overtaken, and none is processed on old state.

use crate::cluster::log::{Entry, Kind, Mark};
use crate::small::Set;
use crate::state::{State, TENANTS, tenant};

/// What is wrong with a state, if anything is.
pub fn violation(state: &State) -> Option<String> {
    (0..TENANTS).find_map(|tenant| violation_of(state, tenant))
}

fn violation_of(state: &State, of: usize) -> Option<String> {
    let mut before = Set::EMPTY;
    let mut expected = (0..).filter(|record| tenant(*record) == of);
    for entry in state.cluster.changelog.entries() {
        if tenant(entry.record) != of || entry.kind == Kind::Parked || !state.cluster.is_committed(entry) {
            continue;
        }
        if expected.next() != Some(entry.record) {
            return Some(format!("the committed results of tenant {of} are those of records {:?}", settled(state, of)));
        }
        if entry.kind == Kind::Result && entry.base != before {
            return Some(format!(
                "the committed result of record {} was made from the changes of {}, but those of {before} were before it",
                entry.record, entry.base
            ));
        }
        if entry.kind == Kind::Result {
            before.insert(entry.record);
        }
    }
    None
}

/// The records of a tenant with a committed result or dead letter, in their order.
fn settled(state: &State, of: usize) -> Vec<u8> {
    let is_settled = |entry: &&Entry| entry.kind != Kind::Parked && state.cluster.is_committed(entry);
    let entries = state.cluster.changelog.entries().iter().filter(is_settled);
    entries.map(|entry| entry.record).filter(|record| tenant(*record) == of).collect()
}

/// Whether all records are settled, and all readers can see it.
pub fn is_end(state: &State, records: u8) -> bool {
    let entries = state.cluster.changelog.entries().iter();
    let settled: Set = entries
        .filter(|entry| entry.kind != Kind::Parked && entry.mark == Mark::Committed)
        .map(|entry| entry.record)
        .collect();
    settled == Set::below(records)
}
