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
        /// The aliases that it consumes and that can be read here; `None`: not known.
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

/// The topics that the routes and the base release need, as far as this host knows the manifests.
fn consumed_topics(
    table: &RouteTable,
    base: Option<Digest>,
    releases: &BTreeMap<Digest, Availability>,
) -> Vec<Arc<str>> {
    let mut consumed: Vec<Arc<str>> = Vec::new();
    let mut add = |release: &Digest| {
        let (consumes, is_ready) = match releases.get(release) {
            Some(Availability::Ready(release)) => (&release.manifest.consumes[..], true),
            Some(Availability::Failed { consumes, .. }) => (consumes.as_deref().unwrap_or_default(), false),
            None => (&[][..], false),
        };
        for alias in aliases(consumes) {
            if !consumed.contains(&alias) {
                consumed.push(alias);
            }
        }
        is_ready
    };
    for route in table.routes() {
        let is_ready = add(&route.release);
        // Tenants may run the replaced release as their fallback.
        if !is_ready && let Some(previous) = route.previous.or(base) {
            add(&previous);
        }
    }
    // If every tenant has a route, the base release runs nowhere. But the set of tenants is not known.
    if table.default.route.is_none()
        && let Some(base) = &base
    {
        add(base);
    }
    consumed
}

/// The last offset that has been read; `None`: nothing has.
fn before(end: Offset) -> Option<Offset> {
    Offset::new(end.get() - 1)
}

impl Routing {
    /// The routing of these routes and releases. `read` says how far the control topic has been read; `None`: the host
    /// has none. `base` is the release of the config file.
    ///
    /// The topics of a routed release are consumed whether or not this host can run it. Whoever owns the shard that a
    /// source partition is anchored to reads the partition, also for tenants of hosts that can run the release.
    pub fn new(
        table: RouteTable,
        read: Option<ControlPosition>,
        base: Option<Digest>,
        releases: BTreeMap<Digest, Availability>,
        on_failure: OnFailure,
    ) -> Self {
        let consumed = consumed_topics(&table, base, &releases);
        let changed = read.and_then(|read| {
            let changed = table.changed();
            let offset = if mutated!("wait-for-the-end-of-the-control-topic") { before(read.offset) } else { changed };
            Some(ControlPosition { offset: offset?, ..read })
        });
        Self { table, read, changed, base, releases, on_failure, consumed }
    }

    /// The same routing, which also consumes these topics: those that only other hosts' plugins consume
    /// ([`RegistryState::consumed_elsewhere`](crate::registry::RegistryState::consumed_elsewhere)).
    #[must_use]
    pub fn also_consuming(mut self, topics: impl IntoIterator<Item = Arc<str>>) -> Self {
        for alias in topics {
            if !self.consumed.contains(&alias) {
                self.consumed.push(alias);
            }
        }
        self
    }

    /// One release for all tenants, for a host without a control topic.
    pub fn fixed(release: Arc<Release>) -> Self {
        let digest = release.digest;
        let releases = BTreeMap::from([(digest, Availability::Ready(release))]);
        Self::new(RouteTable::default(), None, Some(digest), releases, OnFailure::default())
    }

    /// The aliases that some tenant's release consumes on some host, each once.
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
    /// The routes decide which releases run tenants. So a host that has read this position ([`Routing::has_read`]) knows
    /// each release for whose sake this one reads a topic, but for the plugins of hosts' config files.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::{Route, Versioned};

    fn digest(number: u8) -> Digest {
        Digest::new([number; 32])
    }

    fn consumes(aliases: &[&str]) -> Vec<String> {
        aliases.iter().map(|alias| (*alias).to_owned()).collect()
    }

    fn ready(number: u8, aliases: &[&str]) -> (Digest, Availability) {
        let manifest = Manifest {
            name: "plugin".into(),
            version: "1.0.0".into(),
            consumes: consumes(aliases),
            produces: vec![],
            lookups: vec![],
            state_version: 1,
        };
        (digest(number), Availability::Ready(Arc::new(Release::new(digest(number), manifest))))
    }

    fn failed(number: u8, aliases: Option<&[&str]>) -> (Digest, Availability) {
        let failed = Availability::Failed { why: "why".into(), consumes: aliases.map(consumes), transient: false };
        (digest(number), failed)
    }

    fn default(release: u8, previous: Option<u8>) -> RouteTable {
        let route = Route { release: digest(release), previous: previous.map(digest), gate: None };
        RouteTable { default: Versioned { route: Some(route), offset: Some(3.into()) }, ..RouteTable::default() }
    }

    fn consumed(table: &RouteTable, base: Option<u8>, releases: &[(Digest, Availability)]) -> Vec<String> {
        let releases = releases.iter().cloned().collect();
        let routing = Routing::new(table.clone(), None, base.map(digest), releases, OnFailure::Keep);
        routing.consumed().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_topics_of_a_routed_release_are_consumed_where_it_cannot_run_too() {
        let runs = [ready(1, &["A"]), ready(2, &["A", "B"])];
        assert_eq!(consumed(&default(2, Some(1)), None, &runs), ["A", "B"]);
        let cannot_run = [ready(1, &["A", "C"]), failed(2, Some(&["A", "B"]))];
        assert_eq!(
            consumed(&default(2, Some(1)), None, &cannot_run),
            ["A", "B", "C"],
            "the replaced release may be the fallback"
        );
        assert_eq!(consumed(&default(2, Some(1)), None, &[ready(1, &["A"]), failed(2, None)]), ["A"]);
        assert_eq!(
            consumed(&default(2, None), Some(9), &[failed(2, Some(&["B"])), ready(9, &["BASE"])]),
            ["B", "BASE"]
        );
        assert_eq!(consumed(&default(2, None), None, &[]), [""; 0], "nothing is known about it");
    }

    #[test]
    fn the_base_release_is_consumed_until_all_tenants_have_a_route() {
        let releases = [ready(1, &["A"]), ready(9, &["BASE"])];
        assert_eq!(consumed(&RouteTable::default(), Some(9), &releases), ["BASE"]);
        assert_eq!(consumed(&default(1, None), Some(9), &releases), ["A"]);
        assert_eq!(consumed(&RouteTable::default(), None, &releases), [""; 0]);
    }

    #[test]
    fn topics_of_other_hosts_are_added_once_and_change_nothing_else() {
        let releases = BTreeMap::from([ready(1, &["A"])]);
        let routing = Routing::new(default(1, None), None, None, releases, OnFailure::Keep);
        let changed = routing.changed();
        let routing = routing.also_consuming(["A", "B", "B"].map(Arc::from));
        assert_eq!(routing.consumed(), ["A", "B"].map(Arc::from));
        assert_eq!(routing.changed(), changed);
        assert!(!routing.may_consume(&digest(1), "B"));
    }
}
