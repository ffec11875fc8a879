//! The queues of tenants: which messages of a tenant are next, and what its state is doing.
//!
//! ```text
//!         a message             a job is handed over        the job comes back
//!  Idle ────────────▶ Ready ────────────────────▶ Running ─────────────────────▶ Idle, Ready
//!                       ▲                            │  its first message needs an answer
//!                       │                            ├─────────────────▶ Fetching
//!                       │        the fetch is back ◀─┼────────────────────────┘
//!                       ├────────────────────────────┤  it has to wait for another routing
//!                       │                            └─────────────────▶ Waiting
//!                       │    another routing is taken ◀───────────────────────┘
//!                       └────────────────────────────
//! ```
//!
//! While a job runs, or a fetch, the lane may be rolled back: messages that finished are to run again, or are no longer ours. Then
//! what comes back is dropped, except for the state, whose changes since are dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::fetch::LookupProgress;
use super::message::Message;
use crate::record::{ShardId, Tenant, TenantId};
use crate::state::{Promotion, Version};

/// The queue of one tenant.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) tenant: Arc<Tenant>,
    pub(super) shard: ShardId,
    /// Messages that no job has, in order.
    pub(super) queue: VecDeque<Arc<Message>>,
    /// How far the first of them is with its lookups.
    pub(super) lookups: LookupProgress,
    pub(super) phase: Phase,
    /// The time that its jobs took.
    pub(super) used: Duration,
    /// Its results that no committed transaction contains.
    pub(super) results: usize,
}

/// What a tenant's messages are doing.
#[derive(Debug)]
pub(super) enum Phase {
    /// No message is there, or the next one can be handed over.
    Idle,
    /// A job runs messages.
    Running(Running),
    /// The answers that the first message needs are being fetched. `stale`: the first message may be another one by now.
    Fetching { stale: bool },
    /// The first message has to wait for another routing.
    Waiting,
}

/// A job that an executor has.
#[derive(Debug)]
pub(super) struct Running {
    /// Its messages.
    pub(super) messages: VecDeque<Arc<Message>>,
    /// When it was handed over.
    pub(super) since: Duration,
    /// The version of the state that moved into the job.
    pub(super) before: Version,
    /// What was committed since then.
    pub(super) promotion: Option<Promotion>,
    /// Its results are not used, and the state goes back to this version.
    pub(super) abandoned: Option<Version>,
}

impl Lane {
    fn new(tenant: Arc<Tenant>, shard: ShardId) -> Self {
        let (queue, lookups) = (VecDeque::new(), LookupProgress::default());
        Self { tenant, shard, queue, lookups, phase: Phase::Idle, used: Duration::ZERO, results: 0 }
    }

    /// Whether messages can be handed over.
    fn is_ready(&self) -> bool {
        // Rule: run-tenant-once.
        let may_run = match self.phase {
            Phase::Idle => true,
            Phase::Running(_) => mutated!("tenant-run-twice-at-once"),
            Phase::Fetching { .. } | Phase::Waiting => false,
        };
        may_run && !self.queue.is_empty()
    }

    /// Puts messages before those that are queued.
    pub(super) fn requeue(&mut self, messages: impl DoubleEndedIterator<Item = Arc<Message>>) {
        self.lookups = LookupProgress::default();
        for message in messages.rev() {
            self.queue.push_front(message);
        }
        match &mut self.phase {
            Phase::Fetching { stale } => *stale = true,
            Phase::Waiting => self.phase = Phase::Idle,
            Phase::Idle | Phase::Running(_) => {}
        }
    }
}

/// The queues of all tenants of a worker.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<TenantId, Lane>,
    /// Whose job or fetch has which number.
    out: BTreeMap<u64, TenantId>,
    /// The lanes whose next messages may be handed over, in the order in which they became ready. Some are no longer ready.
    ready: VecDeque<TenantId>,
    /// The number of the last job or fetch.
    last: u64,
    /// A lane that had nothing to do for a while gets no more than its share after that: it counts as if it had used this.
    floor: Duration,
    queued: usize,
    /// The number of lanes that run a job.
    running: usize,
}

impl Lanes {
    /// Adds the next message of a tenant.
    pub(super) fn push(&mut self, tenant: &Arc<Tenant>, shard: ShardId, message: Arc<Message>) {
        if !self.lanes.contains_key(&tenant.id) {
            self.lanes.insert(tenant.id.clone(), Lane::new(Arc::clone(tenant), shard));
        }
        let lane = self.lanes.get_mut(&tenant.id).expect("inserted above when it was missing");
        lane.queue.push_back(message);
        self.queued += 1;
        if lane.queue.len() == 1 && lane.is_ready() {
            self.ready.push_back(tenant.id.clone());
        }
    }

    pub(super) fn get_mut(&mut self, tenant: &TenantId) -> Option<&mut Lane> {
        self.lanes.get_mut(tenant)
    }

    /// Whether a tenant waits: for a lookup, for another routing, or for a job that was handed over before this time.
    pub(super) fn is_waiting(&self, tenant: &TenantId, before: Duration) -> bool {
        self.lanes.get(tenant).is_some_and(|lane| match &lane.phase {
            Phase::Idle => false,
            Phase::Running(running) => running.since < before,
            Phase::Fetching { .. } | Phase::Waiting => true,
        })
    }

    /// How many messages of a tenant wait in its queue.
    pub(super) fn queued_of(&self, tenant: &TenantId) -> usize {
        self.lanes.get(tenant).map_or(0, |lane| lane.queue.len())
    }

    /// The next tenant whose messages can be handed over.
    pub(super) fn next_ready(&mut self) -> Option<TenantId> {
        while let Some(tenant) = self.ready.pop_front() {
            if self.lanes.get(&tenant).is_some_and(Lane::is_ready) {
                return Some(tenant);
            }
        }
        None
    }

    /// Takes up to `most` messages of a tenant for a job, which gets the number. `before`: the version of its state.
    pub(super) fn begin_job(&mut self, tenant: &TenantId, most: usize, before: Version, now: Duration) -> BegunJob {
        self.last += 1;
        let number = self.last;
        let lane = self.lanes.get_mut(tenant).expect("a ready tenant has a lane");
        let messages: VecDeque<_> = lane.queue.drain(..most.min(lane.queue.len())).collect();
        self.queued -= messages.len();
        let lookups = std::mem::take(&mut lane.lookups);
        lane.used = lane.used.max(self.floor);
        self.out.insert(number, tenant.clone());
        let begun = BegunJob { number, messages: messages.clone(), lookups, used: lane.used };
        self.running += 1;
        lane.phase = Phase::Running(Running { messages, since: now, before, promotion: None, abandoned: None });
        begun
    }

    /// A job came back. `None`: the tenant is no longer ours, or was given back meanwhile.
    pub(super) fn end_job(&mut self, number: u64, used: Duration, took: Duration) -> Option<(TenantId, Running)> {
        let tenant = self.out.remove(&number)?;
        let lane = self.lanes.get_mut(&tenant).expect("a job that is out has a lane");
        self.floor = self.floor.max(used.saturating_sub(took));
        lane.used = used;
        match std::mem::replace(&mut lane.phase, Phase::Idle) {
            Phase::Running(running) => {
                self.running -= 1;
                Some((tenant, running))
            }
            phase => unreachable!("job {number} came back while its tenant is {phase:?}"),
        }
    }

    /// The tenant's first message needs answers. Returns the number of the fetch.
    pub(super) fn begin_fetch(&mut self, tenant: &TenantId) -> u64 {
        self.last += 1;
        self.out.insert(self.last, tenant.clone());
        let lane = self.lanes.get_mut(tenant).expect("a tenant whose message waits has a lane");
        lane.phase = Phase::Fetching { stale: false };
        self.last
    }

    /// A fetch came back. Returns its tenant, and whether its answers are for another message than the first one.
    pub(super) fn end_fetch(&mut self, number: u64) -> Option<(TenantId, bool)> {
        let tenant = self.out.remove(&number)?;
        let lane = self.lanes.get_mut(&tenant).expect("a fetch that is out has a lane");
        match std::mem::replace(&mut lane.phase, Phase::Idle) {
            Phase::Fetching { stale } => Some((tenant, stale)),
            phase => unreachable!("fetch {number} came back while its tenant is {phase:?}"),
        }
    }

    /// Puts messages of a tenant before those that are queued.
    pub(super) fn requeue(&mut self, tenant: &TenantId, messages: Vec<Arc<Message>>) {
        self.queued += messages.len();
        let lane = self.lanes.get_mut(tenant).expect("only messages of a lane are put back");
        lane.requeue(messages.into_iter());
        self.settle(tenant);
    }

    /// Removes the tenant's first message.
    pub(super) fn pop(&mut self, tenant: &TenantId) -> Option<Arc<Message>> {
        let lane = self.lanes.get_mut(tenant)?;
        lane.lookups = LookupProgress::default();
        let message = lane.queue.pop_front();
        self.queued -= usize::from(message.is_some());
        message
    }

    /// Looks again what a tenant can do, after something has changed: it is ready, or its lane can go.
    pub(super) fn settle(&mut self, tenant: &TenantId) {
        let Some(lane) = self.lanes.get(tenant) else { return };
        if lane.is_ready() {
            self.ready.push_back(tenant.clone());
        } else if lane.queue.is_empty() && lane.results == 0 && matches!(lane.phase, Phase::Idle) {
            // What it used counts on as the floor does.
            self.lanes.remove(tenant);
        }
    }

    /// Another routing was taken: all that wait for one are ready.
    pub(super) fn wake(&mut self) {
        let waiting = self.lanes.iter_mut().filter(|(_, lane)| matches!(lane.phase, Phase::Waiting));
        for (tenant, lane) in waiting {
            lane.phase = Phase::Idle;
            self.ready.push_back(tenant.clone());
        }
    }

    /// Removes the lanes of shards, and returns them. What comes back for them is dropped.
    pub(super) fn remove(&mut self, shards: &[ShardId]) -> Vec<Lane> {
        let (removed, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.lanes).into_iter().partition(|(_, lane)| shards.contains(&lane.shard));
        self.lanes = kept;
        self.out.retain(|_, tenant| !removed.contains_key(tenant));
        self.queued = self.lanes.values().map(|lane| lane.queue.len()).sum();
        self.running = self.lanes.values().filter(|lane| matches!(lane.phase, Phase::Running(_))).count();
        removed.into_values().collect()
    }

    /// Forgets the queued messages for which `is_dropped` says so.
    pub(super) fn drop_queued(&mut self, is_dropped: impl Fn(&Message) -> bool) {
        for lane in self.lanes.values_mut() {
            let first = lane.queue.front().map(|message| (message.partition, message.offset));
            lane.queue.retain(|message| !is_dropped(message));
            if first != lane.queue.front().map(|message| (message.partition, message.offset)) {
                lane.requeue(std::iter::empty());
            }
        }
        self.queued = self.lanes.values().map(|lane| lane.queue.len()).sum();
        let tenants: Vec<_> = self.lanes.keys().cloned().collect();
        for tenant in tenants {
            self.settle(&tenant);
        }
    }

    /// The tenants with a job that has a message for which `is_lost` says so.
    pub(super) fn running(&self, is_lost: impl Fn(&Message) -> bool) -> Vec<TenantId> {
        let has_lost = |lane: &Lane| match &lane.phase {
            Phase::Running(running) => running.messages.iter().any(|message| is_lost(message)),
            _ => false,
        };
        self.lanes.iter().filter(|(_, lane)| has_lost(lane)).map(|(tenant, _)| tenant.clone()).collect()
    }

    /// The messages that wait in queues.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// How many lanes run a job.
    pub(super) fn running_count(&self) -> usize {
        self.running
    }

    /// How many lanes wait for lookups, and for another routing.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let count = |is: fn(&Phase) -> bool| self.lanes.values().filter(|lane| is(&lane.phase)).count();
        (count(|phase| matches!(phase, Phase::Fetching { .. })), count(|phase| matches!(phase, Phase::Waiting)))
    }

    /// Forgets all, as the worker leaves the group, and returns the tenants. Numbers go on, so that what is out is recognised.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = TenantId> + use<> {
        let Self { lanes, last, floor, .. } = std::mem::take(self);
        *self = Self { last, floor, ..Self::default() };
        lanes.into_keys()
    }
}

/// What a job gets from its lane.
pub(super) struct BegunJob {
    pub(super) number: u64,
    pub(super) messages: VecDeque<Arc<Message>>,
    pub(super) lookups: LookupProgress,
    pub(super) used: Duration,
}
