use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use switchboard_core::record::{Class, Header, Outbound, Tenant, TenantId};
use switchboard_core::routing::{Digest, Release, Routing};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, MigrateError, Outcome, Plugins};
use wasmtime::{Engine, Store};

use super::artifact::Artifact;
use super::bindings::exports::switchboard::plugin::handler;
use super::bindings::switchboard::plugin::types::{self, HeaderParam, HeaderResult, Message, Rejection};
use super::guest::{self, Guest};
use super::guest_log::LogBudget;
use super::limits::Limits;
use super::linked::Exports;
use super::migration;
use super::trap::{OutOfMemory, judge};
use crate::{RoutingSnapshot, RoutingSubscriber, RoutingWatch};

/// How many instances of releases that are gone a worker drops before it goes on: each takes some 20 µs.
const DROPPED_AT_ONCE: usize = 16;

/// The instances of one worker: one a tenant, made when its first message comes.
pub struct InstancePool {
    follower: RoutingSubscriber,
    /// What the worker goes by: before the first message it has taken one.
    publication: Arc<RoutingSnapshot>,
    /// Tenants whose instances are of releases that are not there any more.
    stale: Vec<TenantId>,
    limits: Limits,
    tenants: LruCache<TenantId, WarmSlot>,
    /// Sum of `WasmInstance::grown`.
    grown: u64,
    dropped_log_lines: u64,
}

/// What a worker keeps of a tenant.
struct WarmSlot {
    instance: Option<WasmInstance>,
    budget: LogBudget,
}

struct WasmInstance {
    release: Digest,
    store: Store<Guest>,
    handler: handler::Guest,
    /// Bytes of memory when it was new.
    initial: usize,
    /// By how much they have grown.
    grown: u64,
}

impl InstancePool {
    /// Of one artifact, for all tenants.
    pub fn new(artifact: Arc<Artifact>, limits: Limits) -> Self {
        Self::following(&RoutingWatch::new(RoutingSnapshot::fixed(artifact)), limits)
    }

    /// Of whatever is on the board.
    pub fn following(board: &RoutingWatch, limits: Limits) -> Self {
        let capacity = NonZeroUsize::new(limits.warm_instances).unwrap_or(NonZeroUsize::MIN);
        Self {
            follower: board.follow(),
            publication: board.newest().1,
            stale: Vec::new(),
            limits,
            tenants: LruCache::new(capacity),
            grown: 0,
            dropped_log_lines: 0,
        }
    }

    /// Number of instances kept.
    pub fn warm(&self) -> usize {
        self.tenants.iter().filter(|(_, slot)| slot.instance.is_some()).count()
    }

    /// Log lines dropped so far for being too many.
    pub fn dropped_log_lines(&self) -> u64 {
        self.dropped_log_lines
    }

    fn artifact(&self, release: &Release) -> Arc<Artifact> {
        let artifact = self.publication.artifacts.get(&release.digest);
        Arc::clone(artifact.expect("a routing's ready releases are published with their artifacts"))
    }

    fn attempt_migration(
        &mut self,
        artifact: &Artifact,
        tenant: &TenantId,
        from: u32,
        state: &mut TenantState,
    ) -> Result<Result<(), MigrateError>, OutOfMemory> {
        let Some(slot) = self.tenants.peek_mut(tenant) else { unreachable!("touched before") };
        let result = migration::migrate(artifact, &self.limits, tenant, from, state, &mut slot.budget);
        self.dropped_log_lines += slot.budget.take_dropped();
        result
    }

    /// The tenant's slot becomes the most recently used one.
    fn touch(&mut self, tenant: &TenantId) {
        if !self.tenants.promote(tenant) {
            let slot = WarmSlot { instance: None, budget: LogBudget::new(self.limits.log_lines) };
            if let Some((_, evicted)) = self.tenants.push(tenant.clone(), slot) {
                self.grown -= evicted.grown();
            }
        }
    }

    /// Runs a message. When the machine has no room for its instance, those that were not used for longest make room:
    /// a message must not fail for it.
    fn run(
        &mut self,
        artifact: &Artifact,
        call: Call<'_>,
        message: Message<'_>,
        state: &mut TenantState,
        answers: &Answers,
    ) -> Outcome {
        match self.attempt(artifact, call, message.clone(), state, answers) {
            Ok(outcome) => outcome,
            Err(shortage) => {
                self.make_room(&shortage);
                state.reject_message();
                let second = self.attempt(artifact, call, message, state, answers);
                second.unwrap_or_else(|OutOfMemory(letter)| Outcome::Failed(letter))
            }
        }
    }

    fn attempt(
        &mut self,
        artifact: &Artifact,
        call: Call<'_>,
        message: Message<'_>,
        state: &mut TenantState,
        answers: &Answers,
    ) -> Result<Outcome, OutOfMemory> {
        let Some(slot) = self.tenants.peek_mut(&call.tenant.id) else { unreachable!("touched before") };
        let before = slot.grown();
        let outcome = slot.run(artifact, &self.limits, call, message, state, answers);
        self.grown = self.grown + slot.grown() - before;
        self.dropped_log_lines += slot.budget.take_dropped();
        outcome
    }

    fn make_room(&mut self, OutOfMemory(letter): &OutOfMemory) {
        let kept = (self.tenants.len() / 2).max(1);
        tracing::warn!(kept, "dropping instances for want of memory: {}", letter.reason);
        while self.tenants.len() > kept {
            self.drop_least_recent();
        }
    }

    fn drop_least_recent(&mut self) {
        if let Some((_, slot)) = self.tenants.pop_lru() {
            self.grown -= slot.grown();
        }
    }
}

impl Plugins for InstancePool {
    fn routing(&mut self) -> Option<Arc<Routing>> {
        // A few at a time, while others' messages wait: all of them would be a pause.
        for _ in 0..DROPPED_AT_ONCE.min(self.stale.len()) {
            let Some(tenant) = self.stale.pop() else { break };
            let artifacts = &self.publication.artifacts;
            if self.tenants.peek(&tenant).is_some_and(|slot| slot.is_stale(artifacts)) {
                self.discard(&tenant);
            }
        }
        self.publication = self.follower.take()?;
        let artifacts = &self.publication.artifacts;
        self.stale =
            self.tenants.iter().filter(|(_, slot)| slot.is_stale(artifacts)).map(|(id, _)| id.clone()).collect();
        Some(Arc::clone(&self.publication.routing))
    }

    fn migrate(
        &mut self,
        release: &Arc<Release>,
        tenant: &Tenant,
        from: u32,
        state: &mut TenantState,
    ) -> Result<(), MigrateError> {
        let artifact = self.artifact(release);
        self.touch(&tenant.id);
        let result = self.attempt_migration(&artifact, &tenant.id, from, state).or_else(|shortage| {
            self.make_room(&shortage);
            state.reject_message();
            self.attempt_migration(&artifact, &tenant.id, from, state)
        });
        result.unwrap_or_else(|OutOfMemory(letter)| Err(MigrateError::Failed(letter)))
    }

    fn handle(
        &mut self,
        release: &Arc<Release>,
        call: Call<'_>,
        state: &mut TenantState,
        answers: &Answers,
    ) -> Outcome {
        let artifact = &*self.artifact(release);
        // The contract's names are text; Kafka's are bytes. What is no text is shown as well as it can be.
        let names: Vec<_> = call.record.headers.iter().map(|header| String::from_utf8_lossy(header.name)).collect();
        let headers: Vec<_> = call.record.headers.iter().zip(&names).map(header).collect();
        let message = message(&call, &headers);
        self.touch(&call.tenant.id);
        let is_warm = self.tenants.peek(&call.tenant.id).is_some_and(|slot| slot.instance.is_some());
        let mut outcome = self.run(artifact, call, message.clone(), state, answers);
        if is_warm && matches!(&outcome, Outcome::Failed(letter) if letter.class != Class::Deadline) {
            // Memory that earlier messages left behind must not be what a message fails for: a fresh instance judges.
            state.reject_message();
            outcome = self.run(artifact, call, message, state, answers);
        }
        while self.grown > self.limits.warm_memory {
            self.drop_least_recent();
        }
        outcome
    }

    fn discard(&mut self, tenant: &TenantId) {
        if let Some(slot) = self.tenants.peek_mut(tenant) {
            self.grown -= slot.grown();
            slot.instance = None;
        }
    }
}

impl WarmSlot {
    /// Whether its instance is of none of these.
    fn is_stale(&self, artifacts: &BTreeMap<Digest, Arc<Artifact>>) -> bool {
        self.instance.as_ref().is_some_and(|instance| !artifacts.contains_key(&instance.release))
    }

    fn grown(&self) -> u64 {
        self.instance.as_ref().map_or(0, |instance| instance.grown)
    }

    fn run(
        &mut self,
        artifact: &Artifact,
        limits: &Limits,
        call: Call<'_>,
        message: Message<'_>,
        state: &mut TenantState,
        answers: &Answers,
    ) -> Result<Outcome, OutOfMemory> {
        self.instance.take_if(|instance| instance.release != artifact.digest());
        let instance = match &mut self.instance {
            Some(instance) => instance,
            empty => match WasmInstance::new(artifact, limits, &call.tenant.id, &mut self.budget) {
                Ok(instance) => empty.insert(instance),
                Err(verdict) => return verdict,
            },
        };
        let outcome = instance.call(limits, call, message, state, answers, &mut self.budget);
        if !matches!(outcome, Ok(Outcome::Outputs(_))) {
            self.instance = None;
        }
        outcome
    }
}

impl WasmInstance {
    /// The error is the verdict on the message that wanted the instance.
    fn new(
        artifact: &Artifact,
        limits: &Limits,
        tenant: &TenantId,
        budget: &mut LogBudget,
    ) -> Result<Self, Result<Outcome, OutOfMemory>> {
        let guest = Guest::new(Arc::clone(&artifact.title), tenant.clone(), *limits, *budget);
        let mut store = new_store(artifact.linked.engine(), guest);
        let exports = artifact.linked.instantiate(&mut store);
        (_, *budget) = store.data_mut().end();
        let Exports { handler, .. } = exports.map_err(|error| judge(&error, limits.fuel, store.data().words()))?;
        let initial = store.data().ledger.used();
        Ok(Self { release: artifact.digest(), store, handler, initial, grown: 0 })
    }

    fn call(
        &mut self,
        limits: &Limits,
        call: Call<'_>,
        message: Message<'_>,
        state: &mut TenantState,
        answers: &Answers,
        budget: &mut LogBudget,
    ) -> Result<Outcome, OutOfMemory> {
        // A store's data outlives the call, so it cannot borrow: the state moves in and out.
        let (answers, source) = (answers.clone(), call.source.clone());
        let lent = guest::Message { answers, source, timestamp: message.timestamp };
        self.store.data_mut().begin(std::mem::take(state), lent, *budget);
        let result = refuel(&mut self.store, limits).and_then(|()| self.handler.call_handle(&mut self.store, message));
        let guest = self.store.data_mut();
        let (lent, left) = guest.end();
        *budget = left;
        if let Some(lent) = lent {
            *state = lent;
        }
        self.grown = (guest.ledger.used() - self.initial) as u64;
        match result {
            Ok(Ok(outputs)) => Ok(Outcome::Outputs(outputs.into_iter().map(outbound).collect())),
            Ok(Err(Rejection::Invalid(reason))) => Ok(Outcome::Rejected(reason)),
            Ok(Err(Rejection::UnusableAnswer(reason))) => Ok(Outcome::UnusableAnswer(reason)),
            Err(error) => judge(&error, limits.fuel, guest.words()),
        }
    }
}

/// A store in which all limits are in force, with fuel and time for one call.
pub(super) fn new_store(engine: &Engine, guest: Guest) -> Store<Guest> {
    let limits = *guest.limits();
    let mut store = Store::new(engine, guest);
    store.limiter(|guest| &mut guest.ledger);
    store.set_hostcall_fuel(limits.host_call);
    store.set_max_component_handles(limits.handles);
    store.epoch_deadline_callback(|mut store| store.data_mut().check_cpu_time());
    refuel(&mut store, &limits).expect("fuel is configured");
    store
}

fn refuel(store: &mut Store<Guest>, limits: &Limits) -> wasmtime::Result<()> {
    store.set_epoch_deadline(1);
    store.set_fuel(limits.fuel)
}

fn message<'a>(call: &Call<'a>, headers: &'a [HeaderParam<'a>]) -> Message<'a> {
    Message {
        topic: &call.source.topic,
        tenant: call.tenant.id.as_str(),
        key: call.record.key.as_deref(),
        value: call.record.value.as_deref(),
        headers,
        timestamp: call.record.timestamp.and_then(|time| time.as_millis().try_into().ok()).unwrap_or(0),
    }
}

fn header<'a>((Header { value, .. }, name): (Header<'a>, &'a Cow<'a, str>)) -> HeaderParam<'a> {
    HeaderParam { name, value }
}

fn outbound(output: types::Outbound) -> Outbound {
    let types::Outbound { topic, key, value, headers } = output;
    let header = |HeaderResult { name, value }| (name, value);
    Outbound { topic, key, value, headers: headers.into_iter().map(header).collect() }
}
