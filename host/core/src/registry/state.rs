use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::records::{Change, Key, Malformed, ReleaseRecord, RouteValue, Scope};
use super::status::HostStatus;
use crate::record::{Offset, TenantId, Timestamp};
use crate::routing::Digest;
use crate::routing::{Route, RouteTable, Versioned};

/// All that the control topic says, up to some record. Times are those of the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryState {
    releases: BTreeMap<Digest, Deployed>,
    chunks: BTreeMap<Digest, BTreeMap<u32, Offset>>,
    routes: RouteTable,
    history: BTreeMap<String, Entry>,
    hosts: BTreeMap<String, HostRecord>,
    newest: Option<Timestamp>,
    /// The time of each route's newest record.
    routed_at: BTreeMap<Scope, Timestamp>,
    /// The offset after the newest record that is no host's status.
    content_end: Offset,
}

/// A release of which there is a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    pub record: ReleaseRecord,
    /// Of the record; of two releases the one with the higher offset was deployed later.
    pub offset: Offset,
    pub timestamp: Timestamp,
}

/// An entry of the history, with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub id: String,
    pub offset: Offset,
    pub timestamp: Timestamp,
    #[serde(flatten)]
    pub change: Change,
}

/// What a host said last, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    pub status: HostStatus,
    pub timestamp: Timestamp,
}

/// A text that does not name one release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error(
        "no release is {0:?}: give NAME@VERSION, or the first digits of its digest, at least {FEWEST_DIGITS}; `switchboard releases` lists them"
    )]
    Unknown(String),
    #[error("{text:?} may be {}: give more digits of the digest", digests.join(" or "))]
    Ambiguous { text: String, digests: Vec<String> },
}

/// Fewer digits of a digest name no release.
const FEWEST_DIGITS: usize = 4;

impl RegistryState {
    /// Takes in the next record. One that cannot be read takes away what was under its key: see the module `control`.
    ///
    /// # Errors
    /// When it cannot be read, to be told; what follows is taken in all the same.
    pub fn apply(
        &mut self,
        offset: Offset,
        timestamp: Timestamp,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), Malformed> {
        self.newest = self.newest.max(Some(timestamp));
        let parsed = Key::parse(key)?;
        if !matches!(parsed, Key::Host(_)) {
            self.content_end = offset.next();
        }
        if let Key::Route(scope) = &parsed {
            self.routed_at.insert(scope.clone(), timestamp);
        }
        match parsed {
            Key::Chunk { release, number } => {
                let chunks = self.chunks.entry(release).or_default();
                match value {
                    Some(_) => drop(chunks.insert(number, offset)),
                    None => drop(chunks.remove(&number)),
                }
                self.chunks.retain(|_, chunks| !chunks.is_empty());
                Ok(())
            }
            Key::Release(release) => {
                let deployed = |record| Deployed { record, offset, timestamp };
                put(&mut self.releases, release, read(key, value).map(|record| record.map(deployed)))
            }
            Key::Change(id) => {
                let entry = |change| Entry { id: id.clone(), offset, timestamp, change };
                let entry = read(key, value).map(|change| change.map(entry));
                put(&mut self.history, id, entry)
            }
            Key::Host(instance) => {
                let seen = |status| HostRecord { status, timestamp };
                put(&mut self.hosts, instance, read(key, value).map(|status| status.map(seen)))
            }
            Key::Route(Scope::Default) => set(&mut self.routes.default, offset, read(key, value)),
            Key::Route(Scope::Percentage) => set(&mut self.routes.share, offset, read(key, value)),
            Key::Route(Scope::Tenant(tenant)) => {
                set(self.routes.pins.entry(tenant).or_default(), offset, read(key, value))
            }
        }
    }

    /// Which release runs where. Slots that were cleared have the offset at which that was done.
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// A route as it is; `None`: there is none.
    pub fn route(&self, scope: &Scope) -> Option<RouteValue> {
        match scope {
            Scope::Default => self.routes.default.route.clone().map(RouteValue::Route),
            Scope::Percentage => self.routes.share.route.clone().map(RouteValue::Share),
            Scope::Tenant(tenant) => self.routes.pins.get(tenant)?.route.clone().map(RouteValue::Route),
        }
    }

    /// Every route that there is, and the offset of the record that set it.
    pub fn routed(&self) -> impl Iterator<Item = (Scope, RouteValue, Offset)> {
        let RouteTable { default, share, pins } = &self.routes;
        let default = default.set().map(|(route, offset)| (Scope::Default, RouteValue::Route(route.clone()), offset));
        let share = share.set().map(|(share, offset)| (Scope::Percentage, RouteValue::Share(share.clone()), offset));
        let pins = pins.iter().filter_map(|(tenant, slot)| {
            let (route, offset) = slot.set()?;
            Some((Scope::Tenant(tenant.clone()), RouteValue::Route(route.clone()), offset))
        });
        default.into_iter().chain(share).chain(pins)
    }

    /// The route by which a tenant runs; `None`: what its host has on file.
    pub fn scope_of(&self, tenant: &TenantId) -> Option<Scope> {
        let applying = self.routes.resolve(tenant).route?;
        let is = |route: &Option<Route>| route.as_ref().is_some_and(|route| std::ptr::eq(route, applying));
        if is(&self.routes.default.route) {
            return Some(Scope::Default);
        }
        let pinned = self.routes.pins.get(tenant).is_some_and(|pin| is(&pin.route));
        Some(if pinned { Scope::Tenant(tenant.clone()) } else { Scope::Percentage })
    }

    /// When a route was set or cleared last; `None`: never.
    pub fn routed_at(&self, scope: &Scope) -> Option<Timestamp> {
        self.routed_at.get(scope).copied()
    }

    /// Releases by their digest.
    pub fn releases(&self) -> &BTreeMap<Digest, Deployed> {
        &self.releases
    }

    /// A release of which there is a record.
    pub fn release(&self, release: &Digest) -> Option<&ReleaseRecord> {
        self.releases.get(release).map(|deployed| &deployed.record)
    }

    /// Where the chunks of an artifact are, in their order; `None` when one is missing, or there is no record of the release.
    pub fn chunks(&self, release: &Digest) -> Option<Vec<Offset>> {
        let (record, chunks) = (self.release(release)?, self.chunks.get(release)?);
        (0..record.chunks).map(|number| chunks.get(&number).copied()).collect()
    }

    /// All chunks that there are, whether they make a whole or not.
    pub(super) fn all_chunks(&self) -> &BTreeMap<Digest, BTreeMap<u32, Offset>> {
        &self.chunks
    }

    /// The history, in order.
    pub fn history(&self) -> Vec<&Entry> {
        let mut entries: Vec<_> = self.history.values().collect();
        entries.sort_by_key(|entry| entry.offset);
        entries
    }

    /// One entry of the history.
    pub fn change(&self, id: &str) -> Option<&Entry> {
        self.history.get(id)
    }

    /// What each host said last, by its instance: dead ones too.
    pub fn hosts(&self) -> &BTreeMap<String, HostRecord> {
        &self.hosts
    }

    /// Hosts that live at this time.
    pub fn living(&self, now: Timestamp) -> impl Iterator<Item = &HostRecord> {
        self.hosts.values().filter(move |seen| seen.is_alive(now))
    }

    /// The offset after the newest record that is no host's status: as long as it is the same, all else is.
    pub fn content_end(&self) -> Offset {
        self.content_end
    }

    /// The time of the newest record; `None`: there was none.
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// The release that a person means: `NAME@VERSION`, or the first digits of its digest.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn find(&self, text: &str) -> Result<Digest, FindError> {
        let named = text.rsplit_once('@');
        let is_digits = text.len() >= FEWEST_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let digits = text.to_ascii_lowercase();
        let fits = |(digest, deployed): (&Digest, &Deployed)| {
            let manifest = &deployed.record.manifest;
            let by_name = named.is_some_and(|(name, version)| manifest.name == name && manifest.version == version);
            (by_name || is_digits && digest.to_string().starts_with(&digits)).then_some(*digest)
        };
        let found: Vec<_> = self.releases.iter().filter_map(fits).collect();
        match found[..] {
            [] => Err(FindError::Unknown(text.to_owned())),
            [only] => Ok(only),
            _ => {
                let digests = found.iter().map(Digest::short).collect();
                Err(FindError::Ambiguous { text: text.to_owned(), digests })
            }
        }
    }

    /// Name, version and digest of a release, for people.
    pub fn title(&self, release: &Digest) -> String {
        match self.release(release) {
            Some(record) => format!("{} {} ({})", record.manifest.name, record.manifest.version, release.short()),
            None => release.short(),
        }
    }
}

impl HostRecord {
    pub fn is_alive(&self, now: Timestamp) -> bool {
        now.saturating_since(self.timestamp) < HostStatus::ALIVE
    }
}

/// `Ok(None)`: a tombstone.
type Read<T> = Result<Option<T>, Malformed>;

fn read<T: DeserializeOwned>(key: &[u8], value: Option<&[u8]>) -> Read<T> {
    value
        .map(serde_json::from_slice)
        .transpose()
        .map_err(|error| Malformed { key: String::from_utf8_lossy(key).into_owned(), problem: error.to_string() })
}

fn put<K: Ord, T>(map: &mut BTreeMap<K, T>, key: K, read: Read<T>) -> Result<(), Malformed> {
    let (value, result) = split(read);
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
    result
}

fn set<R>(slot: &mut Versioned<R>, offset: Offset, read: Read<R>) -> Result<(), Malformed> {
    let (route, result) = split(read);
    *slot = Versioned { route, offset: Some(offset) };
    result
}

fn split<T>(read: Read<T>) -> (Option<T>, Result<(), Malformed>) {
    match read {
        Ok(value) => (value, Ok(())),
        Err(malformed) => (None, Err(malformed)),
    }
}
