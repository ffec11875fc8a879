//! Keys and values of the control topic.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::record::TenantId;
use crate::routing::{Digest, Manifest, Route, Share};

/// The size of an artifact's chunks in bytes; the last chunk may be shorter. It is well below the default
/// `max.message.bytes` of a topic (1 MiB), so that no operator has to raise a limit.
pub const CHUNK_BYTES: usize = 512 << 10;

/// The key of a control record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `artifact/<digest>/<number>`: bytes of an artifact.
    Chunk {
        /// The release of the artifact.
        release: Digest,
        /// The position of the chunk, from 0.
        number: u32,
    },
    /// `release/<digest>`: a [`ReleaseRecord`].
    Release(Digest),
    /// `route/<scope>`: a [`RouteValue`]; a tombstone clears it.
    Route(Scope),
    /// `change/<id>`: a [`Change`].
    Change(String),
    /// `host/<instance>`: a [`HostStatus`](super::HostStatus); a tombstone once the host has stopped.
    Host(String),
}

/// The tenants that a route is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All tenants without a more specific route.
    Default,
    /// A percentage of the tenants.
    Percentage,
    /// One tenant: a pin.
    Tenant(TenantId),
}

/// A text that is not the name of a route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a route: give `default`, `percentage` or `tenant/<tenant>`")]
pub struct ScopeError(String);

/// A control record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the control record {key:?} cannot be read: {problem}")]
pub struct Malformed {
    /// The key of the record, cut at 200 characters if it is not one of Switchboard's.
    pub key: String,
    /// Why it cannot be read.
    pub problem: String,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Percentage => f.write_str("percentage"),
            Self::Tenant(tenant) => write!(f, "tenant/{tenant}"),
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        match (text, text.strip_prefix("tenant/")) {
            ("default", _) => Ok(Self::Default),
            ("percentage", _) => Ok(Self::Percentage),
            (_, Some(tenant)) => Ok(Self::Tenant(TenantId::new(tenant))),
            _ => Err(ScopeError(text.to_owned())),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chunk { release, number } => write!(f, "artifact/{release}/{number}"),
            Self::Release(release) => write!(f, "release/{release}"),
            Self::Route(scope) => write!(f, "route/{scope}"),
            Self::Change(id) => write!(f, "change/{id}"),
            Self::Host(instance) => write!(f, "host/{instance}"),
        }
    }
}

impl Key {
    /// Parses a record's key.
    ///
    /// # Errors
    /// If it is not one of Switchboard's keys, or another spelling of one. Each thing has exactly one key, since
    /// compaction would keep two.
    pub fn parse(key: &[u8]) -> Result<Self, Malformed> {
        let malformed = |problem: &str| Malformed {
            key: String::from_utf8_lossy(key).chars().take(200).collect(),
            problem: problem.to_owned(),
        };
        let text = std::str::from_utf8(key).map_err(|_| malformed("its key is not UTF-8"))?;
        let parsed = match text.split_once('/') {
            Some(("artifact", rest)) => rest
                .split_once('/')
                .and_then(|(release, number)| Some((release.parse().ok()?, number.parse().ok()?)))
                .map(|(release, number)| Self::Chunk { release, number }),
            Some(("release", release)) => release.parse().ok().map(Self::Release),
            Some(("route", scope)) => scope.parse().ok().map(Self::Route),
            Some(("change", id)) => Some(Self::Change(id.to_owned())),
            Some(("host", instance)) => Some(Self::Host(instance.to_owned())),
            _ => None,
        };
        parsed
            .filter(|parsed| parsed.to_string() == text)
            .ok_or_else(|| malformed("its key is not one of Switchboard's"))
    }
}

/// Who made a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The operating system's user.
    pub user: String,
    /// The machine's name.
    pub host: String,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.user, self.host)
    }
}

/// The record of a release: all but the bytes of its artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReleaseRecord {
    /// The manifest of the plugin.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Other state versions that the release can take over.
    #[serde(default)]
    pub migrates: Vec<u32>,
    /// The size of the artifact in bytes.
    pub size: u64,
    /// The number of the artifact's chunks.
    pub chunks: u32,
    /// The text of a minisign signature of the artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Who deployed the release last.
    pub actor: Actor,
}

impl ReleaseRecord {
    /// Whether the release can run a tenant whose state has this version.
    pub fn takes_over(&self, state_version: u32) -> bool {
        self.manifest.state_version == state_version || self.migrates.contains(&state_version)
    }
}

/// The value of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RouteValue {
    /// The route of the percentage. Deserialization tries it first: it has all fields of a route and the percentage.
    Share(Share),
    /// The route of the default or of one tenant.
    Route(Route),
}

impl RouteValue {
    /// The route, with or without a percentage.
    pub fn route(&self) -> &Route {
        match self {
            Self::Share(share) => &share.route,
            Self::Route(route) => route,
        }
    }

    fn route_mut(&mut self) -> &mut Route {
        match self {
            Self::Share(share) => &mut share.route,
            Self::Route(route) => route,
        }
    }

    /// The same route without a gate.
    #[must_use]
    pub fn ungated(mut self) -> Self {
        self.route_mut().gate = None;
        self
    }
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// A release was deployed.
    Deploy,
    /// Routes were set.
    RouteSet,
    /// Routes were removed.
    RouteClear,
    /// An operator undid a change.
    Rollback,
    /// A host undid a change because the release failed its health gate.
    AutomaticRollback,
    /// Releases were removed.
    Prune,
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deploy => "deploy",
            Self::RouteSet => "route set",
            Self::RouteClear => "route clear",
            Self::Rollback => "rollback",
            Self::AutomaticRollback => "automatic rollback",
            Self::Prune => "prune",
        })
    }
}

/// An entry of the history. Its time is that of its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// What was done.
    pub kind: ChangeKind,
    /// Who did it.
    pub actor: Actor,
    /// The reason: an operator's note, or the failures that a host counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The releases that were deployed or removed.
    #[serde(default)]
    pub releases: Vec<Digest>,
    /// Every route that was changed.
    #[serde(default)]
    pub routes: Vec<RouteChange>,
}

/// The change of one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteChange {
    /// Which route.
    pub route: Scope,
    /// The route before; `None`: there was none.
    pub before: Option<RouteValue>,
    /// The route after; `None`: it was removed.
    pub after: Option<RouteValue>,
    /// The id of the change that this undoes, with regard to this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<String>,
}

/// A control record to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRecord {
    /// What the record is about.
    pub key: Key,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
}

impl ControlRecord {
    /// A record whose value is JSON.
    pub fn json(key: Key, value: &impl Serialize) -> Self {
        Self { key, value: Some(serde_json::to_vec(value).expect("maps with text keys, numbers and text have JSON")) }
    }

    /// A record that deletes the value of its key.
    pub fn tombstone(key: Key) -> Self {
        Self { key, value: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_as_it_was_written_and_has_one_spelling() {
        let release = Digest::new([0xab; 32]);
        for key in [
            Key::Chunk { release, number: 12 },
            Key::Release(release),
            Key::Route(Scope::Default),
            Key::Route(Scope::Percentage),
            Key::Route(Scope::Tenant(TenantId::new(""))),
            Key::Route(Scope::Tenant(TenantId::new("61cc/G%2FM/83/1"))),
            Key::Change("a".into()),
            Key::Host("node/1".into()),
        ] {
            assert_eq!(Key::parse(key.to_string().as_bytes()), Ok(key));
        }
        let upper = format!("release/{}", "AB".repeat(32));
        let padded = format!("artifact/{release}/012");
        for text in ["", "release", "release/ab", "route/other", "route", "other/x", &upper, &padded] {
            assert_eq!(Key::parse(text.as_bytes()).unwrap_err().key, text);
        }
        assert!(Key::parse(b"host/\xff").unwrap_err().problem.contains("UTF-8"));
    }

    #[test]
    fn values_have_the_json_that_is_documented() {
        let (release, previous) = (Digest::new([1; 32]), Digest::new([2; 32]));
        let route = Route { release, previous: Some(previous), gate: None };
        let share = RouteValue::Share(Share { percent: "12.5".parse().unwrap(), route: route.clone() });
        let json = serde_json::to_value(&share).unwrap();
        let expected = serde_json::json!({
            "percent": "12.5", "release": release.to_string(), "previous": previous.to_string(),
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<RouteValue>(json).unwrap(), share);
        let route = RouteValue::Route(route);
        assert_eq!(serde_json::from_value::<RouteValue>(serde_json::to_value(&route).unwrap()).unwrap(), route);
        assert_eq!(serde_json::to_value(ChangeKind::AutomaticRollback).unwrap(), "automatic-rollback");
    }
}
