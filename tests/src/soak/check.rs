//! Judges what is there in the end by what was sent and by the routes that there were. Nothing here talks to a broker.

use std::collections::BTreeMap;

use switchboard_core::record::{Offset, TenantId};
use switchboard_core::routing::{Digest, LastRun};

use super::load::{Input, PARTITIONS, TENANTS, inputs, name};
use super::versions::Version;
use super::watch::Output;
use crate::chaos::check::Violations;

/// All that is there in the end.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// All ids below were sent.
    pub sent: u64,
    /// Each tenant's, in the order of their topic.
    pub outputs: Vec<Vec<Output>>,
    /// The routes after each change.
    pub versions: Vec<Version>,
    /// Digests of the releases, by number.
    pub releases: Vec<Digest>,
    /// The number of the release that runs where no route says otherwise.
    pub base: usize,
    pub awaited: Vec<Awaited>,
    /// By tenant, what its changelog says that it ran under last.
    pub ran: BTreeMap<usize, LastRun>,
}

/// `deploy --wait` has said that all hosts go by a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited {
    /// Inputs from this id on were sent after that.
    pub id: u64,
    /// Of the change's record.
    pub change: Offset,
}

/// Looks for all that must not be.
pub fn check(evidence: &Evidence) -> Violations {
    let mut violations = Violations::default();
    account(evidence, &mut violations);
    for tenant in 0..TENANTS {
        let outputs = &evidence.outputs[tenant];
        in_order(tenant, outputs, &mut violations);
        by_its_release(tenant, evidence, &mut violations);
    }
    violations
}

/// Every input has one output.
fn account(evidence: &Evidence, violations: &mut Violations) {
    let mut counts = vec![0_u8; usize::try_from(evidence.sent).expect("what was sent fits into memory")];
    for output in evidence.outputs.iter().flatten() {
        match usize::try_from(output.id).ok().and_then(|id| counts.get_mut(id)) {
            Some(count) => *count = count.saturating_add(1),
            None => violations.add("settled twice", format!("{}, which was not sent", output.id)),
        }
    }
    for (input, count) in inputs().zip(counts) {
        match count {
            1 => {}
            0 => violations.add("lost", format!("{input:?} of {}", name(input.tenant()))),
            count => violations.add("settled twice", format!("{input:?} has {count} outputs")),
        }
    }
}

/// A tenant's outputs are those of its inputs, in the order of each source partition, and numbered by its state: nothing that
/// was staged is lost or from another history.
fn in_order(tenant: usize, outputs: &[Output], violations: &mut Violations) {
    let mut last = [None; PARTITIONS as usize];
    let mut hash = 0;
    for (output, number) in outputs.iter().zip(1..) {
        let input = Input(output.id);
        if input.tenant() != tenant {
            violations.add("wrong output", format!("{} has one of {input:?}", name(tenant)));
        }
        let partition = input.partition();
        let last = &mut last[usize::try_from(partition).expect("a partition")];
        if last.replace(output.id).is_some_and(|before| before >= output.id) {
            let what = format!("{}: {input:?} of partition {partition} was overtaken", name(tenant));
            violations.add("out of order", what);
        }
        let expected = ledger::hash(hash, number, &output.id.to_string());
        if (output.number, output.hash) != (number, expected) {
            let found = (output.number, output.hash);
            violations
                .add("wrong state", format!("{}: {input:?} has {found:?} for {:?}", name(tenant), (number, expected)));
        }
        hash = output.hash;
    }
}

/// Each output was made by the release that the tenant's route named: in some version of the routes that is none older than
/// that of the output before, none that did not exist yet, and none older than one that all hosts went by already.
fn by_its_release(tenant: usize, evidence: &Evidence, violations: &mut Violations) {
    let Evidence { versions, releases, base, awaited, .. } = evidence;
    let id = TenantId::new(name(tenant));
    // By version: release, and the offset that last changed something about the route.
    let routed: Vec<_> = versions
        .iter()
        .map(|version| {
            let resolved = version.table.resolve(&id);
            (resolved.route.map_or(releases[*base], |route| route.release), resolved.offset)
        })
        .collect();
    let place = |change: Offset| versions.partition_point(|version| version.offset < Some(change));
    let awaited: Vec<_> = awaited.iter().map(|awaited| (awaited.id, place(awaited.change))).collect();
    let next = |from: usize, release: Digest| (from..versions.len()).find(|at| routed[*at].0 == release);
    let mut at = 0;
    for output in &evidence.outputs[tenant] {
        let told = |why: &str| {
            format!("{}: input {} was handled by release {}: {why}", name(tenant), output.id, output.release)
        };
        let Some(release) = releases.get(output.release) else {
            violations.add("wrong release", told("there is none"));
            continue;
        };
        // The least that explains it leaves the most to those that follow.
        let Some(found) = next(at, *release) else {
            let before = next(0, *release).map(|at| versions[at].offset);
            violations.add(
                "wrong release",
                told(&format!("its route was that after {:?} already, not {before:?}", versions[at].offset)),
            );
            continue;
        };
        let floor = awaited.iter().filter(|(id, _)| *id <= output.id).map(|(_, floor)| *floor).max().unwrap_or(0);
        let Some(found) = next(found.max(floor), *release) else {
            violations.add(
                "wrong release",
                told(&format!("all hosts went by the change at {:?} when it was sent", versions[floor].offset)),
            );
            continue;
        };
        let Version { offset, timestamp, .. } = versions[found];
        if let Some(early) =
            timestamp.and_then(|set| set.checked_since(output.timestamp)).filter(|early| !early.is_zero())
        {
            violations.add("wrong release", told(&format!("{early:?} before its route, after {offset:?}, was there")));
            continue;
        }
        at = found;
    }
    let Some(last) = evidence.outputs[tenant].last().and_then(|output| releases.get(output.release)) else { return };
    match evidence.ran.get(&tenant) {
        Some(ran)
            if ran.release == *last
                && ran.state_version == 1
                && routed[at..].contains(&(*last, ran.route.map(|route| route.offset))) => {}
        ran => violations.add("wrong entry", format!("{} ran {last} last, and its entry is {ran:?}", name(tenant))),
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
