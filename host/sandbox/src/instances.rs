//! Runs plugins for one worker: the implementation of `Plugins`.
//!
//! `InstancePool` keeps one warm instance a tenant. It replaces the instance
//!
//! * after any outcome but outputs: what the guest left in memory must not reach the next message;
//! * when the tenant's release changes, or the release is gone;
//! * when the pool needs room: the least recently used instances go first.
//!
//! To drop an instance is always safe, because a tenant's state is outside of it. The tenant's log budget stays.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use switchboard_core::record::{Class, Header, Outbound, Tenant, TenantId};
use switchboard_core::routing::{Digest, Release, Routing};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, MigrateError, Outcome, Plugins};
use wasmtime::Store;

use crate::artifact::Artifact;
use crate::bindings::contract::exports::switchboard::plugin::handler;
use crate::bindings::contract::switchboard::plugin::types::{self, HeaderParam, HeaderResult, Message, Rejection};
use crate::guest::{Guest, MessageContext, new_store, refuel};
use crate::guest_log::LogBudget;
use crate::limits::Limits;
use crate::linked::Exports;
use crate::migration::Migration;
use crate::routing_watch::{RoutingSnapshot, RoutingSubscriber, RoutingWatch};
use crate::trap::{OutOfMemory, outcome_of};

/// How many stale instances a worker drops between two transactions. One takes about 20 µs; all at once would be a pause
/// for the other tenants' messages.
const MAX_STALE_DROPS: usize = 16;

/// The wasm instances of one worker: one a tenant, made for its first message.
pub struct InstancePool {
    subscriber: RoutingSubscriber,
    /// The routing that the worker has applied. The worker takes one before its first message.
    snapshot: Arc<RoutingSnapshot>,
    /// Tenants with an instance of a release that the routing no longer contains.
    stale: Vec<TenantId>,
    limits: Limits,
    slots: LruCache<TenantId, TenantSlot>,
    /// Sum of `WasmInstance::grown_bytes`.
    grown_bytes: u64,
}

/// What a worker keeps of one tenant.
struct TenantSlot {
    instance: Option<WasmInstance>,
    budget: LogBudget,
}

struct WasmInstance {
    release: Digest,
    store: Store<Guest>,
    handler: handler::Guest,
    /// Bytes of memory when the instance was new.
    initial_bytes: usize,
    /// By how much they have grown.
    grown_bytes: u64,
}

/// One message's call of a plugin, with everything that the plugin can reach.
struct Invocation<'a> {
    artifact: &'a Artifact,
    call: Call<'a>,
    message: Message<'a>,
    state: &'a mut TenantState,
    answers: &'a Answers,
}

impl InstancePool {
    /// A pool that runs one artifact for all tenants.
    pub fn new(artifact: Arc<Artifact>, limits: Limits) -> Self {
        Self::subscribed(&RoutingWatch::new(RoutingSnapshot::fixed(artifact)), limits)
    }

    /// A pool that runs what the newest routing says.
    pub fn subscribed(watch: &RoutingWatch, limits: Limits) -> Self {
        let capacity = NonZeroUsize::new(limits.warm_instances).unwrap_or(NonZeroUsize::MIN);
        Self {
            subscriber: watch.subscribe(),
            snapshot: watch.newest(),
            stale: Vec::new(),
            limits,
            slots: LruCache::new(capacity),
            grown_bytes: 0,
        }
    }

    /// Number of warm instances.
    pub fn warm(&self) -> usize {
        self.slots.iter().filter(|(_, slot)| slot.instance.is_some()).count()
    }

    fn artifact(&self, release: &Release) -> Arc<Artifact> {
        let artifact = self.snapshot.artifacts.get(&release.digest);
        Arc::clone(artifact.expect("a snapshot contains the artifacts of its ready releases"))
    }

    /// Makes the tenant's slot the most recently used one.
    fn touch(&mut self, tenant: &TenantId) {
        if !self.slots.promote(tenant) {
            let budget = LogBudget::new(self.limits.log_lines_per_second);
            if let Some((_, evicted)) = self.slots.push(tenant.clone(), TenantSlot { instance: None, budget }) {
                self.grown_bytes -= evicted.grown_bytes();
            }
        }
    }

    fn slot(&mut self, tenant: &TenantId) -> &mut TenantSlot {
        self.slots.peek_mut(tenant).expect("`touch` made the slot")
    }

    /// Runs a message. If the machine has no room for its instance, the least recently used instances make room: a
    /// message must not fail for want of memory.
    fn run(&mut self, invocation: &mut Invocation<'_>) -> Outcome {
        let first = self.try_run(invocation);
        let result = first.or_else(|out_of_memory| {
            self.make_room(&out_of_memory);
            invocation.state.reject_message();
            self.try_run(invocation)
        });
        result.unwrap_or_else(|OutOfMemory(letter)| Outcome::Failed(letter))
    }

    fn try_run(&mut self, invocation: &mut Invocation<'_>) -> Result<Outcome, OutOfMemory> {
        let limits = self.limits;
        let slot = self.slot(&invocation.call.tenant.id);
        let before = slot.grown_bytes();
        let outcome = slot.run(&limits, invocation);
        let after = slot.grown_bytes();
        self.grown_bytes = self.grown_bytes + after - before;
        outcome
    }

    fn try_migrate(
        &mut self,
        migration: Migration<'_>,
        state: &mut TenantState,
    ) -> Result<Result<(), MigrateError>, OutOfMemory> {
        let limits = self.limits;
        migration.run(&limits, state, &mut self.slot(migration.tenant).budget)
    }

    fn make_room(&mut self, OutOfMemory(letter): &OutOfMemory) {
        let kept = (self.slots.len() / 2).max(1);
        tracing::warn!(kept, reason = letter.reason, "dropping warm instances: the machine has no memory left");
        while self.slots.len() > kept {
            self.drop_least_recently_used();
        }
    }

    fn drop_least_recently_used(&mut self) {
        if let Some((_, slot)) = self.slots.pop_lru() {
            self.grown_bytes -= slot.grown_bytes();
        }
    }

    fn drop_stale_instances(&mut self) {
        for _ in 0..MAX_STALE_DROPS {
            let Some(tenant) = self.stale.pop() else { break };
            let artifacts = &self.snapshot.artifacts;
            // The tenant may run another release by now.
            if self.slots.peek(&tenant).is_some_and(|slot| slot.is_stale(artifacts)) {
                self.discard(&tenant);
            }
        }
    }
}

impl Plugins for InstancePool {
    fn routing(&mut self) -> Option<Arc<Routing>> {
        self.drop_stale_instances();
        self.snapshot = self.subscriber.take_newest()?;
        let artifacts = &self.snapshot.artifacts;
        let stale = self.slots.iter().filter(|(_, slot)| slot.is_stale(artifacts));
        self.stale = stale.map(|(tenant, _)| tenant.clone()).collect();
        Some(Arc::clone(&self.snapshot.routing))
    }

    fn migrate(
        &mut self,
        release: &Arc<Release>,
        tenant: &Tenant,
        from: u32,
        state: &mut TenantState,
    ) -> Result<(), MigrateError> {
        let artifact = &*self.artifact(release);
        let migration = Migration { artifact, tenant: &tenant.id, from };
        self.touch(&tenant.id);
        let result = self.try_migrate(migration, state).or_else(|out_of_memory| {
            self.make_room(&out_of_memory);
            state.reject_message();
            self.try_migrate(migration, state)
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
        // Kafka's header names are bytes, the contract's are text: what is not UTF-8 is replaced by U+FFFD.
        let names: Vec<_> = call.record.headers.iter().map(|header| String::from_utf8_lossy(header.name)).collect();
        let headers: Vec<_> = call.record.headers.iter().zip(&names).map(header).collect();
        let message = message(&call, &headers);
        let mut invocation = Invocation { artifact, call, message, state, answers };
        self.touch(&call.tenant.id);
        let is_warm = self.slot(&call.tenant.id).instance.is_some();
        let mut outcome = self.run(&mut invocation);
        if is_warm && matches!(&outcome, Outcome::Failed(letter) if letter.class != Class::Deadline) {
            // The memory that earlier messages left behind must not fail a message: a fresh instance decides.
            invocation.state.reject_message();
            outcome = self.run(&mut invocation);
        }
        while self.grown_bytes > self.limits.warm_memory_bytes {
            self.drop_least_recently_used();
        }
        outcome
    }

    fn discard(&mut self, tenant: &TenantId) {
        if let Some(slot) = self.slots.peek_mut(tenant) {
            self.grown_bytes -= slot.grown_bytes();
            slot.instance = None;
        }
    }
}

impl TenantSlot {
    /// Whether the instance's release is none of these.
    fn is_stale(&self, artifacts: &BTreeMap<Digest, Arc<Artifact>>) -> bool {
        self.instance.as_ref().is_some_and(|instance| !artifacts.contains_key(&instance.release))
    }

    fn grown_bytes(&self) -> u64 {
        self.instance.as_ref().map_or(0, |instance| instance.grown_bytes)
    }

    fn run(&mut self, limits: &Limits, invocation: &mut Invocation<'_>) -> Result<Outcome, OutOfMemory> {
        self.instance.take_if(|instance| instance.release != invocation.artifact.digest());
        let instance = match &mut self.instance {
            Some(instance) => instance,
            empty => match WasmInstance::new(limits, invocation, &mut self.budget) {
                Ok(instance) => empty.insert(instance),
                Err(outcome) => return outcome,
            },
        };
        let outcome = instance.call(limits, invocation, &mut self.budget);
        if !matches!(outcome, Ok(Outcome::Outputs(_))) {
            self.instance = None;
        }
        outcome
    }
}

impl WasmInstance {
    /// The error is the outcome of the message that needs the instance.
    fn new(
        limits: &Limits,
        invocation: &Invocation<'_>,
        budget: &mut LogBudget,
    ) -> Result<Self, Result<Outcome, OutOfMemory>> {
        let artifact = invocation.artifact;
        let tenant = invocation.call.tenant.id.clone();
        let guest = Guest::new(Arc::clone(artifact.title()), tenant, *limits, *budget);
        let mut store = new_store(artifact.linked().engine(), guest);
        let exports = artifact.linked().instantiate(&mut store);
        (_, *budget) = store.data_mut().end_call();
        let failed = |error: wasmtime::Error| outcome_of(&error, limits.fuel, store.data().stderr_tail());
        let Exports { handler, .. } = exports.map_err(failed)?;
        let initial_bytes = store.data().limiter.used_bytes();
        Ok(Self { release: artifact.digest(), store, handler, initial_bytes, grown_bytes: 0 })
    }

    fn call(
        &mut self,
        limits: &Limits,
        invocation: &mut Invocation<'_>,
        budget: &mut LogBudget,
    ) -> Result<Outcome, OutOfMemory> {
        let Invocation { call, message, state, answers, .. } = invocation;
        // A store's data outlives the call, so it cannot borrow: the state moves in and out.
        let context =
            MessageContext { answers: answers.clone(), source: call.origin.clone(), timestamp: message.timestamp };
        self.store.data_mut().begin_message(std::mem::take(*state), context, *budget);
        let result =
            refuel(&mut self.store, limits).and_then(|()| self.handler.call_handle(&mut self.store, message.clone()));
        let guest = self.store.data_mut();
        let (lent, left) = guest.end_call();
        *budget = left;
        if let Some(lent) = lent {
            **state = lent;
        }
        self.grown_bytes = (guest.limiter.used_bytes() - self.initial_bytes) as u64;
        match result {
            Ok(Ok(outputs)) => Ok(Outcome::Outputs(outputs.into_iter().map(outbound).collect())),
            Ok(Err(Rejection::Invalid(reason))) => Ok(Outcome::Rejected(reason)),
            Ok(Err(Rejection::UnusableAnswer(reason))) => Ok(Outcome::UnusableAnswer(reason)),
            Err(error) => outcome_of(&error, limits.fuel, guest.stderr_tail()),
        }
    }
}

fn message<'a>(call: &Call<'a>, headers: &'a [HeaderParam<'a>]) -> Message<'a> {
    Message {
        topic: &call.origin.topic,
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
