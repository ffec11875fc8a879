//! From the routes and the releases that are ready to the release that a tenant runs on this host.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::manifest::Manifest;
use super::routes::RouteTable;
use crate::record::{ControlPosition, Offset, TenantId};

/// The topic aliases of a manifest's list, in the form in which a host shares them.
pub fn aliases(list: &[String]) -> Vec<Arc<str>> {
    list.iter().map(|alias| Arc::from(alias.as_str())).collect()
}

/// A release that a host has ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The digest of the artifact.
    pub digest: Digest,
    /// The manifest of the plugin.
    pub manifest: Manifest,
    /// The aliases that it may produce to: those of the manifest that the operator allows.
    pub produces: Vec<Arc<str>>,
    /// Other state versions that it can take over by `migrate`.
    pub migrates: Vec<u32>,
}

impl Release {
    /// A release that may produce to all topics of its manifest and takes over no other state version.
    pub fn new(digest: Digest, manifest: Manifest) -> Self {
        let produces = aliases(&manifest.produces);
        Self { digest, manifest, produces, migrates: Vec::new() }
    }

    /// Whether the release consumes the topic with this alias.
    pub fn consumes(&self, alias: &str) -> bool {
        self.manifest.consumes.iter().any(|own| own == alias)
    }
}

/// Whether a host can run a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Ready(Arc<Release>),
    /// It cannot.
    Failed {
        /// Why not, for people.
        why: String,
        /// The aliases that it consumes; `None`: not known.
        consumes: Option<Vec<String>>,
        /// The host retries soon, and publishes another routing when it succeeds.
        transient: bool,
    },
}

/// What becomes of tenants whose release this host cannot run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They run the fallback release: the one that they ran last, if this host can run it.
    #[default]
    Keep,
    /// They wait.
    Stop,
}

/// The routes as of one offset of the control topic, and the releases that are ready. A routing never changes. A
/// worker replaces its routing between two transactions.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    table: RouteTable,
    /// How far the control topic has been read: its topic id, and the offset after the last record.
    read: Option<ControlPosition>,
    /// See [`Routing::changed`].
    changed: Option<ControlPosition>,
    /// The release of the config file: it runs where no route applies.
    base: Option<Digest>,
    releases: BTreeMap<Digest, Availability>,
    on_failure: OnFailure,
    consumed: Vec<Arc<str>>,
}

/// The release that a tenant shall run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// This one, which is ready.
    Run(&'a Arc<Release>),
    /// This host cannot run the release.
    Unavailable {
        /// The release.
        release: Digest,
        /// The release that it replaced.
        previous: Option<Digest>,
        /// Why the host cannot run it.
        why: &'a str,
    },
    /// There is no route, and no release in the config file.
    Nothing,
}

/// The last offset that has been read; `None`: nothing has.
fn before(end: Offset) -> Option<Offset> {
    Offset::new(end.get() - 1)
}

impl Routing {
    /// The routing of these routes and releases. `read` says how far the control topic has been read; `None`: the host
    /// has none. `base` is the release of the config file.
    pub fn new(
        table: RouteTable,
        read: Option<ControlPosition>,
        base: Option<Digest>,
        releases: BTreeMap<Digest, Availability>,
        on_failure: OnFailure,
    ) -> Self {
        let mut consumed: Vec<Arc<str>> = Vec::new();
        let mut add = |release: &Digest| match releases.get(release) {
            Some(Availability::Ready(release)) => {
                for alias in aliases(&release.manifest.consumes) {
                    if !consumed.contains(&alias) {
                        consumed.push(alias);
                    }
                }
                true
            }
            _ => false,
        };
        for route in table.routes() {
            if !add(&route.release)
                && let Some(previous) = route.previous.or(base)
            {
                add(&previous);
            }
        }
        // If every tenant has a route, the base release runs nowhere. But the set of tenants is not known.
        if table.default.route.is_none()
            && let Some(base) = &base
        {
            add(base);
        }
        let changed = read.and_then(|read| {
            let changed = table.changed();
            let offset = if mutated!("wait-for-the-end-of-the-control-topic") { before(read.offset) } else { changed };
            Some(ControlPosition { offset: offset?, ..read })
        });
        Self { table, read, changed, base, releases, on_failure, consumed }
    }

    /// One release for all tenants, for a host without a control topic.
    pub fn fixed(release: Arc<Release>) -> Self {
        let digest = release.digest;
        let releases = BTreeMap::from([(digest, Availability::Ready(release))]);
        Self::new(RouteTable::default(), None, Some(digest), releases, OnFailure::default())
    }

    /// The aliases that some tenant's release consumes, each once.
    pub fn consumed(&self) -> &[Arc<str>] {
        &self.consumed
    }

    /// What tenants do whose release this host cannot run.
    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// The release with this digest, if it is ready here.
    pub fn ready(&self, release: &Digest) -> Option<&Arc<Release>> {
        match self.releases.get(release)? {
            Availability::Ready(release) => Some(release),
            Availability::Failed { .. } => None,
        }
    }

    /// Whether a release may consume a topic. Where that is not known here the answer is `true`.
    pub fn may_consume(&self, release: &Digest, alias: &str) -> bool {
        match self.releases.get(release) {
            Some(Availability::Ready(release)) => release.consumes(alias),
            Some(Availability::Failed { consumes: Some(consumes), .. }) => consumes.iter().any(|own| own == alias),
            Some(Availability::Failed { consumes: None, .. }) | None => true,
        }
    }

    /// Whether a release that this host cannot run may become ready soon.
    pub fn may_become_ready(&self, release: &Digest) -> bool {
        matches!(self.releases.get(release), Some(Availability::Failed { transient: true, .. }))
    }

    /// The position of the last control record that changed a route; `None`: there is none.
    ///
    /// The routes determine which topics are consumed. So a host that has read this position ([`Routing::has_read`])
    /// consumes the same topics as this one, if it can run the same releases.
    ///
    /// Every host eventually applies each route record, so another host can wait for this position. The end of the
    /// topic would not do: it moves with every host's status record, and hosts publish no new routing for those.
    pub fn changed(&self) -> Option<ControlPosition> {
        self.changed
    }

    /// Whether the control topic has been read beyond this position. A position in another topic of this name counts
    /// as read: nobody can wait for it.
    pub fn has_read(&self, position: ControlPosition) -> bool {
        self.read.is_none_or(|read| read.topic != position.topic || read.offset > position.offset)
    }

    /// The release that a tenant shall run, and the position of the control record that last changed that; `None`:
    /// none ever did.
    pub fn target(&self, tenant: &TenantId) -> (Target<'_>, Option<ControlPosition>) {
        let resolved = self.table.resolve(tenant);
        let topic = self.read.and_then(|read| read.topic);
        let position = resolved.offset.map(|offset| ControlPosition { topic, offset });
        let (wanted, previous) = match (resolved.route, self.base) {
            (Some(route), base) => (route.release, route.previous.or(base)),
            (None, Some(base)) => (base, None),
            (None, None) => return (Target::Nothing, position),
        };
        let target = match self.releases.get(&wanted) {
            Some(Availability::Ready(release)) => Target::Run(release),
            Some(Availability::Failed { why, .. }) => Target::Unavailable { release: wanted, previous, why },
            None => Target::Unavailable { release: wanted, previous, why: "it is not loaded" },
        };
        (target, position)
    }
}
