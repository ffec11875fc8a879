//! Lookup sources over HTTP, behind the worker's `Lookups`.
//!
//! A lookup source is a URL template. A query is a GET request with the tenant's headers as text. Answers and "not found" are
//! cached for a while, by source, tenant and key. This crate never decides what happens to a message.
//!
//! | type | what it is |
//! |---|---|
//! | [`HttpLookups`] | all lookup sources of a process, with their cache |
//! | [`Source`] | one HTTP source |
//! | [`SourceOptions`] | its configuration |
//! | [`SourceError`] | why a configuration is refused at start |
//!
//! Any number of threads may ask at a time. Each call makes its own requests and waits for nothing else: neither a slow source nor
//! another tenant's call delays it.
//!
//! # Answers and errors
//!
//! | response | result |
//! |---|---|
//! | 200 | the body is the answer, up to 1 MiB |
//! | 404 | "not found", which is an answer too |
//! | a time-out, a lost connection, 5xx, 408, 429 | the request is repeated with back-off while retries and time are left |
//! | any other status, an invalid URL, a response that is not HTTP | a failure at once |
//!
//! A failure reaches the worker as a `LookupError` whose source has the URL and the cause. The worker decides between another
//! attempt and a dead letter. A source that is not configured answers "not found".
#![deny(unsafe_code)]

mod cache;
mod source;

use std::sync::Arc;
use std::time::Duration;

use switchboard_core::record::{Tenant, TenantSchema};
use switchboard_core::worker::{LookupError, Lookups, Query};

use cache::Cache;
pub use source::{Source, SourceError, SourceOptions};

/// The lookup sources of a process. Clones share their cache and connections.
#[derive(Clone)]
pub struct HttpLookups {
    sources: Arc<[Source]>,
    cache: Cache,
    /// Names of the tenant's headers, in the order of `Tenant::texts`.
    headers: Arc<[String]>,
}

/// Executor threads and fetch threads share it.
const _: () = {
    const fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_shared::<HttpLookups>();
};

impl HttpLookups {
    /// Lookup sources whose cached answers take at most `cache_bytes`, all together.
    pub fn new(sources: Vec<Source>, cache_bytes: u64, tenants: &TenantSchema) -> Self {
        Self {
            sources: sources.into(),
            cache: Cache::new(cache_bytes),
            headers: tenants.headers().iter().map(|header| header.name.clone()).collect(),
        }
    }

    fn source(&self, query: &Query) -> Option<&Source> {
        self.sources.iter().find(|source| source.name() == query.source)
    }
}

impl Lookups for HttpLookups {
    fn known(&self, tenant: &Tenant, query: &Query) -> Option<Option<Vec<u8>>> {
        match self.source(query) {
            Some(_) => self.cache.get(&tenant.id, query),
            None => Some(None),
        }
    }

    fn fetch(
        &self,
        tenant: &Tenant,
        query: &Query,
        attempt: u32,
        budget: Duration,
    ) -> Result<Option<Vec<u8>>, LookupError> {
        let Some(source) = self.source(query) else { return Ok(None) };
        let names = self.headers.iter().map(String::as_str);
        let headers: Vec<_> = names.zip(tenant.texts.iter().map(String::as_str)).collect();
        let answer = source.fetch(&query.key, &headers, attempt, budget).map_err(LookupError::new)?;
        self.cache.insert(&tenant.id, query, answer.clone(), source.time_to_live(answer.is_some()));
        Ok(answer)
    }
}
