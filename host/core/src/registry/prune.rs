use std::collections::BTreeSet;
use std::time::Duration;

use super::decision::{ChangeRequest, Decision};
use super::records::{ChangeKind, ControlRecord, Key};
use super::state::RegistryState;
use crate::record::Timestamp;
use crate::routing::Digest;

/// Entries of the history that are kept.
const HISTORY: usize = 1000;
/// A host that was not heard of for so long is forgotten; until then what it said that it runs is kept.
const FORGOTTEN: Duration = Duration::from_hours(24);

/// Removes releases: all but the newest `keep`, those that a route names or would go back to, and those that a host
/// has. With them go what old histories and dead hosts have left. The decision has no writes when there is nothing to do.
pub fn prune(control: &RegistryState, keep: usize, now: Timestamp, stamp: ChangeRequest) -> Decision {
    let mut newest: Vec<_> = control.releases().iter().collect();
    newest.sort_by_key(|(_, deployed)| std::cmp::Reverse(deployed.offset));
    let routes = control.routes().routes();
    let mut kept: BTreeSet<Digest> = routes.flat_map(|route| [Some(route.release), route.previous]).flatten().collect();
    kept.extend(newest.iter().take(keep).map(|(release, _)| **release));
    let (forgotten, known): (Vec<_>, Vec<_>) =
        control.hosts().iter().partition(|(_, seen)| now.saturating_since(seen.timestamp) >= FORGOTTEN);
    let used = |release: &Digest| kept.contains(release) || known.iter().any(|(_, seen)| seen.status.uses(release));

    let removed: Vec<Digest> = newest.iter().map(|(release, _)| **release).filter(|release| !used(release)).collect();
    let mut writes: Vec<_> = removed.iter().map(|release| ControlRecord::tombstone(Key::Release(*release))).collect();
    for (release, chunks) in control.all_chunks() {
        // Chunks without a release are of no use to anybody.
        if !used(release) || control.release(release).is_none() {
            let key = |number: &u32| Key::Chunk { release: *release, number: *number };
            writes.extend(chunks.keys().map(|number| ControlRecord::tombstone(key(number))));
        }
    }
    writes.extend(forgotten.iter().map(|(instance, _)| ControlRecord::tombstone(Key::Host((*instance).clone()))));
    let history = control.history();
    let old = history.len().saturating_sub(HISTORY);
    writes.extend(history[..old].iter().map(|entry| ControlRecord::tombstone(Key::Change(entry.id.clone()))));

    let nothing = writes.is_empty();
    let mut decision = Decision::new(ChangeKind::Prune, stamp, removed, Vec::new(), writes);
    if nothing {
        decision.writes.clear();
    }
    decision
}
