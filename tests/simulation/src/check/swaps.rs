//! Which release each message was to run on, by the routes that its process went by and by what its tenant ran under
//! before.
//!
//! The rules: a process that has not read the control topic up to the record that last changed the
//! tenant's route elsewhere does not run it, so that routes only ever grow newer; all of a transaction go by one
//! routing; the entry in the changelog says what ran, and changes with the first message. A message of a topic that its
//! tenant's release does not consume is settled unseen only where its process has read as many changes of routes as the one
//! that routed it had when it read it, and where the tenant stays on another release than its route's, that one does not
//! consume the topic either; else it is a dead letter.

use std::collections::BTreeMap;
use std::fmt;

use switchboard_core::record::TenantId;
use switchboard_core::routing::{LastRun, OnFailure};

use super::{Truth, World};
use crate::control::{Control, Handed};
use crate::notes::{Deed, Note};
use crate::plugins::{Logic, digest, fails, number};

/// What was to change a tenant's state, in order.
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
    /// All messages that came to a release, also those rejected and those that it does not consume: by ids.
    pub(super) called: Vec<usize>,
    pub(super) ran: Option<LastRun>,
}

/// What a tenant is to run, and its entry in the changelog from then on.
struct Decision {
    release: u8,
    ran: LastRun,
    /// The release of its route, when it is not that.
    instead_of: Option<u8>,
}

/// How often tenants changed over, in what was committed, and did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swaps {
    /// From one release to another.
    pub swaps: u64,
    /// With state of another layout.
    pub migrations: u64,
    /// Transactions in which a tenant stayed on a release that is not its route's.
    pub stays: u64,
    /// Entries, also a tenant's first, that were committed before their message, which waited for an answer.
    pub ahead: u64,
    /// Messages settled unseen: no release that their tenant was to run consumes them.
    pub left_out: u64,
    /// Messages that became dead letters since their tenant did not run the release that consumes them.
    pub missed: u64,
    /// Messages put back until another routing.
    pub waits: u64,
}

impl Swaps {
    /// Adds another schedule's.
    pub fn add(&mut self, other: &Self) {
        self.swaps += other.swaps;
        self.migrations += other.migrations;
        self.stays += other.stays;
        self.ahead += other.ahead;
        self.left_out += other.left_out;
        self.missed += other.missed;
        self.waits += other.waits;
    }
}

impl fmt::Display for Swaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { swaps, migrations, stays, ahead, left_out, missed, waits } = self;
        write!(
            f,
            "{swaps} swaps, {migrations} migrations, {ahead} take-overs before their messages, {stays} transactions on an \
             older release, {left_out} messages settled unseen, {missed} for a release that did not run, {waits} put back"
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

/// What was done to each tenant, from the notes of committed transactions.
///
/// # Errors
/// What was not to be.
pub(super) fn history(
    world: &World,
    truth: &Truth<'_>,
    swaps: &mut Swaps,
) -> Result<BTreeMap<TenantId, History>, String> {
    let mut histories: BTreeMap<TenantId, History> = BTreeMap::new();
    let mut known = Known { world, truth, routed: BTreeMap::new() };
    for transaction in world.notes.committed(&world.cluster) {
        let Note { transaction: (client, _), applied, .. } = transaction[0];
        if let Some(note) = transaction.iter().find(|note| note.applied != *applied) {
            return Err(format!("client {client}: a transaction by the routings {applied:?} and {:?}", note.applied));
        }
        let mut tenants: BTreeMap<&TenantId, Vec<&Deed>> = BTreeMap::new();
        for Note { tenant, deed, .. } in transaction {
            if let Deed::Repartitioned { source, read_by } = deed {
                let id = truth.find(&world.cluster, source).ok_or_else(|| format!("there is no input at {source}"))?;
                let read_by = read_by.ok_or_else(|| format!("input {id} was routed unread by client {client}"))?;
                known.routed.insert(id, &world.control.handed[read_by]);
            }
            if let Some(tenant) = tenant
                && !matches!(deed, Deed::Settled { release: None, .. })
            {
                tenants.entry(tenant).or_default().push(deed);
            }
        }
        for (tenant, deeds) in tenants {
            let handed = &world.control.handed[applied.expect("a worker that runs messages has a routing")];
            let history = histories.entry(tenant.clone()).or_default();
            add(&known, handed, tenant, &deeds, history, swaps)
                .map_err(|problem| format!("{tenant}: client {client}, that goes by {handed:?}: {problem}"))?;
        }
    }
    Ok(histories)
}

/// What a transaction is judged by.
struct Known<'a> {
    world: &'a World,
    truth: &'a Truth<'a>,
    /// What the routers of inputs went by when they read them, by ids.
    routed: BTreeMap<usize, &'a Handed>,
}

/// Adds what a transaction did to a tenant.
fn add(
    Known { world, truth, routed }: &Known<'_>,
    handed: &Handed,
    tenant: &TenantId,
    deeds: &[&Deed],
    history: &mut History,
    swaps: &mut Swaps,
) -> Result<(), String> {
    let before = history.ran;
    let decision = decide(&world.control, truth.logic, handed, tenant, before);
    let Decision { release: expected, ran, instead_of } = decision.map_err(|why| format!("it was to wait: {why}"))?;
    let mut written = Vec::new();
    if let Some(from) = before.map(|ran| ran.state_version).filter(|from| *from != ran.state_version) {
        history.steps.push(Step::Migrated { from, release: expected });
        swaps.migrations += 1;
    }
    swaps.swaps += u64::from(before.is_some_and(|before| before.release != ran.release));
    swaps.stays += u64::from(instead_of.is_some());
    swaps.ahead += u64::from(deeds.iter().all(|deed| matches!(deed, Deed::LastRun(_))));
    for deed in deeds {
        match deed {
            Deed::LastRun(ran) => written.push(*ran),
            Deed::Repartitioned { .. } => return Err("to route a message is no tenant's deed".into()),
            Deed::Settled { source, release, dead } => {
                let id = truth.find(&world.cluster, source).ok_or_else(|| format!("there is no input at {source}"))?;
                if *release != Some(expected) {
                    return Err(format!("input {id} was run by release {release:?}, not {expected}"));
                }
                history.called.push(id);
                if truth.logic.release(expected).consumes(&source.topic) {
                    history.steps.extend((!dead).then_some(Step::Handled { id, release: expected }));
                    continue;
                }
                let router = routed.get(&id).ok_or_else(|| format!("input {id} was not routed"))?;
                if world.control.is_ahead(router, handed) {
                    return Err(format!("input {id} was to wait: its router went by {router:?}"));
                }
                let missed = instead_of.is_some_and(|wanted| truth.logic.release(wanted).consumes(&source.topic));
                match (missed, dead) {
                    (false, false) => swaps.left_out += 1,
                    (true, true) => swaps.missed += 1,
                    (true, false) => {
                        return Err(format!("input {id} was settled unseen, and release {instead_of:?} consumes it"));
                    }
                    (false, true) => return Err(format!("input {id} is a dead letter, and no release was to have it")),
                }
            }
        }
    }
    let wanted: Vec<_> = (before != Some(ran)).then_some(ran).into_iter().collect();
    if written != wanted {
        return Err(format!("its changelog was told {written:?}, not {wanted:?}"));
    }
    history.ran = Some(ran);
    Ok(())
}

/// The messages that were settled without a trace, since the tenant's release does not consume their topic: by ids.
pub(super) fn left_out(world: &World, truth: &Truth<'_>) -> Vec<usize> {
    let left_out = |note: &Note| match &note.deed {
        Deed::Settled { source, release: Some(release), dead: false } => {
            let consumed = truth.logic.release(*release).consumes(&source.topic);
            truth.find(&world.cluster, source).filter(|_| !consumed)
        }
        _ => None,
    };
    world.notes.committed(&world.cluster).into_iter().flatten().filter_map(left_out).collect()
}
