//! Which release each message had to be handled by: a second implementation of the rules, to judge the worker by.
//!
//! * A tenant waits where its process has not read the control record that last changed its route elsewhere. So its routes
//!   only grow newer.
//! * A job uses the routing that its worker has then. So the results of a transaction may come of several routings, of which
//!   a worker uses none for a tenant after a newer one, nor one that it replaced before it read the message.
//! * The entry in the changelog says what ran. It changes with the first message of a run.
//! * A message of a topic that its tenant's release does not consume waits where its process has read fewer changes of
//!   routes than the process that repartitioned it. Otherwise it is skipped, with one exception: it is a dead letter where
//!   the tenant runs the fallback release and the wanted release consumes the topic.

use std::collections::BTreeMap;
use std::fmt;

use switchboard_core::record::{Class, TenantId};
use switchboard_core::routing::{LastRun, OnFailure};

use super::{Truth, World};
use crate::control::{Control, Handed};
use crate::kafka::ClientId;
use crate::notes::{Action, Note};
use crate::plugins::{Logic, digest, fails, number, trace};

/// What changed a tenant's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Migrated {
        from: u32,
        release: u8,
    },
    /// By the input's id.
    Handled {
        id: usize,
        release: u8,
    },
    /// It became a dead letter. That changes nothing.
    Rejected {
        id: usize,
        release: u8,
        class: Class,
    },
}

#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) steps: Vec<Step>,
    /// The ids of all messages that a release got, also of those that it rejected or that were skipped.
    pub(super) called: Vec<usize>,
    pub(super) ran: Option<LastRun>,
    /// Which of its routings each client used last.
    places: BTreeMap<ClientId, usize>,
    /// The migrations that its state has seen, as the plugin writes them.
    migrations: String,
}

/// What a tenant has to run, and its entry in the changelog then.
struct Decision {
    release: u8,
    ran: LastRun,
    /// The release of its route, where it runs the fallback release instead.
    instead_of: Option<u8>,
}

/// How often tenants changed to another release in committed transactions, and how often they could not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swaps {
    /// Changes from one release to another.
    pub swaps: u64,
    /// Migrations of state.
    pub migrations: u64,
    /// Transactions in which a tenant ran the fallback release.
    pub fallbacks: u64,
    /// Take-overs, also a tenant's first, that were committed before their message.
    pub early_take_overs: u64,
    /// Messages that were skipped: no release that their tenant had to run consumes them.
    pub skipped: u64,
    /// Messages that became dead letters, as their tenant did not run the release that consumes them.
    pub missed: u64,
    /// How often a tenant's messages had to wait for another routing.
    pub waits: u64,
    /// Messages that went directly to their shard.
    pub direct: u64,
    /// Messages that took the hop.
    pub hopped: u64,
}

impl Swaps {
    /// Adds another schedule's.
    pub fn add(&mut self, other: &Self) {
        self.swaps += other.swaps;
        self.migrations += other.migrations;
        self.fallbacks += other.fallbacks;
        self.early_take_overs += other.early_take_overs;
        self.skipped += other.skipped;
        self.missed += other.missed;
        self.waits += other.waits;
        self.direct += other.direct;
        self.hopped += other.hopped;
    }
}

impl fmt::Display for Swaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { swaps, migrations, fallbacks, early_take_overs, skipped, missed, waits, direct, hopped } = self;
        write!(
            f,
            "{swaps} swaps, {migrations} migrations, {early_take_overs} take-overs before their messages, {fallbacks} transactions of a \
             fallback release, {skipped} messages skipped, {missed} for a release that did not run, {waits} waits for routes, {direct} messages directly, {hopped} after a hop"
        )
    }
}

fn decide(
    control: &Control,
    logic: Logic,
    handed: &Handed,
    id: &TenantId,
    ran: Option<LastRun>,
) -> Result<Decision, String> {
    if let Some(LastRun { route: Some(route), .. }) = ran
        && route.offset >= handed.end
    {
        return Err(format!("its route of {} has not been read", route.offset));
    }
    let resolved = control.versions[handed.read - 1].table.resolve(id);
    let (wanted, replaced) = match (resolved.route, control.base) {
        (Some(route), base) => (number(route.release), route.previous.map(number).or(base)),
        (None, Some(base)) => (base, None),
        (None, None) => return Err("it has no route".into()),
    };
    let layout = |release| logic.release(release).manifest.state_version;
    let takes_over = |release| match ran {
        Some(LastRun { state_version, .. }) if state_version != layout(release) => {
            logic.release(release).migrates.contains(&state_version) && !fails(release, id.as_str())
        }
        _ => true,
    };
    let is_loaded = |release| !handed.failed.contains(&release);
    let route = resolved.offset.map(|offset| control.position(offset));
    let now = |release| LastRun { release: digest(release), state_version: layout(release), route };
    if is_loaded(wanted) && takes_over(wanted) {
        return Ok(Decision { release: wanted, ran: now(wanted), instead_of: None });
    }
    if !is_loaded(wanted) && control.on_failure == OnFailure::Stop {
        return Err(format!("release {wanted} is not loaded"));
    }
    let old = ran.map(|ran| number(ran.release)).or(replaced).filter(|old| *old != wanted && is_loaded(*old));
    let old = old.ok_or_else(|| format!("it cannot run release {wanted}, and there is none to stay on"))?;
    Ok(Decision { release: old, ran: ran.unwrap_or_else(|| now(old)), instead_of: Some(wanted) })
}

/// What happened to each tenant, by the notes of committed transactions.
///
/// # Errors
/// What should not have happened.
pub(super) fn history(
    world: &World,
    truth: &Truth<'_>,
    swaps: &mut Swaps,
) -> Result<BTreeMap<TenantId, History>, String> {
    let mut histories: BTreeMap<TenantId, History> = BTreeMap::new();
    let mut known = Known { world, truth, repartitioned: BTreeMap::new() };
    for transaction in world.notes.committed(&world.cluster) {
        let Note { transaction: (client, _), .. } = transaction[0];
        let applied = transaction.iter().filter_map(|note| note.applied).max();
        let mut tenants: BTreeMap<&TenantId, Vec<&Action>> = BTreeMap::new();
        for Note { tenant, action, .. } in transaction {
            if let Action::Repartitioned { origin, read_by } = action {
                let id = truth.find(&world.cluster, origin).ok_or_else(|| format!("there is no input at {origin}"))?;
                let read_by =
                    read_by.ok_or_else(|| format!("input {id} was repartitioned, but not read, by client {client}"))?;
                known.repartitioned.insert(id, &world.control.handed[read_by]);
            }
            if let Some(tenant) = tenant
                && !matches!(action, Action::Settled { release: None, .. })
            {
                tenants.entry(tenant).or_default().push(action);
            }
        }
        for (tenant, actions) in tenants {
            let applied = applied.expect("a worker that runs messages has a routing");
            let history = histories.entry(tenant.clone()).or_default();
            add(&known, (*client, applied), tenant, &actions, history, swaps)
                .map_err(|problem| format!("{tenant}: client {client}: {problem}"))?;
        }
    }
    Ok(histories)
}

/// What a transaction is judged by.
struct Known<'a> {
    world: &'a World,
    truth: &'a Truth<'a>,
    /// By input id: the routing of the process that repartitioned the input, when it read the input.
    repartitioned: BTreeMap<usize, &'a Handed>,
}

/// One way in which a transaction's results of a tenant can have come about. The worker used one of the routings that its
/// process had been handed for each of them, and none twice with a newer one between.
#[derive(Debug, Clone)]
struct Way {
    /// The place of the last routing, among those of the process.
    place: usize,
    ran: Option<LastRun>,
    /// The entries that the changelog got.
    written: Vec<LastRun>,
    steps: Vec<Step>,
    counts: Swaps,
}

/// Adds what a transaction did for a tenant.
fn add(
    known: &Known<'_>,
    (client, applied): (ClientId, usize),
    tenant: &TenantId,
    actions: &[&Action],
    history: &mut History,
    swaps: &mut Swaps,
) -> Result<(), String> {
    let given = &known.world.control.given[&client];
    let last = given.iter().position(|handed| *handed == applied).expect("it was handed over");
    let given = &given[..=last];
    let place = history.places.get(&client).copied().unwrap_or(0);
    let (ran, written) = (history.ran, Vec::new());
    let mut ways = vec![Way { place, ran, written, steps: Vec::new(), counts: Swaps::default() }];
    let mut written = Vec::new();
    let mut migrations = history.migrations.clone();
    let mut called = Vec::new();
    let judge = Judge { known, tenant, given };
    let mut problem = None;
    for action in actions {
        match action {
            Action::LastRun(ran) => written.push(*ran),
            Action::Migrations(all) => migrations.clone_from(all),
            Action::Repartitioned { .. } => return Err("to repartition a record is no tenant's action".into()),
            Action::Settled { origin, .. } => {
                called.push(
                    known
                        .truth
                        .find(&known.world.cluster, origin)
                        .ok_or_else(|| format!("there is no input at {origin}"))?,
                );
                ways = judge.take_over(ways);
                ways = ways.iter().flat_map(|way| judge.settle(way, action, &mut problem)).collect();
                ways = distinct(ways);
            }
        }
    }
    ways = judge.take_over(ways);
    // Of several changes of an entry in one transaction, the changelog needs only the last.
    let fits = |way: &Way| {
        let mut all = way.written.iter();
        judge.migrations(&history.migrations, way) == migrations
            && way.written.last() == written.last()
            && written.iter().all(|entry| all.any(|other| other == entry))
    };
    let found = ways.into_iter().filter(fits).min_by_key(|way| way.written.len());
    let Some(way) = found else {
        let problem = problem.unwrap_or_else(|| format!("its changelog got {written:?} after {ran:?}"));
        return Err(format!("{problem}; with the routings {:?}", judge.all()));
    };
    history.called.extend(called);
    history.steps.extend(way.steps);
    history.ran = way.ran;
    history.migrations = migrations;
    history.places.insert(client, way.place);
    swaps.add(&way.counts);
    swaps.early_take_overs += u64::from(actions.iter().all(|action| !matches!(action, Action::Settled { .. })));
    Ok(())
}

/// Without those that another one makes unnecessary.
fn distinct(ways: Vec<Way>) -> Vec<Way> {
    let mut kept: Vec<Way> = Vec::new();
    for way in ways {
        let migrations = |way: &Way| way.counts.migrations;
        let same = |other: &&mut Way| {
            (other.ran, &other.written, migrations(other)) == (way.ran, &way.written, migrations(&way))
        };
        match kept.iter_mut().find(same) {
            Some(other) if other.place > way.place => *other = way,
            Some(_) => {}
            None => kept.push(way),
        }
    }
    kept
}

/// Judges what a process did for a tenant.
struct Judge<'a> {
    known: &'a Known<'a>,
    tenant: &'a TenantId,
    /// The routings of the process so far: indices of `Control::handed`.
    given: &'a [usize],
}

impl Judge<'_> {
    fn handed(&self, place: usize) -> &Handed {
        &self.known.world.control.handed[self.given[place]]
    }

    /// The migrations that a state has seen after this.
    fn migrations(&self, before: &str, way: &Way) -> String {
        let to = |release| self.known.truth.logic.release(release).manifest.state_version;
        let added = way.steps.iter().filter_map(|step| match *step {
            Step::Migrated { from, release } => Some(trace(from, to(release))),
            _ => None,
        });
        before.to_owned() + &added.collect::<String>()
    }

    fn all(&self) -> Vec<&Handed> {
        (0..self.given.len()).map(|place| self.handed(place)).collect()
    }

    fn decide(&self, way: &Way, place: usize) -> Result<Decision, String> {
        let Known { world, truth, .. } = self.known;
        decide(&world.control, truth.logic, self.handed(place), self.tenant, way.ran)
    }

    /// These ways, and those in which releases take over before anything else happens.
    fn take_over(&self, ways: Vec<Way>) -> Vec<Way> {
        let mut all = ways.clone();
        let mut new = ways;
        // A message may wait in each of several releases. More than three have not been seen.
        for _ in 0..3 {
            let mut next = Vec::new();
            for way in &new {
                for place in way.place..self.given.len() {
                    match self.decide(way, place) {
                        Ok(decision) if way.ran != Some(decision.ran) => next.push(taken_over(way, place, &decision)),
                        _ => {}
                    }
                }
            }
            new = distinct(next);
            all.extend(new.iter().cloned());
        }
        distinct(all)
    }

    /// The ways in which a message can have been settled.
    fn settle(&self, way: &Way, action: &Action, problem: &mut Option<String>) -> Vec<Way> {
        let Action::Settled { taken_by, .. } = action else { unreachable!("asked for messages alone") };
        let read = taken_by.and_then(|taken_by| self.given.iter().position(|handed| *handed == taken_by));
        let mut ways = Vec::new();
        for place in way.place.max(read.unwrap_or(0))..self.given.len() {
            match self.settle_at(way, place, action) {
                Ok(way) => ways.push(way),
                Err(why) => *problem = Some(why),
            }
        }
        ways
    }

    fn settle_at(&self, way: &Way, place: usize, action: &Action) -> Result<Way, String> {
        let Known { world, truth, repartitioned } = self.known;
        let Action::Settled { origin, release, dead, read_by, .. } = action else { unreachable!("as above") };
        let id = truth.find(&world.cluster, origin).ok_or_else(|| format!("there is no input at {origin}"))?;
        let handed = self.handed(place);
        let decision = self.decide(way, place).map_err(|why| format!("input {id} had to wait: {why}"))?;
        let Decision { release: expected, ran, instead_of } = decision;
        if *release != Some(expected) {
            return Err(format!("input {id} was run by release {release:?}, not {expected}"));
        }
        let mut way = if way.ran == Some(ran) { way.clone() } else { taken_over(way, place, &decision) };
        way.place = place;
        let counts = &mut way.counts;
        counts.fallbacks = u64::from(counts.fallbacks > 0 || instead_of.is_some());
        let hopped = repartitioned.contains_key(&id);
        counts.hopped += u64::from(hopped);
        counts.direct += u64::from(!hopped);
        if truth.logic.release(expected).consumes(&origin.topic) {
            way.steps.push(match dead {
                None => Step::Handled { id, release: expected },
                Some(class) => Step::Rejected { id, release: expected, class: *class },
            });
            return Ok(way);
        }
        let directly = read_by.map(|read_by| &world.control.handed[read_by]);
        let earlier = repartitioned.get(&id).copied().or(directly);
        let earlier = earlier.ok_or_else(|| format!("nobody read input {id}"))?;
        // An input that was read again may have been read by newer routes then.
        if world.control.is_ahead(earlier, handed) && !world.again.contains(&id) {
            return Err(format!("input {id} had to wait: it was repartitioned by {earlier:?}"));
        }
        let missed = instead_of.is_some_and(|wanted| truth.logic.release(wanted).consumes(&origin.topic));
        match (missed, dead) {
            (false, None) => counts.skipped += 1,
            (true, Some(Class::Release)) => counts.missed += 1,
            (true, _) => return Err(format!("input {id} was skipped, and release {instead_of:?} consumes it")),
            (false, Some(_)) => {
                return Err(format!(
                    "input {id} is a dead letter, and no release that its tenant had to run consumes it"
                ));
            }
        }
        Ok(way)
    }
}

/// The way in which a release takes over next.
fn taken_over(way: &Way, place: usize, &Decision { release, ran, .. }: &Decision) -> Way {
    let mut next = Way { place, ran: Some(ran), ..way.clone() };
    next.written.push(ran);
    if let Some(from) = way.ran.map(|before| before.state_version).filter(|from| *from != ran.state_version) {
        next.steps.push(Step::Migrated { from, release });
        next.counts.migrations += 1;
    }
    next.counts.swaps += u64::from(way.ran.is_some_and(|before| before.release != ran.release));
    next
}

/// The ids of messages that were skipped, as their tenant's release does not consume their topic.
pub(super) fn skipped(world: &World, truth: &Truth<'_>) -> Vec<usize> {
    let skipped = |note: &Note| match &note.action {
        Action::Settled { origin, release: Some(release), dead: None, .. } => {
            let consumed = truth.logic.release(*release).consumes(&origin.topic);
            truth.find(&world.cluster, origin).filter(|_| !consumed)
        }
        _ => None,
    };
    world.notes.committed(&world.cluster).into_iter().flatten().filter_map(skipped).collect()
}
