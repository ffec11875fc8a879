//! Hands the newest routing to all workers of a process.
//!
//! The release controller publishes a `RoutingSnapshot`; each worker has a `RoutingSubscriber` and takes the newest one
//! between transactions. `RoutingWatch::applied_by_all` says which snapshot every worker has applied. Nobody waits here:
//! a worker that takes nothing keeps its old snapshot.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use switchboard_core::routing::{Digest, Routing};

use crate::artifact::Artifact;

/// A routing, with the artifacts of those of its releases that are ready.
#[derive(Clone)]
pub struct RoutingSnapshot {
    /// Which release runs which tenant.
    pub routing: Arc<Routing>,
    /// The artifact of each ready release, by its digest.
    pub artifacts: BTreeMap<Digest, Arc<Artifact>>,
}

impl RoutingSnapshot {
    /// A routing that never changes: one artifact for all tenants.
    pub fn fixed(artifact: Arc<Artifact>) -> Self {
        let routing = Arc::new(Routing::fixed(Arc::clone(artifact.release())));
        Self { artifacts: [(artifact.digest(), artifact)].into(), routing }
    }
}

/// Holds the newest snapshot, for all workers of a process. A clone is another handle to the same watch.
#[derive(Clone)]
pub struct RoutingWatch(Arc<Shared>);

struct Shared {
    newest: Mutex<Numbered>,
    /// For each worker, the number of the snapshot that it has applied.
    applied: Mutex<Vec<Weak<AtomicU64>>>,
}

struct Numbered {
    number: u64,
    snapshot: Arc<RoutingSnapshot>,
}

/// A poisoned lock is taken too: each critical section leaves the value consistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RoutingWatch {
    /// A watch whose first snapshot has the number 1.
    pub fn new(first: RoutingSnapshot) -> Self {
        let newest = Numbered { number: 1, snapshot: Arc::new(first) };
        Self(Arc::new(Shared { newest: Mutex::new(newest), applied: Mutex::default() }))
    }

    /// Makes this the newest snapshot. Returns its number; numbers count up.
    pub fn publish(&self, snapshot: RoutingSnapshot) -> u64 {
        let mut newest = lock(&self.0.newest);
        newest.number += 1;
        newest.snapshot = Arc::new(snapshot);
        newest.number
    }

    /// The newest snapshot.
    pub fn newest(&self) -> Arc<RoutingSnapshot> {
        Arc::clone(&lock(&self.0.newest).snapshot)
    }

    /// A subscriber for one worker. It has applied nothing yet.
    pub fn subscribe(&self) -> RoutingSubscriber {
        let applied = Arc::new(AtomicU64::new(0));
        lock(&self.0.applied).push(Arc::downgrade(&applied));
        RoutingSubscriber { watch: self.clone(), taken: 0, applied }
    }

    /// The number of the oldest snapshot that some worker has applied last: every worker has applied this one or a newer
    /// one. Workers that ended do not count. Without any worker it is the newest one: a worker that starts begins with it.
    pub fn applied_by_all(&self) -> u64 {
        let newest = lock(&self.0.newest).number;
        let mut applied = lock(&self.0.applied);
        applied.retain(|number| number.strong_count() > 0);
        let numbers = applied.iter().filter_map(Weak::upgrade).map(|number| number.load(Ordering::Acquire));
        numbers.min().unwrap_or(newest)
    }
}

/// One worker's end of a `RoutingWatch`.
pub struct RoutingSubscriber {
    watch: RoutingWatch,
    /// The number of the snapshot taken last.
    taken: u64,
    applied: Arc<AtomicU64>,
}

impl RoutingSubscriber {
    /// The newest snapshot, if it is not the one taken last.
    ///
    /// Each call also confirms that the worker has applied the snapshot taken before: from then on, nothing that the
    /// worker reports about its tenants refers to an older one.
    pub fn take_newest(&mut self) -> Option<Arc<RoutingSnapshot>> {
        let newest = lock(&self.watch.0.newest);
        self.applied.store(self.taken, Ordering::Release);
        if self.taken == newest.number {
            return None;
        }
        self.taken = newest.number;
        Some(Arc::clone(&newest.snapshot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> RoutingSnapshot {
        RoutingSnapshot { routing: Arc::default(), artifacts: BTreeMap::new() }
    }

    #[test]
    fn each_worker_takes_the_newest_once() {
        let watch = RoutingWatch::new(snapshot());
        assert_eq!(watch.applied_by_all(), 1, "no worker runs by an older one");
        let mut one = watch.subscribe();
        let mut two = watch.subscribe();
        assert_eq!(watch.applied_by_all(), 0);
        assert!(one.take_newest().is_some() && one.take_newest().is_none());
        assert_eq!(watch.applied_by_all(), 0, "the other one has taken none");
        assert!(two.take_newest().is_some());
        assert_eq!(watch.applied_by_all(), 0, "it has not confirmed yet");
        assert!(two.take_newest().is_none());
        assert_eq!(watch.applied_by_all(), 1);
        assert_eq!((watch.publish(snapshot()), watch.publish(snapshot())), (2, 3));
        let newest = two.take_newest().unwrap();
        assert!(Arc::ptr_eq(&newest, &watch.newest()) && two.take_newest().is_none());
        assert_eq!(watch.applied_by_all(), 1, "the first one still runs the old one");
        drop(one);
        assert_eq!(watch.applied_by_all(), 3, "a worker that ended does not count");
    }
}
