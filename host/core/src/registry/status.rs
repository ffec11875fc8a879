//! The status record that each host writes about itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::{Offset, TenantId, Timestamp};
use crate::routing::Digest;
use crate::worker::Load;

/// The status of a host. The host writes it when something but its load changes, and at least every [`HostStatus::EVERY`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostStatus {
    /// The process instance.
    pub instance: String,
    /// The name of the machine.
    pub host: String,
    /// When the host was started.
    pub started: Timestamp,
    /// The position in the control topic that all of its workers have applied: the offset after the last record.
    pub read: Offset,
    /// The release of its config file, which tenants without a route run there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_file: Option<Digest>,
    /// The topic aliases that this release consumes. Other hosts read them too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_file_consumes: Vec<String>,
    /// The releases that it has loaded or tried to load.
    #[serde(default)]
    pub releases: Vec<LoadedRelease>,
    /// How many tenants run each release.
    #[serde(default)]
    pub tenants: Vec<Running>,
    /// Tenants that run a fallback release instead of their route's; the first [`HostStatus::NAMES`].
    #[serde(default)]
    pub fallback: Vec<FallbackTenant>,
    /// Tenants that run nothing for now; the first [`HostStatus::NAMES`].
    #[serde(default)]
    pub waiting: Vec<WaitingTenant>,
    /// How each release does.
    #[serde(default)]
    pub failures: Vec<Failures>,
    /// How much it has to do, and how its records go. `None`: it is no member of the group yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<HostLoad>,
}

/// How much a host has to do, and how its records go: the sums of its members, as of the time of the status. `direct`,
/// `repartitioned` and `transactions` count from the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct HostLoad {
    /// Members of the group.
    pub members: usize,
    /// Messages that wait in their tenants' queues.
    pub queued: usize,
    /// Jobs that threads run or that wait for a thread. A tenant has at most one.
    pub jobs: usize,
    /// Lookups that tenants wait for.
    pub fetches: usize,
    /// Tenants that wait for another routing.
    pub waiting_tenants: usize,
    /// Finished results that are not in a committed transaction.
    pub results: usize,
    /// Members whose last transaction was not committed, and which send its results again.
    pub resending: usize,
    /// Direct paths that are open.
    pub direct_paths: usize,
    /// Source records that went directly to their tenants' queues.
    pub direct: u64,
    /// Source records that were repartitioned.
    pub repartitioned: u64,
    /// Committed transactions.
    pub transactions: u64,
}

impl HostLoad {
    /// Adds the load of a member.
    pub fn add(&mut self, member: &Load) {
        // Without `..`, so that no count is forgotten.
        let Load {
            queued,
            jobs,
            fetches,
            waiting_tenants,
            results,
            resending,
            direct_paths,
            direct,
            repartitioned,
            transactions,
        } = *member;
        self.members += 1;
        self.queued += queued;
        self.jobs += jobs;
        self.fetches += fetches;
        self.waiting_tenants += waiting_tenants;
        self.results += results;
        self.resending += usize::from(resending);
        self.direct_paths += direct_paths;
        self.direct += direct;
        self.repartitioned += repartitioned;
        self.transactions += transactions;
    }
}

impl HostStatus {
    /// The longest time between two status records of a living host, unless one is lost.
    pub const EVERY: Duration = Duration::from_secs(10);
    /// A host with an older status counts as dead.
    pub const ALIVE: Duration = Duration::from_secs(30);
    /// How many tenants a list names at most.
    pub const NAMES: usize = 20;

    /// Whether the host can run this release; `None`: it has not reported that yet.
    pub fn state_of(&self, release: &Digest) -> Option<&LoadState> {
        self.releases.iter().find(|loaded| loaded.digest == *release).map(|loaded| &loaded.state)
    }

    /// Whether the host has loaded this release or has tenants that run it.
    pub fn uses(&self, release: &Digest) -> bool {
        self.on_file == Some(*release)
            || self.releases.iter().any(|loaded| loaded.digest == *release)
            || self.tenants.iter().any(|running| running.release == *release && running.count > 0)
            || self.fallback.iter().any(|fallback| fallback.release == *release)
    }
}

/// A release that a host has loaded or tried to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedRelease {
    /// The release.
    pub digest: Digest,
    /// Whether the host can run it.
    #[serde(flatten)]
    pub state: LoadState,
}

/// Whether a host can run a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum LoadState {
    /// It can.
    Ready,
    /// It cannot.
    Failed {
        /// Why not, for people.
        reason: String,
    },
}

/// How many tenants of a host run a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Running {
    /// The release.
    pub release: Digest,
    /// The state version of the release, and so of the state of these tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_version: Option<u32>,
    /// The number of tenants.
    pub count: u64,
    /// The first [`HostStatus::NAMES`] of these tenants.
    #[serde(default)]
    pub names: Vec<TenantId>,
}

/// A tenant that runs a fallback release, because its route's release cannot run here or cannot take over its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackTenant {
    /// The tenant.
    pub tenant: TenantId,
    /// The fallback release.
    pub release: Digest,
    /// Why it does not run the release of its route.
    pub reason: String,
}

/// A tenant that runs nothing for now: its messages wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingTenant {
    /// The tenant.
    pub tenant: TenantId,
    /// Why it waits.
    pub reason: String,
}

/// How a release does on a host, counted since it was last deployed or given a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// The release.
    pub release: Digest,
    /// The number of messages that the release handled.
    pub messages: u64,
    /// Failures that a sound plugin never has: traps, exceeded limits, outputs that may not be sent, tenants whose
    /// state it could not take over.
    pub failures: u64,
    /// Messages that the plugin called invalid.
    #[serde(default)]
    pub rejections: u64,
    /// What happened at the first failure.
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
                LoadedRelease { digest: release, state: LoadState::Ready },
                LoadedRelease { digest: release, state: LoadState::Failed { reason: "why".into() } },
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
            "fallback": [], "waiting": [], "failures": [],
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<HostStatus>(json).unwrap(), status);
        let on_file =
            HostStatus { on_file: Some(release), on_file_consumes: vec!["IN".into()], ..HostStatus::default() };
        let json = serde_json::to_value(&on_file).unwrap();
        assert_eq!((&json["on-file"], &json["on-file-consumes"]), (&digest.into(), &serde_json::json!(["IN"])));
        assert_eq!(serde_json::from_value::<HostStatus>(json).unwrap(), on_file);
        let mut load = HostLoad::default();
        let member = Load { queued: 3, resending: true, transactions: 4, ..Load::default() };
        load.add(&member);
        load.add(&member);
        let loaded = HostStatus { load: Some(load), ..HostStatus::default() };
        let json = serde_json::to_value(&loaded).unwrap();
        let expected = serde_json::json!({
            "members": 2, "queued": 6, "jobs": 0, "fetches": 0, "waiting-tenants": 0, "results": 0, "resending": 2,
            "direct-paths": 0, "direct": 0, "repartitioned": 0, "transactions": 8,
        });
        assert_eq!(json["load"], expected);
        assert_eq!(serde_json::from_value::<HostStatus>(json).unwrap(), loaded);
        let least = serde_json::json!({ "instance": "", "host": "", "started": 0, "read": 0 });
        assert_eq!(serde_json::from_value::<HostStatus>(least).unwrap(), HostStatus::default());
    }
}
