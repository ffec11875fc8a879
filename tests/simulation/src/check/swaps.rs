//! Which release each message had to be handled by: a second implementation of the rules, to judge the worker by.
//!
//! * A tenant waits where its process has not read the control record that last changed its route elsewhere. So its routes
//!   only grow newer.
//! * All messages of a transaction use one routing.
//! * The entry in the changelog says what ran. It changes with the first message of a run.
//! * A message of a topic that its tenant's release does not consume waits where its process has read fewer changes of
//!   routes than the process that repartitioned it. Otherwise it is skipped, with one exception: it is a dead letter where
//!   the tenant runs the fallback release and the wanted release consumes the topic.

use std::collections::BTreeMap;
use std::fmt;

use switchboard_core::record::TenantId;
use switchboard_core::routing::{LastRun, OnFailure};

use super::{Truth, World};
use crate::control::{Control, Handed};
use crate::notes::{Action, Note};
use crate::plugins::{Logic, digest, fails, number};

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
}

#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) steps: Vec<Step>,
    /// The ids of all messages that a release got, also of those that it rejected or that were skipped.
    pub(super) called: Vec<usize>,
    pub(super) ran: Option<LastRun>,
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
    /// How often a shard was rewound until another routing.
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
             fallback release, {skipped} messages skipped, {missed} for a release that did not run, {waits} rewinds, {direct} messages directly, {hopped} after a hop"
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
        let Note { transaction: (client, _), applied, .. } = transaction[0];
        if let Some(note) = transaction.iter().find(|note| note.applied != *applied) {
            return Err(format!("client {client}: a transaction by the routings {applied:?} and {:?}", note.applied));
        }
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
            let handed = &world.control.handed[applied.expect("a worker that runs messages has a routing")];
            let history = histories.entry(tenant.clone()).or_default();
            add(&known, handed, tenant, &actions, history, swaps)
                .map_err(|problem| format!("{tenant}: client {client} with the routing {handed:?}: {problem}"))?;
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

/// Adds what a transaction did for a tenant.
fn add(
    Known { world, truth, repartitioned }: &Known<'_>,
    handed: &Handed,
    tenant: &TenantId,
    actions: &[&Action],
    history: &mut History,
    swaps: &mut Swaps,
) -> Result<(), String> {
    let before = history.ran;
    let decision = decide(&world.control, truth.logic, handed, tenant, before);
    let Decision { release: expected, ran, instead_of } = decision.map_err(|why| format!("it had to wait: {why}"))?;
    let mut written = Vec::new();
    if let Some(from) = before.map(|ran| ran.state_version).filter(|from| *from != ran.state_version) {
        history.steps.push(Step::Migrated { from, release: expected });
        swaps.migrations += 1;
    }
    swaps.swaps += u64::from(before.is_some_and(|before| before.release != ran.release));
    swaps.fallbacks += u64::from(instead_of.is_some());
    swaps.early_take_overs += u64::from(actions.iter().all(|action| matches!(action, Action::LastRun(_))));
    for action in actions {
        match action {
            Action::LastRun(ran) => written.push(*ran),
            Action::Repartitioned { .. } => return Err("to repartition a record is no tenant's action".into()),
            Action::Settled { origin, release, dead, read_by } => {
                let id = truth.find(&world.cluster, origin).ok_or_else(|| format!("there is no input at {origin}"))?;
                if *release != Some(expected) {
                    return Err(format!("input {id} was run by release {release:?}, not {expected}"));
                }
                history.called.push(id);
                let hopped = repartitioned.contains_key(&id);
                swaps.hopped += u64::from(hopped);
                swaps.direct += u64::from(!hopped);
                if truth.logic.release(expected).consumes(&origin.topic) {
                    history.steps.extend((!dead).then_some(Step::Handled { id, release: expected }));
                    continue;
                }
                let directly = read_by.map(|read_by| &world.control.handed[read_by]);
                let earlier = repartitioned.get(&id).copied().or(directly);
                let earlier = earlier.ok_or_else(|| format!("nobody read input {id}"))?;
                if world.control.is_ahead(earlier, handed) {
                    return Err(format!("input {id} had to wait: it was repartitioned by {earlier:?}"));
                }
                let missed = instead_of.is_some_and(|wanted| truth.logic.release(wanted).consumes(&origin.topic));
                match (missed, dead) {
                    (false, false) => swaps.skipped += 1,
                    (true, true) => swaps.missed += 1,
                    (true, false) => {
                        return Err(format!("input {id} was skipped, and release {instead_of:?} consumes it"));
                    }
                    (false, true) => {
                        return Err(format!(
                            "input {id} is a dead letter, and no release that its tenant had to run consumes it"
                        ));
                    }
                }
            }
        }
    }
    let wanted: Vec<_> = (before != Some(ran)).then_some(ran).into_iter().collect();
    if written != wanted {
        return Err(format!("its changelog got {written:?}, not {wanted:?}"));
    }
    history.ran = Some(ran);
    Ok(())
}

/// The ids of messages that were skipped, as their tenant's release does not consume their topic.
pub(super) fn skipped(world: &World, truth: &Truth<'_>) -> Vec<usize> {
    let skipped = |note: &Note| match &note.action {
        Action::Settled { origin, release: Some(release), dead: false, .. } => {
            let consumed = truth.logic.release(*release).consumes(&origin.topic);
            truth.find(&world.cluster, origin).filter(|_| !consumed)
        }
        _ => None,
    };
    world.notes.committed(&world.cluster).into_iter().flatten().filter_map(skipped).collect()
}
