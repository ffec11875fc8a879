//! The cache of answers, bounded in bytes, each answer with its own time to live.

use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync;
use switchboard_core::record::TenantId;
use switchboard_core::worker::Query;

/// The cache's own bookkeeping for an entry, roughly, in addition to the entry's bytes.
const ENTRY_OVERHEAD_BYTES: usize = 200;

#[derive(Clone)]
struct Entry {
    answer: Option<Vec<u8>>,
    time_to_live: Duration,
}

/// Cached answers, "not found" included. Clones share the entries.
#[derive(Clone)]
pub(super) struct Cache {
    entries: sync::Cache<(TenantId, Query), Entry>,
}

/// Takes the time to live from the entry.
struct ByEntry;

impl Expiry<(TenantId, Query), Entry> for ByEntry {
    fn expire_after_create(&self, _: &(TenantId, Query), entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.time_to_live)
    }

    fn expire_after_update(
        &self,
        _: &(TenantId, Query),
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.time_to_live)
    }
}

impl Cache {
    /// A cache whose entries weigh at most `bytes`.
    pub(super) fn new(bytes: u64) -> Self {
        let weigh = |(tenant, query): &(TenantId, Query), entry: &Entry| {
            let key = tenant.as_str().len() + query.source.len() + query.key.len();
            u32::try_from(ENTRY_OVERHEAD_BYTES + key + entry.answer.as_ref().map_or(0, Vec::len)).unwrap_or(u32::MAX)
        };
        Self { entries: sync::Cache::builder().max_capacity(bytes).weigher(weigh).expire_after(ByEntry).build() }
    }

    /// `None`: not cached. `Some(None)`: cached as "not found".
    pub(super) fn get(&self, tenant: &TenantId, query: &Query) -> Option<Option<Vec<u8>>> {
        self.entries.get(&(tenant.clone(), query.clone())).map(|entry| entry.answer)
    }

    /// Caches an answer of a tenant for `time_to_live`.
    pub(super) fn insert(&self, tenant: &TenantId, query: &Query, answer: Option<Vec<u8>>, time_to_live: Duration) {
        self.entries.insert((tenant.clone(), query.clone()), Entry { answer, time_to_live });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(key: &str) -> Query {
        Query { source: "s".into(), key: key.into() }
    }

    #[test]
    fn an_answer_belongs_to_one_tenant_and_expires() {
        let cache = Cache::new(1 << 20);
        let (one, two) = (TenantId::new("one"), TenantId::new("two"));
        cache.insert(&one, &query("1"), Some(vec![1]), Duration::from_hours(1));
        cache.insert(&one, &query("2"), None, Duration::from_hours(1));
        cache.insert(&one, &query("3"), Some(vec![3]), Duration::ZERO);
        assert_eq!(cache.get(&one, &query("1")), Some(Some(vec![1])));
        assert_eq!(cache.get(&one, &query("2")), Some(None));
        assert_eq!(cache.get(&one, &query("3")), None, "it has expired");
        assert_eq!(cache.get(&two, &query("1")), None, "it is another tenant's");
        cache.insert(&one, &query("1"), None, Duration::from_hours(1));
        assert_eq!(cache.get(&one, &query("1")), Some(None));
    }

    #[test]
    fn the_cache_is_bounded_in_bytes() {
        let cache = Cache::new(10_000);
        for key in 0..100 {
            cache.insert(&TenantId::new("t"), &query(&key.to_string()), Some(vec![0; 1000]), Duration::from_hours(1));
        }
        cache.entries.run_pending_tasks();
        assert!(cache.entries.weighted_size() <= 10_000, "{}", cache.entries.weighted_size());
    }
}
