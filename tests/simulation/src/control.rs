//! The control topic: its versions, and how far each process has read it.
//!
//! The content is drawn when a schedule begins. It is written one version after the other while inputs arrive. A process
//! that starts has read the topic to its end. Then it reads late, some processes very late, and sometimes it cannot load a
//! release. In the time without faults all processes read everything and can load all releases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use switchboard_core::record::{ControlPosition, Offset, TenantId, TopicId};
use switchboard_core::routing::{Availability, OnFailure, Route, RouteTable, Routing, Share, Versioned};

use crate::faults::{Faults, Kind};
use crate::kafka::{ClientId, Cluster};
use crate::plugins::{Logic, digest};

/// The topic's content after one command.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) table: RouteTable,
    /// The offset of its first record.
    begin: Offset,
    /// The offset after its last record.
    end: Offset,
    /// It is written when this many inputs are there.
    after: usize,
}

/// A routing as it was handed to a process: the version that it had read, and the releases that it could not load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handed {
    /// How many versions it has read.
    pub(crate) read: usize,
    /// The offset after the last record that it has read. That record may be a status of a host.
    pub(crate) end: Offset,
    pub(crate) failed: BTreeSet<u8>,
}

#[derive(Debug)]
pub(crate) struct Control {
    logic: Logic,
    /// Without a control topic there is only the base.
    exists: bool,
    pub(crate) base: Option<u8>,
    pub(crate) on_failure: OnFailure,
    /// The first is the empty topic.
    pub(crate) versions: Vec<Version>,
    written: usize,
    /// All routings that were handed to processes, in order.
    pub(crate) handed: Vec<Handed>,
    /// The routings of each process, in order: indices of `handed`.
    pub(crate) given: BTreeMap<ClientId, Vec<usize>>,
    /// The routing of each process: an index of `handed`.
    pub(crate) applied: BTreeMap<ClientId, usize>,
}

impl Control {
    /// The id of the topic.
    const TOPIC: TopicId = TopicId::new(7);

    /// Draws the content for a schedule with this many inputs and tenants.
    pub(crate) fn new(random: &mut fastrand::Rng, logic: Logic, tenants: u32, inputs: usize) -> Self {
        let exists = random.u8(0..4) > 0;
        let base = (!exists || random.bool()).then_some(1);
        let mut after: Vec<_> =
            (0..if exists { random.usize(1..13) } else { 0 }).map(|_| random.usize(..=inputs)).collect();
        after.sort_unstable();
        let first = Version { table: RouteTable::default(), begin: Offset::ZERO, end: Offset::ZERO, after: 0 };
        let mut versions = vec![first];
        for (place, due) in after.iter().copied().enumerate() {
            let last = versions.last().expect("there is a first");
            let (mut table, mut end) = (last.table.clone(), last.end);
            let begin = change(random, &mut table, &mut end, tenants);
            if random.bool() {
                change(random, &mut table, &mut end, tenants);
            }
            // In the end no tenant may be without a route.
            if base.is_none() && table.default.route.is_none() && place + 1 == after.len() {
                table.default = Versioned { route: Some(route(random, None)), offset: Some(end) };
                end = end.next();
            }
            versions.push(Version { table, begin, end, after: due });
        }
        let on_failure = if random.bool() { OnFailure::Keep } else { OnFailure::Stop };
        Self {
            logic,
            exists,
            base,
            on_failure,
            versions,
            written: 1,
            handed: Vec::new(),
            given: BTreeMap::new(),
            applied: BTreeMap::new(),
        }
    }

    /// Writes the version that is due when this many inputs are there.
    pub(crate) fn write(&mut self, inputs: usize) {
        if self.versions.get(self.written).is_some_and(|version| version.after <= inputs) {
            self.written += 1;
        }
    }

    /// Whether all is written.
    pub(crate) fn is_whole(&self) -> bool {
        self.written == self.versions.len()
    }

    /// The end of what a process has read that has this many versions. Between two versions there are statuses of hosts.
    /// They change no routes, so a process that reads more of them is handed nothing.
    fn read_up_to(&self, read: usize, random: &mut fastrand::Rng) -> Offset {
        let end = self.versions[read - 1].end;
        let next = self.versions.get(read).map_or(later(end, 3), |next| next.begin);
        Offset::new(random.i64(end.get()..=next.get())).expect("none of them is negative")
    }

    /// Whether a process has read a version that another one has not.
    pub(crate) fn is_ahead(&self, one: &Handed, other: &Handed) -> bool {
        self.exists && one.read > other.read
    }

    /// The position of a record.
    pub(crate) fn position(&self, offset: Offset) -> ControlPosition {
        ControlPosition { topic: self.exists.then_some(Self::TOPIC), offset }
    }

    pub(crate) fn routing(&self, Handed { read, end, failed }: &Handed) -> Routing {
        let Version { table, .. } = &self.versions[*read - 1];
        let load = |number: u8| {
            let release = self.logic.release(number);
            let availability = if failed.contains(&number) {
                let consumes = Some(release.manifest.consumes);
                Availability::Failed { why: "no memory".into(), consumes, transient: false }
            } else {
                Availability::Ready(Arc::new(release))
            };
            (digest(number), availability)
        };
        let releases = Logic::RELEASES.map(load).collect();
        let read = self.exists.then_some(self.position(*end));
        Routing::new(table.clone(), read, self.base.map(digest), releases, self.on_failure)
    }

    /// Topics that are consumed by the end of the schedule.
    pub(crate) fn consumed_at_last(&self) -> Vec<Arc<str>> {
        let last = Handed { read: self.versions.len(), end: later(Offset::ZERO, i64::MAX), failed: BTreeSet::new() };
        self.routing(&last).consumed().to_vec()
    }
}

/// This many offsets later.
fn later(offset: Offset, by: i64) -> Offset {
    Offset::new(offset.get() + by).expect("no schedule goes back")
}

fn route(random: &mut fastrand::Rng, replaced: Option<&Route>) -> Route {
    let replaced = replaced.map(|route| route.release);
    let others: Vec<_> = Logic::RELEASES.map(digest).filter(|release| Some(*release) != replaced).collect();
    let release = random.choice(others).expect("there are some");
    Route { release, previous: replaced.filter(|_| random.bool()), gate: None }
}

/// Sets or clears a route. Returns the offset of the record.
fn change(random: &mut fastrand::Rng, table: &mut RouteTable, end: &mut Offset, tenants: u32) -> Offset {
    let offset = later(*end, random.i64(0..3));
    *end = later(offset.next(), random.i64(0..2));
    let clears = random.u8(0..4) == 0;
    match random.u8(0..4) {
        0 => {
            let route = (!clears).then(|| route(random, table.default.route.as_ref()));
            table.default = Versioned { route, offset: Some(offset) };
        }
        1 => {
            let percent = random.choice(["25", "50", "75", "100"]).expect("not empty");
            let percent = percent.parse().expect("a percentage");
            let route = route(random, table.share.route.as_ref().map(|share| &share.route));
            table.share = Versioned { route: (!clears).then_some(Share { percent, route }), offset: Some(offset) };
        }
        _ => {
            // One tenant more than there are: topics of a release that nobody runs are consumed too.
            let tenant = TenantId::new(format!("t{}", random.u32(..=tenants)));
            let pin = table.pins.entry(tenant).or_default();
            *pin = Versioned { route: (!clears).then(|| route(random, pin.route.as_ref())), offset: Some(offset) };
        }
    }
    offset
}

/// How one process reads the control topic.
#[derive(Debug)]
pub(crate) struct Reader {
    id: ClientId,
    /// How late it may see a new version.
    lag: Duration,
    due: Duration,
}

impl Reader {
    pub(crate) fn new(id: ClientId, faults: &mut Faults, cluster: &mut Cluster) -> Self {
        let lag = if faults.strikes(Kind::Lag, cluster) { 20_000 } else { 200 };
        Self { id, lag: Duration::from_millis(cluster.random.u64(10..lag)), due: Duration::ZERO }
    }

    /// The next routing, if there is one.
    pub(crate) fn read(
        &mut self,
        control: &mut Control,
        faults: &mut Faults,
        cluster: &mut Cluster,
    ) -> Option<Routing> {
        let known = control.applied.get(&self.id).map(|place| &control.handed[*place]);
        if known.is_some() && cluster.now < self.due {
            return None;
        }
        let calm = faults.are_over(cluster.now);
        self.due = cluster.now + self.lag.mul_f64(cluster.random.f64());
        let read = match known {
            Some(known) if !calm => cluster.random.usize(known.read..=control.written),
            _ => control.written,
        };
        let failed: BTreeSet<u8> = Logic::RELEASES.filter(|_| faults.strikes(Kind::Load, cluster)).collect();
        if known.is_some_and(|known| known.read == read && known.failed == failed) {
            return None;
        }
        // It never goes back.
        let end = control.read_up_to(read, &mut cluster.random).max(known.map_or(Offset::ZERO, |known| known.end));
        let handed = Handed { read, end, failed };
        tracing::trace!(client = self.id, now = ?cluster.now, ?handed, "routing");
        let routing = control.routing(&handed);
        control.applied.insert(self.id, control.handed.len());
        control.given.entry(self.id).or_default().push(control.handed.len());
        control.handed.push(handed);
        Some(routing)
    }
}
