//! The fold of all control records: releases, routes, history and hosts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::records::{Change, Key, Malformed, ReleaseRecord, RouteValue, Scope};
use super::status::{HostStatus, LoadState};
use crate::record::{Offset, TenantId, Timestamp};
use crate::routing::{Digest, Route, RouteTable, Versioned};

/// Everything in the control topic up to some record. All times are the broker's.
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
    /// The offset after the newest record that is not a host's status.
    content_end: Offset,
}

/// A release with a record in the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// The record.
    pub record: ReleaseRecord,
    /// The offset of the record. The release with the higher offset was deployed later.
    pub offset: Offset,
    /// The time of the record.
    pub timestamp: Timestamp,
}

/// A route that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    /// The tenants that it applies to.
    pub scope: Scope,
    /// Its value.
    pub value: RouteValue,
    /// The offset of the record that set it.
    pub offset: Offset,
}

/// An entry of the history and the position of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The id of the change.
    pub id: String,
    /// The offset of the record.
    pub offset: Offset,
    /// The time of the record.
    pub timestamp: Timestamp,
    /// The change.
    #[serde(flatten)]
    pub change: Change,
}

/// The last status of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    /// The status.
    pub status: HostStatus,
    /// The time of the record.
    pub timestamp: Timestamp,
}

/// A text that does not name exactly one release.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No release has this name or digest.
    #[error(
        "no release is {0:?}: give NAME@VERSION, or the first digits of its digest, at least {FEWEST_DIGITS}; `switchboard releases` lists them"
    )]
    Unknown(String),
    /// Several releases match.
    #[error("{text:?} may be {}: give more digits of the digest", digests.join(" or "))]
    Ambiguous {
        /// The text.
        text: String,
        /// The short digests of the releases that match.
        digests: Vec<String>,
    },
}

/// The fewest digits of a digest that name a release.
const FEWEST_DIGITS: usize = 4;

impl RegistryState {
    /// Applies the next record. A record that cannot be read removes the value of its key: see the module's page.
    ///
    /// # Errors
    /// If the record cannot be read. The state stays usable, and later records are applied as usual.
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
                let host = |status| HostRecord { status, timestamp };
                put(&mut self.hosts, instance, read(key, value).map(|status| status.map(host)))
            }
            Key::Route(Scope::Default) => set(&mut self.routes.default, offset, read(key, value)),
            Key::Route(Scope::Percentage) => set(&mut self.routes.share, offset, read(key, value)),
            Key::Route(Scope::Tenant(tenant)) => {
                set(self.routes.pins.entry(tenant).or_default(), offset, read(key, value))
            }
        }
    }

    /// All routes. A route that was removed keeps the offset of its tombstone.
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// The current value of a route; `None`: there is none.
    pub fn route(&self, scope: &Scope) -> Option<RouteValue> {
        match scope {
            Scope::Default => self.routes.default.route.clone().map(RouteValue::Route),
            Scope::Percentage => self.routes.share.route.clone().map(RouteValue::Share),
            Scope::Tenant(tenant) => self.routes.pins.get(tenant)?.route.clone().map(RouteValue::Route),
        }
    }

    /// Every route that exists.
    pub fn routed(&self) -> impl Iterator<Item = RouteEntry> {
        let RouteTable { default, share, pins } = &self.routes;
        let entry = |scope, value, offset| RouteEntry { scope, value, offset };
        let default = default.set();
        let default = default.map(|(route, offset)| entry(Scope::Default, RouteValue::Route(route.clone()), offset));
        let share = share.set();
        let share = share.map(|(share, offset)| entry(Scope::Percentage, RouteValue::Share(share.clone()), offset));
        let pins = pins.iter().filter_map(move |(tenant, pin)| {
            let (route, offset) = pin.set()?;
            Some(entry(Scope::Tenant(tenant.clone()), RouteValue::Route(route.clone()), offset))
        });
        default.into_iter().chain(share).chain(pins)
    }

    /// The route that decides which release a tenant runs; `None`: there is none, so it runs the artifact of its
    /// host's config file.
    pub fn scope_of(&self, tenant: &TenantId) -> Option<Scope> {
        let applying = self.routes.resolve(tenant).route?;
        let is = |route: &Option<Route>| route.as_ref().is_some_and(|route| std::ptr::eq(route, applying));
        if is(&self.routes.default.route) {
            return Some(Scope::Default);
        }
        let pinned = self.routes.pins.get(tenant).is_some_and(|pin| is(&pin.route));
        Some(if pinned { Scope::Tenant(tenant.clone()) } else { Scope::Percentage })
    }

    /// When a route was last set or removed; `None`: never.
    pub fn routed_at(&self, scope: &Scope) -> Option<Timestamp> {
        self.routed_at.get(scope).copied()
    }

    /// All releases by digest.
    pub fn releases(&self) -> &BTreeMap<Digest, Deployed> {
        &self.releases
    }

    /// The record of a release.
    pub fn release(&self, release: &Digest) -> Option<&ReleaseRecord> {
        self.releases.get(release).map(|deployed| &deployed.record)
    }

    /// The offsets of an artifact's chunks in their order; `None`: a chunk or the release's record is missing.
    pub fn chunks(&self, release: &Digest) -> Option<Vec<Offset>> {
        let (record, chunks) = (self.release(release)?, self.chunks.get(release)?);
        (0..record.chunks).map(|number| chunks.get(&number).copied()).collect()
    }

    /// All chunks in the topic, also those of incomplete artifacts.
    pub(super) fn all_chunks(&self) -> &BTreeMap<Digest, BTreeMap<u32, Offset>> {
        &self.chunks
    }

    /// The history in the order of the offsets.
    pub fn history(&self) -> Vec<&Entry> {
        let mut entries: Vec<_> = self.history.values().collect();
        entries.sort_by_key(|entry| entry.offset);
        entries
    }

    /// One entry of the history.
    pub fn change(&self, id: &str) -> Option<&Entry> {
        self.history.get(id)
    }

    /// The last status of each host by process instance, also of dead hosts.
    pub fn hosts(&self) -> &BTreeMap<String, HostRecord> {
        &self.hosts
    }

    /// The hosts that are alive at this time.
    pub fn living(&self, now: Timestamp) -> impl Iterator<Item = &HostRecord> {
        self.hosts.values().filter(move |host| host.is_alive(now))
    }

    /// The topic aliases that are consumed for the sake of hosts other than `instance`: what their config files' releases
    /// consume, and what releases consume that are fallbacks there.
    ///
    /// Each source partition has one reader, on some host. So what one host's tenants need, all hosts read. The status
    /// of a dead host counts until it is removed: to read too much loses nothing.
    pub fn consumed_elsewhere(&self, instance: &str) -> BTreeSet<String> {
        let mut consumed = BTreeSet::new();
        let others = self.hosts.iter().filter(|(other, _)| *other != instance);
        for status in others.map(|(_, host)| &host.status) {
            // If every tenant has a route, the release of a config file runs nowhere, but as a fallback.
            if self.routes.default.route.is_none() {
                consumed.extend(status.on_file_consumes.iter().cloned());
            }
            if status.releases.iter().all(|loaded| loaded.state == LoadState::Ready) {
                continue;
            }
            for route in self.routes.routes() {
                if !matches!(status.state_of(&route.release), Some(LoadState::Failed { .. })) {
                    continue;
                }
                let fallback = match &route.previous {
                    Some(previous) => self.release(previous).map(|record| &record.manifest.consumes),
                    None => Some(&status.on_file_consumes),
                };
                consumed.extend(fallback.into_iter().flatten().cloned());
            }
        }
        consumed
    }

    /// The offset after the newest record that is not a host's status. While it stays the same, everything but the
    /// statuses does too.
    pub fn content_end(&self) -> Offset {
        self.content_end
    }

    /// The time of the newest record; `None`: there is no record.
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Finds a release by `NAME@VERSION` or by the first digits of its digest.
    ///
    /// # Errors
    /// If no release or more than one matches.
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

    /// Name, version and digest of a release, for people. Without a record: the digest alone.
    pub fn title(&self, release: &Digest) -> String {
        match self.release(release) {
            Some(record) => record.manifest.title(release).to_string(),
            None => release.short(),
        }
    }
}

impl HostRecord {
    /// Whether the host is alive: its status is younger than [`HostStatus::ALIVE`].
    pub fn is_alive(&self, now: Timestamp) -> bool {
        now.saturating_since(self.timestamp) < HostStatus::ALIVE
    }
}

/// A record's value; `Ok(None)`: a tombstone.
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

fn set<R>(versioned: &mut Versioned<R>, offset: Offset, read: Read<R>) -> Result<(), Malformed> {
    let (route, result) = split(read);
    *versioned = Versioned { route, offset: Some(offset) };
    result
}

fn split<T>(read: Read<T>) -> (Option<T>, Result<(), Malformed>) {
    match read {
        Ok(value) => (value, Ok(())),
        Err(malformed) => (None, Err(malformed)),
    }
}
