use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::record::TenantId;
use crate::routing::Digest;
use crate::routing::Manifest;
use crate::routing::{Route, Share};

/// Size of an artifact's chunks in bytes; the last one may be shorter. Well below what topics take by default (1 MiB), so
/// that no operator has to raise a limit.
pub const CHUNK_BYTES: usize = 512 << 10;

/// What a control record is about. Its text is the record's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `artifact/<digest>/<number>`: bytes of an artifact.
    Chunk { release: Digest, number: u32 },
    /// `release/<digest>`: a [`ReleaseRecord`].
    Release(Digest),
    /// `route/<scope>`: a [`RouteValue`]; a tombstone clears it.
    Route(Scope),
    /// `change/<id>`: a [`Change`].
    Change(String),
    /// `host/<instance>`: a host's status; a tombstone when it has stopped.
    Host(String),
}

/// Whom a route is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All tenants that no other route is for.
    Default,
    /// A percentage of the tenants.
    Percentage,
    /// One tenant: a pin.
    Tenant(TenantId),
}

/// Text that names no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no route")]
pub struct ScopeError(String);

/// A record of the control topic that cannot be read: what it is about, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the control record {key:?} cannot be read: {problem}")]
pub struct Malformed {
    pub key: String,
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
    /// The inverse of its text.
    ///
    /// # Errors
    /// When it is no key of ours, or another spelling of one: each thing has one key, or compaction would keep two.
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
        parsed.filter(|parsed| parsed.to_string() == text).ok_or_else(|| malformed("its key is none of Switchboard's"))
    }
}

/// Who did something.
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

/// What is known of a release beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReleaseRecord {
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Versions of the state's layout, other than its own, that it can take over.
    #[serde(default)]
    pub migrates: Vec<u32>,
    /// Of the artifact, in bytes.
    pub size: u64,
    /// Number of its chunks.
    pub chunks: u32,
    /// The text of a minisign signature of the artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Who deployed it last.
    pub by: Actor,
}

impl ReleaseRecord {
    /// Whether it can run a tenant whose state has this version.
    pub fn takes_over(&self, state_version: u32) -> bool {
        self.manifest.state_version == state_version || self.migrates.contains(&state_version)
    }
}

/// The value of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RouteValue {
    /// Of the percentage. It is tried first: it has all that a route has, and the percentage.
    Share(Share),
    /// Of the default and of a tenant.
    Route(Route),
}

impl RouteValue {
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

    /// The same without a gate.
    #[must_use]
    pub fn ungated(mut self) -> Self {
        self.route_mut().gate = None;
        self
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    Deploy,
    RouteSet,
    RouteClear,
    Rollback,
    /// By a host, for a release's failures.
    AutomaticRollback,
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

/// An entry of the history. Its time is its record's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    pub what: ChangeKind,
    pub by: Actor,
    /// A person's words, or why a host did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The releases that were deployed, or removed.
    #[serde(default)]
    pub releases: Vec<Digest>,
    /// Each route that was touched.
    #[serde(default)]
    pub routes: Vec<RouteChange>,
}

/// What became of one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteChange {
    pub route: Scope,
    /// `None`: there was none.
    pub before: Option<RouteValue>,
    pub after: Option<RouteValue>,
    /// The id of the change that this undoes, as far as this route goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<String>,
}

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRecord {
    pub key: Key,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
}

impl ControlRecord {
    /// A record with JSON in it.
    pub fn json(key: Key, value: &impl Serialize) -> Self {
        Self { key, value: Some(serde_json::to_vec(value).expect("maps with text keys, numbers and text have JSON")) }
    }

    /// A record that takes away what was there under its key.
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
