//! Checks the outputs at the end of a run against the inputs and the history of the routes. Nothing here talks to a
//! broker.

use std::collections::BTreeMap;

use switchboard_core::record::{Offset, TenantId};
use switchboard_core::routing::{Digest, LastRun};

use super::load::{Input, PARTITIONS, TENANTS, inputs, name};
use super::versions::Version;
use super::watch::Output;
use crate::chaos::check::Violations;

/// The evidence at the end of a run.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// All ids below this were sent.
    pub sent: u64,
    /// The outputs of each tenant, in the order of their topic.
    pub outputs: Vec<Vec<Output>>,
    /// The routes after each change.
    pub versions: Vec<Version>,
    /// The digests of the releases, by number.
    pub releases: Vec<Digest>,
    /// The number of the release of tenants without a route.
    pub base: usize,
    pub awaited: Vec<Awaited>,
    /// The last run of each tenant, from the changelog.
    pub last_runs: BTreeMap<usize, LastRun>,
}

/// `deploy --wait` has reported that all hosts apply a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited {
    /// Inputs from this id on were sent after the report.
    pub id: u64,
    /// The offset of the change's record.
    pub change: Offset,
}

/// Looks for every violation.
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

/// A tenant's outputs are those of its inputs, in the order of each source partition. Their numbers follow the tenant's
/// state, so no staged change is lost or comes from another history.
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

/// The route of a tenant in one version of the routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TenantRoute {
    release: Digest,
    /// The offset of the last change to the route.
    changed_at: Option<Offset>,
}

/// Each output was made by the release that the tenant's route named in some version of the routes. That version
///
/// * is not older than the version of the output before,
/// * existed when the output was written, and
/// * is not older than a version that all hosts applied when the input was sent.
fn by_its_release(tenant: usize, evidence: &Evidence, violations: &mut Violations) {
    let Evidence { versions, releases, base, awaited, .. } = evidence;
    let id = TenantId::new(name(tenant));
    let routes: Vec<_> = versions
        .iter()
        .map(|version| {
            let resolved = version.table.resolve(&id);
            let release = resolved.route.map_or(releases[*base], |route| route.release);
            TenantRoute { release, changed_at: resolved.offset }
        })
        .collect();
    let version_of = |change: Offset| versions.partition_point(|version| version.offset < Some(change));
    let awaited: Vec<_> = awaited.iter().map(|awaited| (awaited.id, version_of(awaited.change))).collect();
    let next = |from: usize, release: Digest| (from..versions.len()).find(|at| routes[*at].release == release);
    let mut at = 0;
    for output in &evidence.outputs[tenant] {
        let mut wrong = |why: &str| {
            let text =
                format!("{}: input {} was handled by release {}: {why}", name(tenant), output.id, output.release);
            violations.add("wrong release", text);
        };
        let Some(release) = releases.get(output.release) else {
            wrong("this release does not exist");
            continue;
        };
        // The oldest version that explains this output leaves the most versions to the outputs after it.
        let Some(found) = next(at, *release) else {
            let older = next(0, *release).map(|at| versions[at].offset);
            wrong(&format!(
                "an earlier output had the routes after {:?}, this one those after {older:?}",
                versions[at].offset
            ));
            continue;
        };
        let floor = awaited.iter().filter(|(id, _)| *id <= output.id).map(|(_, floor)| *floor).max().unwrap_or(0);
        let Some(found) = next(found.max(floor), *release) else {
            wrong(&format!("all hosts applied the change at {:?} when it was sent", versions[floor].offset));
            continue;
        };
        let Version { offset, timestamp, .. } = versions[found];
        if let Some(early) =
            timestamp.and_then(|set| set.checked_since(output.timestamp)).filter(|early| !early.is_zero())
        {
            wrong(&format!("{early:?} before the routes after {offset:?} existed"));
            continue;
        }
        at = found;
    }
    let Some(last) = evidence.outputs[tenant].last().and_then(|output| releases.get(output.release)) else { return };
    let entry = evidence.last_runs.get(&tenant);
    let fits = entry.is_some_and(|entry| {
        let route = TenantRoute { release: *last, changed_at: entry.route.map(|route| route.offset) };
        entry.release == *last && entry.state_version == 1 && routes[at..].contains(&route)
    });
    if !fits {
        violations.add("wrong entry", format!("{} ran {last} last, but its entry is {entry:?}", name(tenant)));
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
