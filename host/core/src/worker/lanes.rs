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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::fetch::LookupProgress;
use super::message::Message;
use super::ports::Partition;
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
    /// Its place among the lanes that are ready.
    place: Option<(Duration, u64)>,
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
        Self { tenant, shard, queue, lookups, phase: Phase::Idle, used: Duration::ZERO, results: 0, place: None }
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

/// What lanes are doing, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Messages in queues.
    pub(super) queued: usize,
    /// Lanes that run a job.
    pub(super) running: usize,
    /// Lanes that wait for a lookup.
    pub(super) fetching: usize,
    /// Lanes that wait for another routing.
    pub(super) waiting: usize,
    /// Messages in the queues of lanes that wait for either.
    pub(super) held_up: usize,
}

impl Tally {
    fn of(lane: &Lane) -> Self {
        let queued = lane.queue.len();
        let lone = Self { queued, ..Self::default() };
        match lane.phase {
            Phase::Idle => lone,
            Phase::Running(_) => Self { running: 1, ..lone },
            Phase::Fetching { .. } => Self { fetching: 1, held_up: queued, ..lone },
            Phase::Waiting => Self { waiting: 1, held_up: queued, ..lone },
        }
    }

    fn add(&mut self, other: Self) {
        self.queued += other.queued;
        self.running += other.running;
        self.fetching += other.fetching;
        self.waiting += other.waiting;
        self.held_up += other.held_up;
    }

    fn subtract(&mut self, other: Self) {
        self.queued -= other.queued;
        self.running -= other.running;
        self.fetching -= other.fetching;
        self.waiting -= other.waiting;
        self.held_up -= other.held_up;
    }
}

/// Of so many tenants whose lanes are gone it is known what they used.
const MOST_RESTING: usize = 1024;

/// The queues of all tenants of a worker.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<TenantId, Lane>,
    /// Whose job or fetch has which number.
    out: BTreeMap<u64, TenantId>,
    /// The lanes whose next messages may be handed over, by what they have used, and by when they became ready. Some are no
    /// longer ready, or gone.
    ready: BTreeSet<(Duration, u64, TenantId)>,
    /// How often a lane became ready.
    turns: u64,
    /// The number of the last job or fetch.
    last: u64,
    /// A lane that had nothing to do for a while gets no more than its share after that: it counts as if it had used this.
    floor: Duration,
    /// What tenants without a lane have used, where that is above the floor.
    resting: BTreeMap<TenantId, Duration>,
    tally: Tally,
}

impl Lanes {
    /// Changes a lane, and the tally with it.
    fn change<T>(&mut self, tenant: &TenantId, change: impl FnOnce(&mut Lane) -> T) -> Option<T> {
        let lane = self.lanes.get_mut(tenant)?;
        self.tally.subtract(Tally::of(lane));
        let changed = change(lane);
        self.tally.add(Tally::of(lane));
        Some(changed)
    }

    /// Adds the next message of a tenant.
    pub(super) fn push(&mut self, tenant: &Arc<Tenant>, shard: ShardId, message: Arc<Message>) {
        if !self.lanes.contains_key(&tenant.id) {
            let mut lane = Lane::new(Arc::clone(tenant), shard);
            lane.used = self.resting.remove(&tenant.id).unwrap_or_default();
            self.lanes.insert(tenant.id.clone(), lane);
        }
        let is_first = self.change(&tenant.id, |lane| {
            lane.queue.push_back(message);
            lane.queue.len() == 1
        });
        if is_first == Some(true) {
            self.settle(&tenant.id);
        }
    }

    /// The lane of a tenant. Its queue and its phase are changed by the functions here only.
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

    /// Where a tenant's first message came from.
    pub(super) fn first_partition(&self, tenant: &TenantId) -> Option<Partition> {
        self.lanes.get(tenant)?.queue.front().map(|message| message.partition)
    }

    /// The tenant that has used the least time of those whose messages can be handed over.
    pub(super) fn next_ready(&mut self) -> Option<TenantId> {
        while let Some((used, turn, tenant)) = self.ready.pop_first() {
            if let Some(lane) = self.lanes.get_mut(&tenant).filter(|lane| lane.place == Some((used, turn))) {
                lane.place = None;
                if lane.is_ready() {
                    return Some(tenant);
                }
            }
        }
        None
    }

    /// Takes up to `most` messages of a tenant for a job, which gets the number. `before`: the version of its state.
    pub(super) fn begin_job(&mut self, tenant: &TenantId, most: usize, before: Version, now: Duration) -> BegunJob {
        self.last += 1;
        let (number, floor) = (self.last, self.floor);
        self.out.insert(number, tenant.clone());
        let begun = self.change(tenant, |lane| {
            let messages: VecDeque<_> = lane.queue.drain(..most.min(lane.queue.len())).collect();
            let lookups = std::mem::take(&mut lane.lookups);
            lane.used = lane.used.max(floor);
            let begun = BegunJob { number, messages: messages.clone(), lookups, used: lane.used };
            lane.phase = Phase::Running(Running { messages, since: now, before, promotion: None, abandoned: None });
            begun
        });
        begun.expect("a ready tenant has a lane")
    }

    /// A job came back. `None`: the tenant is no longer ours, or was given back meanwhile.
    pub(super) fn end_job(&mut self, number: u64, used: Duration, took: Duration) -> Option<(TenantId, Running)> {
        let tenant = self.out.remove(&number)?;
        self.floor = self.floor.max(used.saturating_sub(took));
        let phase = self.change(&tenant, |lane| {
            lane.used = used;
            std::mem::replace(&mut lane.phase, Phase::Idle)
        });
        match phase.expect("a job that is out has a lane") {
            Phase::Running(running) => Some((tenant, running)),
            phase => unreachable!("job {number} came back while its tenant is {phase:?}"),
        }
    }

    /// The tenant's first message needs answers. Returns the number of the fetch.
    pub(super) fn begin_fetch(&mut self, tenant: &TenantId) -> u64 {
        self.last += 1;
        self.out.insert(self.last, tenant.clone());
        let begun = self.change(tenant, |lane| lane.phase = Phase::Fetching { stale: false });
        begun.expect("a tenant whose message waits has a lane");
        self.last
    }

    /// A fetch came back. Returns its tenant, and whether its answers are for another message than the first one.
    pub(super) fn end_fetch(&mut self, number: u64) -> Option<(TenantId, bool)> {
        let tenant = self.out.remove(&number)?;
        let phase = self.change(&tenant, |lane| std::mem::replace(&mut lane.phase, Phase::Idle));
        match phase.expect("a fetch that is out has a lane") {
            Phase::Fetching { stale } => Some((tenant, stale)),
            phase => unreachable!("fetch {number} came back while its tenant is {phase:?}"),
        }
    }

    /// The tenant waits for another routing.
    pub(super) fn wait(&mut self, tenant: &TenantId) {
        self.change(tenant, |lane| lane.phase = Phase::Waiting);
    }

    /// Puts messages of a tenant before those that are queued.
    pub(super) fn requeue(&mut self, tenant: &TenantId, messages: Vec<Arc<Message>>) {
        let changed = self.change(tenant, |lane| lane.requeue(messages.into_iter()));
        changed.expect("only messages of a lane are put back");
        self.settle(tenant);
    }

    /// Puts back what a job left of its messages. `lookups`: how far the first of them is with its lookups.
    pub(super) fn requeue_left(&mut self, tenant: &TenantId, left: Vec<Arc<Message>>, lookups: LookupProgress) {
        if !left.is_empty() {
            self.requeue(tenant, left);
            self.get_mut(tenant).expect("the messages were put back to its lane").lookups = lookups;
        }
    }

    /// Removes the tenant's first message.
    pub(super) fn pop(&mut self, tenant: &TenantId) -> Option<Arc<Message>> {
        let popped = self.change(tenant, |lane| {
            lane.lookups = LookupProgress::default();
            lane.queue.pop_front()
        });
        popped.flatten()
    }

    /// Looks again what a tenant can do, after something has changed: it is ready, or its lane can go.
    pub(super) fn settle(&mut self, tenant: &TenantId) {
        let Some(lane) = self.lanes.get_mut(tenant) else { return };
        if lane.is_ready() {
            // One place at most: with an older one it would be ahead of its turn.
            if let Some((used, turn)) = lane.place.take() {
                self.ready.remove(&(used, turn, tenant.clone()));
            }
            self.turns += 1;
            let place = (lane.used.max(self.floor), self.turns);
            lane.place = Some(place);
            self.ready.insert((place.0, place.1, tenant.clone()));
        } else if lane.queue.is_empty() && lane.results == 0 && matches!(lane.phase, Phase::Idle) {
            let used = lane.used;
            self.lanes.remove(tenant);
            self.rest(tenant, used);
        }
    }

    /// Remembers what a tenant has used: it would have more than its share if it began at the floor after each message.
    fn rest(&mut self, tenant: &TenantId, used: Duration) {
        if used <= self.floor {
            return;
        }
        if self.resting.len() >= MOST_RESTING {
            let floor = self.floor;
            self.resting.retain(|_, used| *used > floor);
        }
        if self.resting.len() < MOST_RESTING {
            self.resting.insert(tenant.clone(), used);
        }
    }

    /// Another routing was taken: all that wait for one are ready.
    pub(super) fn wake(&mut self) {
        if self.tally.waiting == 0 {
            return;
        }
        let waiting = self.lanes.iter().filter(|(_, lane)| matches!(lane.phase, Phase::Waiting));
        let waiting: Vec<_> = waiting.map(|(tenant, _)| tenant.clone()).collect();
        for tenant in waiting {
            self.change(&tenant, |lane| lane.phase = Phase::Idle);
            self.settle(&tenant);
        }
    }

    /// Removes the lanes of shards, and returns them. What comes back for them is dropped.
    pub(super) fn remove(&mut self, shards: &[ShardId]) -> Vec<Lane> {
        let (removed, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.lanes).into_iter().partition(|(_, lane)| shards.contains(&lane.shard));
        self.lanes = kept;
        self.out.retain(|_, tenant| !removed.contains_key(tenant));
        for lane in removed.values() {
            self.tally.subtract(Tally::of(lane));
        }
        removed.into_values().collect()
    }

    /// Forgets the queued messages for which `is_dropped` says so.
    pub(super) fn drop_queued(&mut self, is_dropped: impl Fn(&Message) -> bool) {
        let tenants: Vec<_> = self.lanes.keys().cloned().collect();
        for tenant in tenants {
            self.change(&tenant, |lane| {
                let first = lane.queue.front().map(|message| (message.partition, message.offset));
                lane.queue.retain(|message| !is_dropped(message));
                if first != lane.queue.front().map(|message| (message.partition, message.offset)) {
                    lane.requeue(std::iter::empty());
                }
            });
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

    /// What the lanes are doing.
    pub(super) fn tally(&self) -> Tally {
        self.tally
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
