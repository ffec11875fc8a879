//! The lookup source of the simulation.

use std::collections::BTreeMap;
use std::time::Duration;

use switchboard_core::record::Tenant;
use switchboard_core::worker::{LookupError, Lookups, Query};
use switchboard_sdk::testkit;

/// An answer that no plugin can use.
pub(super) const BROKEN: &[u8] = b"{";

/// The keys that may have an entry.
const KNOWN: std::ops::Range<u32> = 0..20;

fn answer(key: u32) -> Option<Vec<u8>> {
    let known = KNOWN.contains(&key) && key % 4 != 3;
    known.then(|| format!(r#"{{"data":{{"attributes":{{"name":"n{key}","worldId":{}}}}}}}"#, key % 3).into_bytes())
}

/// All entries of the lookup source.
pub(crate) fn directory() -> testkit::Answers {
    let known = KNOWN.filter_map(|key| Some((("characters".to_owned(), key.to_string()), answer(key)?)));
    testkit::Answers(known.collect::<BTreeMap<_, _>>())
}

/// The lookup source as a worker sees it: it remembers some answers, and some answers are broken.
pub(crate) struct Directory {
    pub(crate) random: fastrand::Rng,
}

impl Lookups for Directory {
    fn known(&mut self, _: &Tenant, query: &Query) -> Option<Option<Vec<u8>>> {
        self.random.bool().then(|| query.key.parse().ok().and_then(answer))
    }

    fn fetch(&mut self, _: &Tenant, query: &Query, attempt: u32, _: Duration) -> Result<Option<Vec<u8>>, LookupError> {
        let broken = attempt == 0 && self.random.u8(0..8) == 0;
        Ok(query.key.parse().ok().and_then(answer).map(|answer| if broken { BROKEN.to_vec() } else { answer }))
    }
}
