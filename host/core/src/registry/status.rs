use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::{Offset, TenantId, Timestamp};
use crate::routing::Digest;

/// What a host tells of itself. It writes its status when something changes, and at least every [`HostStatus::EVERY`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostStatus {
    pub instance: String,
    /// The machine's name.
    pub host: String,
    pub started: Timestamp,
    /// Up to where all of its workers go by the control topic: the offset after the last record.
    pub read: Offset,
    /// The artifact of its config file: what tenants without a route run there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_file: Option<Digest>,
    #[serde(default)]
    pub releases: Vec<Loaded>,
    #[serde(default)]
    pub tenants: Vec<Running>,
    /// Tenants that stay on a former release; the first [`HostStatus::NAMES`].
    #[serde(default)]
    pub staying: Vec<Staying>,
    /// Tenants that run nothing for now; the first [`HostStatus::NAMES`].
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    #[serde(default)]
    pub failures: Vec<Failures>,
}

impl HostStatus {
    /// A living host's status is at most so old, unless it was lost on its way.
    pub const EVERY: Duration = Duration::from_secs(10);
    /// A host whose status is older is taken for dead.
    pub const ALIVE: Duration = Duration::from_secs(30);
    /// How many tenants a list names.
    pub const NAMES: usize = 20;

    /// Whether it can run this release; `None`: it has not said yet.
    pub fn state_of(&self, release: &Digest) -> Option<&State> {
        self.releases.iter().find(|loaded| loaded.digest == *release).map(|loaded| &loaded.state)
    }

    /// Whether it has anything to do with this release: has it, or has tenants that run it.
    pub fn uses(&self, release: &Digest) -> bool {
        self.on_file == Some(*release)
            || self.releases.iter().any(|loaded| loaded.digest == *release)
            || self.tenants.iter().any(|running| running.release == *release && running.count > 0)
            || self.staying.iter().any(|staying| staying.release == *release)
    }
}

/// A release that a host was told to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    pub digest: Digest,
    #[serde(flatten)]
    pub state: State,
}

/// Whether a host can run a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    Ready,
    Failed { reason: String },
}

/// How many tenants of a host run a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Running {
    pub release: Digest,
    /// Of the release, and so of the state of these tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_version: Option<u32>,
    pub count: u64,
    /// The first [`HostStatus::NAMES`] of them.
    #[serde(default)]
    pub names: Vec<TenantId>,
}

/// A tenant that the release of its route cannot take over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staying {
    pub tenant: TenantId,
    /// What it runs on.
    pub release: Digest,
    pub reason: String,
}

/// A tenant whose messages wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    pub tenant: TenantId,
    pub reason: String,
}

/// How a release does on a host, since it was deployed or routed to last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    pub release: Digest,
    /// Messages that it was given.
    pub messages: u64,
    /// What a sound plugin never has: traps, limits, outputs that may not be sent, tenants whose state it could not take over.
    pub failures: u64,
    /// Messages that it called invalid.
    #[serde(default)]
    pub rejections: u64,
    /// Of the first failure: what happened.
    #[serde(default)]
    pub first: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_json_that_is_documented() {
        let release = Digest::new([1; 32]);
        let status = HostStatus {
            instance: "one".into(),
            host: "node".into(),
            started: Timestamp::from_millis(5),
            read: 7.into(),
            releases: vec![
                Loaded { digest: release, state: State::Ready },
                Loaded { digest: release, state: State::Failed { reason: "why".into() } },
            ],
            tenants: vec![Running { release, state_version: Some(2), count: 1, names: vec![TenantId::new("t")] }],
            ..HostStatus::default()
        };
        let json = serde_json::to_value(&status).unwrap();
        let digest = release.to_string();
        let expected = serde_json::json!({
            "instance": "one", "host": "node", "started": 5, "read": 7,
            "releases": [{ "digest": digest, "state": "ready" }, { "digest": digest, "state": "failed", "reason": "why" }],
            "tenants": [{ "release": digest, "state-version": 2, "count": 1, "names": ["t"] }],
            "staying": [], "waiting": [], "failures": [],
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<HostStatus>(json).unwrap(), status);
        let least = serde_json::json!({ "instance": "", "host": "", "started": 0, "read": 0 });
        assert_eq!(serde_json::from_value::<HostStatus>(least).unwrap(), HostStatus::default());
    }
}
