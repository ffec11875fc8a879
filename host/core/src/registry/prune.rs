//! The command `prune`: removes releases that nobody uses.

use std::collections::BTreeSet;
use std::time::Duration;

use super::decision::{ChangeRequest, Decision};
use super::records::{ChangeKind, ControlRecord, Key};
use super::state::RegistryState;
use crate::record::Timestamp;
use crate::routing::Digest;

/// How many entries of the history are kept.
const KEPT_CHANGES: usize = 1000;
/// The status of a host that has written none for this long is removed. Until then the releases that it reported are
/// kept.
const HOST_RETENTION: Duration = Duration::from_hours(24);

/// Removes all releases except the newest `keep`, those that a route names or would go back to, and those that a host
/// reports. It also removes the oldest entries of the history and the statuses of dead hosts. The decision has no
/// writes if there is nothing to remove.
pub fn prune(registry: &RegistryState, keep: usize, now: Timestamp, request: ChangeRequest) -> Decision {
    let mut newest: Vec<_> = registry.releases().iter().collect();
    newest.sort_by_key(|(_, deployed)| std::cmp::Reverse(deployed.offset));
    let routes = registry.routes().routes();
    let mut kept: BTreeSet<Digest> = routes.flat_map(|route| [Some(route.release), route.previous]).flatten().collect();
    kept.extend(newest.iter().take(keep).map(|(release, _)| **release));
    let (expired, known): (Vec<_>, Vec<_>) =
        registry.hosts().iter().partition(|(_, host)| now.saturating_since(host.timestamp) >= HOST_RETENTION);
    let used = |release: &Digest| kept.contains(release) || known.iter().any(|(_, host)| host.status.uses(release));

    let removed: Vec<Digest> = newest.iter().map(|(release, _)| **release).filter(|release| !used(release)).collect();
    let mut writes: Vec<_> = removed.iter().map(|release| ControlRecord::tombstone(Key::Release(*release))).collect();
    for (release, chunks) in registry.all_chunks() {
        // Chunks without a release record are of no use.
        if !used(release) || registry.release(release).is_none() {
            let key = |number: &u32| Key::Chunk { release: *release, number: *number };
            writes.extend(chunks.keys().map(|number| ControlRecord::tombstone(key(number))));
        }
    }
    writes.extend(expired.iter().map(|(instance, _)| ControlRecord::tombstone(Key::Host((*instance).clone()))));
    let history = registry.history();
    let old = history.len().saturating_sub(KEPT_CHANGES);
    writes.extend(history[..old].iter().map(|entry| ControlRecord::tombstone(Key::Change(entry.id.clone()))));

    let nothing = writes.is_empty();
    let mut decision = Decision::new(ChangeKind::Prune, request, removed, Vec::new(), writes);
    if nothing {
        decision.writes.clear();
    }
    decision
}
