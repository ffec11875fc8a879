//! HTTP sources behind the worker's `Lookups`.
//!
//! A source is a URL template; a question is a GET with the tenant's headers as text; 200 is an answer, 404 says that
//! there is none; what another try may mend (time-outs, 5xx, 408, 429) is retried with back-off, the rest is a failure. Answers and «not found» are
//! remembered for a while, by source, tenant and key. This room never decides what becomes of a message.
#![deny(unsafe_code)]

mod cache;
mod source;

use std::sync::Arc;
use std::time::Duration;

use switchboard_core::record::{Tenant, TenantSchema};
use switchboard_core::worker::{LookupError, Lookups, Query};

use cache::Cache;
pub use source::{Source, SourceError, SourceOptions};

/// The lookup sources of a process; clones share their cache and connections.
#[derive(Clone)]
pub struct HttpLookups {
    sources: Arc<[Source]>,
    cache: Cache,
    /// Names of the tenant's headers, in the order of `Tenant::texts`.
    headers: Arc<[String]>,
}

impl HttpLookups {
    /// `cache_bytes` bounds what is remembered in all.
    pub fn new(sources: Vec<Source>, cache_bytes: u64, tenants: &TenantSchema) -> Self {
        Self {
            sources: sources.into(),
            cache: Cache::new(cache_bytes),
            headers: tenants.headers().iter().map(|header| header.name.clone()).collect(),
        }
    }
}

impl HttpLookups {
    fn source(&self, query: &Query) -> Option<&Source> {
        self.sources.iter().find(|source| source.name() == query.source)
    }
}

impl Lookups for HttpLookups {
    fn known(&mut self, tenant: &Tenant, query: &Query) -> Option<Option<Vec<u8>>> {
        match self.source(query) {
            Some(_) => self.cache.get(&tenant.id, query),
            None => Some(None),
        }
    }

    fn fetch(
        &mut self,
        tenant: &Tenant,
        query: &Query,
        attempt: u32,
        budget: Duration,
    ) -> Result<Option<Vec<u8>>, LookupError> {
        let Some(source) = self.source(query) else { return Ok(None) };
        let names = self.headers.iter().map(String::as_str);
        let headers: Vec<_> = names.zip(tenant.texts.iter().map(String::as_str)).collect();
        let answer = source.ask(&query.key, &headers, attempt, budget).map_err(LookupError::new)?;
        self.cache.insert(&tenant.id, query, answer.clone(), source.time_to_live(answer.is_some()));
        Ok(answer)
    }
}
