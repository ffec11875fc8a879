use std::time::{Duration, Instant};

use moka::Expiry;
use moka::sync;
use switchboard_core::record::TenantId;
use switchboard_core::worker::Query;

/// What an entry weighs beside its bytes: the cache's own bookkeeping, roughly.
const OVERHEAD: usize = 200;

#[derive(Clone)]
struct Entry {
    answer: Option<Vec<u8>>,
    time_to_live: Duration,
}

/// A bounded memory of answers, «not found» among them, each with its time to live. Clones share it.
#[derive(Clone)]
pub(super) struct Cache {
    entries: sync::Cache<(TenantId, Query), Entry>,
}

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
    pub(super) fn new(bytes: u64) -> Self {
        let weigh = |(tenant, query): &(TenantId, Query), entry: &Entry| {
            let key = tenant.as_str().len() + query.source.len() + query.key.len();
            u32::try_from(OVERHEAD + key + entry.answer.as_ref().map_or(0, Vec::len)).unwrap_or(u32::MAX)
        };
        Self { entries: sync::Cache::builder().max_capacity(bytes).weigher(weigh).expire_after(ByEntry).build() }
    }

    /// `None`: not remembered.
    pub(super) fn get(&self, tenant: &TenantId, query: &Query) -> Option<Option<Vec<u8>>> {
        self.entries.get(&(tenant.clone(), query.clone())).map(|entry| entry.answer)
    }

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
    fn an_answer_is_a_tenants_own_and_ends_with_its_time() {
        let cache = Cache::new(1 << 20);
        let (one, two) = (TenantId::new("one"), TenantId::new("two"));
        cache.insert(&one, &query("1"), Some(vec![1]), Duration::from_hours(1));
        cache.insert(&one, &query("2"), None, Duration::from_hours(1));
        cache.insert(&one, &query("3"), Some(vec![3]), Duration::ZERO);
        assert_eq!(cache.get(&one, &query("1")), Some(Some(vec![1])));
        assert_eq!(cache.get(&one, &query("2")), Some(None));
        assert_eq!(cache.get(&one, &query("3")), None, "its time is over");
        assert_eq!(cache.get(&two, &query("1")), None, "another tenant's");
        cache.insert(&one, &query("1"), None, Duration::from_hours(1));
        assert_eq!(cache.get(&one, &query("1")), Some(None));
    }

    #[test]
    fn what_is_remembered_is_bounded_in_bytes() {
        let cache = Cache::new(10_000);
        for key in 0..100 {
            cache.insert(&TenantId::new("t"), &query(&key.to_string()), Some(vec![0; 1000]), Duration::from_hours(1));
        }
        cache.entries.run_pending_tasks();
        assert!(cache.entries.weighted_size() <= 10_000, "{}", cache.entries.weighted_size());
    }
}
