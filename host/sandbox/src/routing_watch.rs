use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use switchboard_core::routing::{Digest, Routing};

use crate::Artifact;

/// A routing, and the artifacts of those of its releases that are ready.
#[derive(Clone)]
pub struct RoutingSnapshot {
    pub routing: Arc<Routing>,
    pub artifacts: BTreeMap<Digest, Arc<Artifact>>,
}

impl RoutingSnapshot {
    /// One artifact for all tenants.
    pub fn fixed(artifact: Arc<Artifact>) -> Self {
        let routing = Arc::new(Routing::fixed(Arc::clone(artifact.release())));
        Self { artifacts: [(artifact.release().digest, artifact)].into(), routing }
    }
}

/// The newest publication, for all workers of a process.
#[derive(Clone)]
pub struct RoutingWatch(Arc<Shared>);

struct Shared {
    newest: Mutex<(u64, Arc<RoutingSnapshot>)>,
    /// The number of the publication that each worker goes by.
    applied: Mutex<Vec<Weak<AtomicU64>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RoutingWatch {
    pub fn new(first: RoutingSnapshot) -> Self {
        Self(Arc::new(Shared { newest: Mutex::new((1, Arc::new(first))), applied: Mutex::default() }))
    }

    /// Gives the publication's number: they count up.
    pub fn publish(&self, publication: RoutingSnapshot) -> u64 {
        let newest = &mut *lock(&self.0.newest);
        *newest = (newest.0 + 1, Arc::new(publication));
        newest.0
    }

    pub fn newest(&self) -> (u64, Arc<RoutingSnapshot>) {
        lock(&self.0.newest).clone()
    }

    /// A worker's view, which has taken nothing yet.
    pub fn follow(&self) -> RoutingSubscriber {
        let applied = Arc::new(AtomicU64::new(0));
        lock(&self.0.applied).push(Arc::downgrade(&applied));
        RoutingSubscriber { board: self.clone(), taken: 0, applied }
    }

    /// The number of the newest publication that all workers go by, or a later one.
    pub fn taken_by_all(&self) -> u64 {
        let mut followers = lock(&self.0.applied);
        followers.retain(|applied| applied.strong_count() > 0);
        let numbers = followers.iter().filter_map(Weak::upgrade).map(|applied| applied.load(Ordering::Acquire));
        numbers.min().unwrap_or(0)
    }
}

/// One worker's view of the board.
pub struct RoutingSubscriber {
    board: RoutingWatch,
    /// The number of what was given to it last.
    taken: u64,
    applied: Arc<AtomicU64>,
}

impl RoutingSubscriber {
    /// The newest publication, when it is another one than last time. That the worker goes by it is known when it asks again:
    /// all that it tells of its tenants is about this one by then, and no more about the one before.
    pub fn take(&mut self) -> Option<Arc<RoutingSnapshot>> {
        let (number, newest) = &*lock(&self.board.0.newest);
        self.applied.store(self.taken, Ordering::Release);
        if self.taken == *number {
            return None;
        }
        self.taken = *number;
        Some(Arc::clone(newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication() -> RoutingSnapshot {
        RoutingSnapshot { routing: Arc::default(), artifacts: BTreeMap::new() }
    }

    #[test]
    fn each_worker_takes_the_newest_once() {
        let board = RoutingWatch::new(publication());
        let (mut one, mut two) = (board.follow(), board.follow());
        assert_eq!(board.taken_by_all(), 0);
        assert!(one.take().is_some() && one.take().is_none());
        assert_eq!(board.taken_by_all(), 0, "the other one has none yet");
        assert!(two.take().is_some());
        assert_eq!(board.taken_by_all(), 0, "it has not come back yet");
        assert!(two.take().is_none());
        assert_eq!(board.taken_by_all(), 1);
        assert_eq!((board.publish(publication()), board.publish(publication())), (2, 3));
        let newest = two.take().unwrap();
        assert!(Arc::ptr_eq(&newest, &board.newest().1) && two.take().is_none());
        assert_eq!(board.taken_by_all(), 1, "the first one goes by the former");
        drop(one);
        assert_eq!(board.taken_by_all(), 3, "who has ended goes by nothing");
    }
}
