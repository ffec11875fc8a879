use std::collections::BTreeMap;
use std::sync::Arc;

use super::digest::Digest;
use super::routes::RouteTable;
use crate::record::{ControlPosition, Offset, TenantId};
use crate::routing::Manifest;

/// One artifact that a host has ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub digest: Digest,
    pub manifest: Manifest,
    /// Aliases that it may produce to: the manifest's, as far as the operator allows them.
    pub produces: Vec<Arc<str>>,
    /// Versions of the state's layout, other than its own, that it can take over by `migrate`.
    pub migrates: Vec<u32>,
}

impl Release {
    /// A release that may produce all that its manifest lists, and takes over no other version of the state's layout.
    pub fn new(digest: Digest, manifest: Manifest) -> Self {
        let produces = manifest.produces.iter().map(|alias| Arc::from(alias.as_str())).collect();
        Self { digest, manifest, produces, migrates: Vec::new() }
    }

    pub fn consumes(&self, alias: &str) -> bool {
        self.manifest.consumes.iter().any(|own| own == alias)
    }
}

/// Whether a host can run a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    Ready(Arc<Release>),
    /// It cannot.
    Failed {
        why: String,
        /// Aliases that it consumes; `None`: nothing here says so.
        consumes: Option<Vec<String>>,
        /// It is tried again soon, and another routing comes when that succeeds.
        transient: bool,
    },
}

/// What becomes of tenants whose release this host cannot run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// They stay on the release that they ran last, where this host can run that.
    #[default]
    Keep,
    /// They wait.
    Stop,
}

/// What a worker goes by: routes, as they are at one place of the control topic, and the releases that are ready. It never
/// changes; a worker takes another one between two transactions.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    table: RouteTable,
    /// Which incarnation of the control topic, and up to where it has been read (the offset after the last record).
    read: Option<ControlPosition>,
    changed: Option<ControlPosition>,
    /// Runs where no route says otherwise.
    base: Option<Digest>,
    releases: BTreeMap<Digest, Availability>,
    on_failure: OnFailure,
    consumed: Vec<Arc<str>>,
}

/// What a tenant is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    Run(&'a Arc<Release>),
    /// This host cannot run it.
    Unavailable {
        release: Digest,
        /// What it replaced.
        previous: Option<Digest>,
        why: &'a str,
    },
    /// No route leads anywhere.
    Nothing,
}

/// The last offset that has been read; `None`: nothing has.
fn before(end: Offset) -> Option<Offset> {
    Offset::new(end.get() - 1)
}

impl Routing {
    /// `read`: up to where the control topic has been read; `None`: there is none.
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
                for alias in &release.manifest.consumes {
                    if !consumed.iter().any(|known| **known == **alias) {
                        consumed.push(Arc::from(alias.as_str()));
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
        // Where every tenant has a route nobody runs it, but which tenants there are is not known.
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

    /// One release for all tenants, without a control topic.
    pub fn fixed(release: Arc<Release>) -> Self {
        let digest = release.digest;
        let releases = BTreeMap::from([(digest, Availability::Ready(release))]);
        Self::new(RouteTable::default(), None, Some(digest), releases, OnFailure::default())
    }

    /// Aliases that some tenant's release consumes, each once.
    pub fn consumed(&self) -> &[Arc<str>] {
        &self.consumed
    }

    pub fn on_failure(&self) -> OnFailure {
        self.on_failure
    }

    /// A release that is ready here.
    pub fn ready(&self, release: &Digest) -> Option<&Arc<Release>> {
        match self.releases.get(release)? {
            Availability::Ready(release) => Some(release),
            Availability::Failed { .. } => None,
        }
    }

    /// Whether a release consumes an alias, so far as is known here: what is not known may be.
    pub fn may_consume(&self, release: &Digest, alias: &str) -> bool {
        match self.releases.get(release) {
            Some(Availability::Ready(release)) => release.consumes(alias),
            Some(Availability::Failed { consumes: Some(consumes), .. }) => consumes.iter().any(|own| own == alias),
            Some(Availability::Failed { consumes: None, .. }) | None => true,
        }
    }

    /// Whether a release that cannot be run here may soon be.
    pub fn may_come(&self, release: &Digest) -> bool {
        matches!(self.releases.get(release), Some(Availability::Failed { transient: true, .. }))
    }

    /// The place of the control record that last changed a route, of those that have been read; `None`: there is none.
    ///
    /// Which topics are consumed follows from the routes, so a host that `has_read` this place consumes what this one does,
    /// if it can run the same. Every host comes to have read it: it is the place of a record that each of them goes by when
    /// it comes to it. `read` is no such place. After the last of these come only hosts' statuses, the history and markers
    /// of transactions: hosts publish nothing for those, so that they go by different ends for ever, and to wait for
    /// another one's end could be for ever.
    pub fn changed(&self) -> Option<ControlPosition> {
        self.changed
    }

    /// Whether the control topic has been read beyond this place. Places in another incarnation of it cannot be waited for.
    pub fn has_read(&self, place: ControlPosition) -> bool {
        self.read.is_none_or(|read| read.topic != place.topic || read.offset > place.offset)
    }

    /// What a tenant is to run, and the place of the control record that last changed anything about that; `None`: none ever did.
    pub fn target(&self, tenant: &TenantId) -> (Target<'_>, Option<ControlPosition>) {
        let resolved = self.table.resolve(tenant);
        let topic = self.read.and_then(|read| read.topic);
        let place = resolved.offset.map(|offset| ControlPosition { topic, offset });
        let (wanted, previous) = match (resolved.route, self.base) {
            (Some(route), base) => (route.release, route.previous.or(base)),
            (None, Some(base)) => (base, None),
            (None, None) => return (Target::Nothing, place),
        };
        let target = match self.releases.get(&wanted) {
            Some(Availability::Ready(release)) => Target::Run(release),
            Some(Availability::Failed { why, .. }) => Target::Unavailable { release: wanted, previous, why },
            None => Target::Unavailable { release: wanted, previous, why: "it is not loaded" },
        };
        (target, place)
    }
}
