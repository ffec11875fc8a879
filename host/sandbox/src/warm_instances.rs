//! What the pool of a worker and its runners share: the slots of the tenants whose runner is not lent, and the count of all
//! wasm instances.
//!
//! The pool locks the slots on the worker's thread, to lend a slot and to take it back. A runner locks them only to drop idle
//! instances: when the instances together exceed a limit, or the machine has no memory left.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;
use switchboard_core::record::TenantId;
use switchboard_core::routing::Digest;

use crate::artifact::Artifact;
use crate::guest_log::LogBudget;
use crate::limits::Limits;
use crate::routing_watch::lock;
use crate::trap::OutOfMemory;
use crate::wasm_instance::WasmInstance;

/// What a worker keeps of one tenant.
pub(crate) struct TenantSlot {
    pub(crate) instance: Option<WasmInstance>,
    pub(crate) budget: LogBudget,
}

impl TenantSlot {
    /// Whether the instance's release is none of these.
    pub(crate) fn is_stale(&self, artifacts: &BTreeMap<Digest, Arc<Artifact>>) -> bool {
        self.instance.as_ref().is_some_and(|instance| !artifacts.contains_key(&instance.release))
    }
}

/// The wasm instances of one worker.
pub(crate) struct WarmInstances {
    limits: Limits,
    /// The slots of tenants whose runner is not lent, in the order of their last use.
    idle: Mutex<LruCache<TenantId, TenantSlot>>,
    totals: Arc<Totals>,
}

/// Counts all wasm instances of a worker, those of lent runners included.
#[derive(Default)]
struct Totals {
    instances: AtomicUsize,
    /// Sum of `Counted::grown_bytes`.
    grown_bytes: AtomicU64,
}

/// Counts one instance, until it is dropped. So the totals are right however an instance ends, on any thread.
pub(crate) struct Counted {
    totals: Arc<Totals>,
    grown_bytes: u64,
}

impl WarmInstances {
    pub(crate) fn new(limits: Limits) -> Self {
        let capacity = NonZeroUsize::new(limits.warm_instances).unwrap_or(NonZeroUsize::MIN);
        Self { limits, idle: Mutex::new(LruCache::new(capacity)), totals: Arc::default() }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Number of instances.
    pub(crate) fn count(&self) -> usize {
        self.totals.instances.load(Ordering::Relaxed)
    }

    /// Counts one more instance.
    pub(crate) fn count_one(&self) -> Counted {
        self.totals.instances.fetch_add(1, Ordering::Relaxed);
        Counted { totals: Arc::clone(&self.totals), grown_bytes: 0 }
    }

    /// Takes a tenant's slot, or makes one.
    pub(crate) fn take(&self, tenant: &TenantId) -> TenantSlot {
        let slot = self.idle().pop(tenant);
        slot.unwrap_or_else(|| TenantSlot { instance: None, budget: LogBudget::new(self.limits.log_lines_per_second) })
    }

    /// Puts a tenant's slot back, as the most recently used one. The least recently used one makes room.
    pub(crate) fn put(&self, tenant: TenantId, slot: TenantSlot) {
        self.idle().push(tenant, slot);
    }

    /// Drops the idle instance of a tenant. Its log budget stays.
    pub(crate) fn discard(&self, tenant: &TenantId) {
        if let Some(slot) = self.idle().peek_mut(tenant) {
            slot.instance = None;
        }
    }

    /// The tenants with an idle instance of a release that is none of these.
    pub(crate) fn stale(&self, artifacts: &BTreeMap<Digest, Arc<Artifact>>) -> Vec<TenantId> {
        let idle = self.idle();
        idle.iter().filter(|(_, slot)| slot.is_stale(artifacts)).map(|(tenant, _)| tenant.clone()).collect()
    }

    /// Drops the idle instance of a tenant, if its release is none of these.
    pub(crate) fn discard_stale(&self, tenant: &TenantId, artifacts: &BTreeMap<Digest, Arc<Artifact>>) {
        if let Some(slot) = self.idle().peek_mut(tenant).filter(|slot| slot.is_stale(artifacts)) {
            slot.instance = None;
        }
    }

    /// Drops the least recently used idle instances until all instances together are within the limits. `last` is dropped
    /// when no idle instance is left.
    pub(crate) fn shrink_to_limits(&self, last: &mut Option<WasmInstance>) {
        if !self.exceeds_limits() {
            return;
        }
        // The lock is held until the instance is dropped. So runners on several threads drop no more than needed.
        let mut idle = self.idle();
        while self.exceeds_limits() {
            if idle.pop_lru().is_none() {
                *last = None;
                break;
            }
        }
    }

    fn exceeds_limits(&self) -> bool {
        let Totals { instances, grown_bytes } = &*self.totals;
        instances.load(Ordering::Relaxed) > self.limits.warm_instances.max(1)
            || grown_bytes.load(Ordering::Relaxed) > self.limits.warm_memory_bytes
    }

    /// Drops half of the idle instances, as the machine has no memory left.
    pub(crate) fn make_room(&self, OutOfMemory(letter): &OutOfMemory) {
        // The lock is held until the memory is free. So another runner without memory does not try again too early.
        let mut idle = self.idle();
        let kept = idle.len() / 2;
        tracing::warn!(kept, reason = letter.reason, "dropping warm instances: the machine has no memory left");
        while idle.len() > kept {
            idle.pop_lru();
        }
    }

    fn idle(&self) -> MutexGuard<'_, LruCache<TenantId, TenantSlot>> {
        lock(&self.idle)
    }
}

impl Counted {
    /// By how many bytes the instance's memories have grown since it was new.
    pub(crate) fn set_grown(&mut self, bytes: u64) {
        let total = &self.totals.grown_bytes;
        if bytes > self.grown_bytes {
            total.fetch_add(bytes - self.grown_bytes, Ordering::Relaxed);
        } else if bytes < self.grown_bytes {
            total.fetch_sub(self.grown_bytes - bytes, Ordering::Relaxed);
        }
        self.grown_bytes = bytes;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.totals.instances.fetch_sub(1, Ordering::Relaxed);
        self.totals.grown_bytes.fetch_sub(self.grown_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use switchboard_core::record::{Class, DeadLetter};

    use super::*;

    fn totals(warm: &WarmInstances) -> (usize, u64) {
        (warm.count(), warm.totals.grown_bytes.load(Ordering::Relaxed))
    }

    #[test]
    fn the_totals_are_those_of_the_living_instances() {
        let warm = WarmInstances::new(Limits::default());
        let (mut one, mut two) = (warm.count_one(), warm.count_one());
        one.set_grown(10);
        two.set_grown(5);
        one.set_grown(30);
        assert_eq!(totals(&warm), (2, 35));
        one.set_grown(20);
        assert_eq!(totals(&warm), (2, 25));
        // On a thread of its own, and after the pool.
        let totals_left = Arc::clone(&warm.totals);
        drop(two);
        assert_eq!(totals(&warm), (1, 20));
        drop(warm);
        std::thread::spawn(move || drop(one)).join().unwrap();
        assert_eq!(
            (totals_left.instances.load(Ordering::Relaxed), totals_left.grown_bytes.load(Ordering::Relaxed)),
            (0, 0)
        );
    }

    #[test]
    fn room_is_made_by_the_half_that_was_not_used_for_the_longest_time() {
        let warm = WarmInstances::new(Limits::default());
        let tenant = |number: u8| TenantId::new(number.to_string());
        for number in 0..5 {
            warm.put(tenant(number), warm.take(&tenant(number)));
        }
        warm.put(tenant(0), warm.take(&tenant(0)));
        let out_of_memory = OutOfMemory(DeadLetter::new(Class::Limit, "no more memory"));
        warm.make_room(&out_of_memory);
        let kept: Vec<_> = warm.idle().iter().map(|(tenant, _)| tenant.as_str().to_owned()).collect();
        assert_eq!(kept, ["0", "4"]);
        warm.make_room(&out_of_memory);
        warm.make_room(&out_of_memory);
        assert_eq!(warm.idle().len(), 0);
    }
}
