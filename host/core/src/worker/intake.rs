//! What a worker takes in: events of the group, and records as far as there is room for them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::config::BatchLimits;
use super::executors::Executors;
use super::message::{Decoder, Disposition};
use super::observer::Observer;
use super::paths::{NEAR, Released};
use super::plugins::Plugins;
use super::ports::{Broker, Consumed, Event, Partition};
use super::results::Finished;
use super::step::{FatalError, IDLE_WAIT, Next, Standing, Worker};
use crate::record::{Barrier, ShardId, TenantId};

/// How long a worker waits for events while a restore is under way.
const RESTORE_WAIT: Duration = Duration::from_millis(1);
/// How long a worker without room does not look for events, while nothing is settled. The group may have an event that is
/// the reason for that, and without the event there would never be room again.
const FULL_WAIT: Duration = Duration::from_millis(100);
/// The most records that are taken in before their jobs are handed over.
const BURST: usize = 256;
/// A tenant whose job takes longer counts as waiting. Others should not wait behind its messages.
const SLOW_JOB: Duration = Duration::from_millis(100);
/// So many messages of a tenant that waits may queue, however little room there is.
const QUEUED_WHILE_WAITING: usize = 64;

/// Whether the consumer is polled.
///
/// ```text
///          no room              nothing settled for FULL_WAIT, or failing
///  Open ─────────────▶ Full ────────────────────────────────────▶ Paused
///    ▲                  │                                           │
///    └── room again ◀───┴───────────────────────────────────────────┘
/// ```
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intake {
    /// It is. `quiet`: it had nothing when it was polled last.
    #[default]
    Open,
    /// It had nothing when it was polled last.
    Quiet,
    /// It is not: there is no room for another record since this time.
    Full(Duration),
    /// All partitions are paused, and it is polled for events of the group.
    Paused,
}

impl<B: Broker, P: Plugins, E: Executors<P::Runner>, O: Observer> Worker<B, P, E, O> {
    /// Takes in what the consumer has. Records in memory are bounded in number and bytes.
    pub(super) fn take_events(&mut self) -> Result<(), FatalError> {
        if !self.make_ready_to_poll() {
            return Ok(());
        }
        let mut wait = self.longest_wait();
        for _ in 0..BURST {
            if self.intake != Intake::Paused && !self.has_room() {
                return Ok(());
            }
            let event = self.broker.poll(wait);
            if !self.take_event(event)? {
                return Ok(());
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// How long to wait for an event.
    fn longest_wait(&mut self) -> Duration {
        let idle = if self.assignment.is_busy() || self.needs_producer { RESTORE_WAIT } else { IDLE_WAIT };
        self.until_commit().map_or(idle, |left| left.min(idle))
    }

    /// Whether there is room for another record.
    fn has_room(&self) -> bool {
        !self.fills(1, 1)
    }

    /// Whether the records in memory take this part of the room.
    fn fills(&self, part: usize, of: usize) -> bool {
        let BatchLimits { records, bytes, .. } = self.config.batch;
        self.memory.records() * of >= 2 * records * part || self.memory.bytes() * of >= 2 * bytes * part
    }

    /// Holds a partition back whose last record belongs to a tenant that waits, or is slow, if such records take too much room:
    /// others would have none.
    fn hold_back(&mut self, partition: Partition, tenant: &TenantId) {
        let is_much = self.lanes.queued_of(tenant) > QUEUED_WHILE_WAITING;
        // Many tenants that wait may have few messages each.
        let are_many = 2 * self.lanes.tally().held_up >= self.memory.records();
        if !self.fills(1, 2) || !(is_much || are_many) || self.held.contains_key(&partition) {
            return;
        }
        let slow = self.broker.now().saturating_sub(SLOW_JOB);
        if self.lanes.is_waiting(tenant, slow) {
            tracing::debug!(?partition, %tenant, "a partition is held back while a tenant waits");
            self.held.insert(partition, tenant.clone());
            self.hold_alone(partition);
        }
    }

    /// A tenant waits from now on. Its messages may all have arrived before.
    pub(super) fn hold_back_of(&mut self, tenant: &TenantId) {
        if let Some(partition) = self.lanes.first_partition(tenant) {
            self.hold_back(partition, tenant);
        }
    }

    /// Stops reading a partition. An attempt to open direct paths to it would hold up its sources in vain.
    fn hold_alone(&mut self, partition: Partition) {
        self.broker.pause(&[partition]);
        if let Partition::Shard(shard) = partition {
            self.paths.leave_out(shard);
        }
    }

    /// Goes on with partitions whose tenants have few messages left, or if there is much room.
    pub(super) fn let_go(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let has_room = !self.fills(1, 4);
        let goes_on = |tenant: &TenantId| {
            has_room
                || self.lanes.queued_of(tenant) <= QUEUED_WHILE_WAITING / 2
                    && !self.lanes.is_waiting(tenant, Duration::ZERO)
        };
        let partitions: Vec<_> =
            self.held.iter().filter(|(_, tenant)| goes_on(tenant)).map(|(partition, _)| *partition).collect();
        self.held.retain(|partition, _| !partitions.contains(partition));
        self.resume(partitions);
    }

    /// Whether the consumer is to be polled.
    fn make_ready_to_poll(&mut self) -> bool {
        if self.has_room() {
            let was_paused = self.intake == Intake::Paused;
            if !matches!(self.intake, Intake::Quiet) {
                self.intake = Intake::Open;
            }
            if was_paused {
                let reading = self.assignment.reading();
                self.resume(reading);
            }
            return true;
        }
        let now = self.broker.now();
        match self.intake {
            Intake::Open | Intake::Quiet => self.intake = Intake::Full(now),
            Intake::Full(since) if self.is_failing() || now.saturating_sub(since) >= FULL_WAIT => {
                self.intake = Intake::Paused;
                self.broker.pause(&self.assignment.reading());
            }
            Intake::Full(_) | Intake::Paused => {}
        }
        self.intake == Intake::Paused
    }

    /// Something was settled, so a full intake waits on.
    pub(super) fn progressed(&mut self) {
        if let Intake::Full(since) = &mut self.intake {
            *since = self.broker.now();
        }
    }

    /// When to step again, as nothing is to be committed now.
    pub(super) fn next_without_commit(&self) -> Next {
        // The consumer is not polled, so nobody waits there for executors.
        if let Intake::Full(_) = self.intake { Next::After(RESTORE_WAIT) } else { Next::Now }
    }

    /// Goes on with the records of partitions that nothing else holds back.
    pub(super) fn resume(&mut self, mut partitions: Vec<Partition>) {
        if self.intake == Intake::Paused {
            return;
        }
        partitions.retain(|partition| {
            let is_held = self.paths.holds(*partition) || self.held.contains_key(partition);
            !is_held && !self.assignment.is_full(*partition) && self.assignment.takes(*partition)
        });
        if !partitions.is_empty() {
            self.broker.resume(&partitions);
        }
    }

    /// Takes in one event. Returns whether to poll for another one.
    fn take_event(&mut self, event: Event) -> Result<bool, FatalError> {
        match event {
            Event::Nothing => {
                if self.intake == Intake::Open {
                    self.intake = Intake::Quiet;
                }
                return Ok(false);
            }
            Event::Fenced(why) => return Err(FatalError::Fenced(why)),
            Event::Record(consumed) if self.assignment.takes(consumed.partition) => {
                if self.intake == Intake::Paused {
                    // It was on its way before the pause, or its partition was resumed after it.
                    self.broker.pause(&[consumed.partition]);
                } else {
                    self.intake = Intake::Open;
                }
                // Rule: hold-back-to-open.
                // Rule: bound-held-records-apart.
                if self.paths.holds(consumed.partition) {
                    self.paths.hold(consumed);
                } else {
                    self.take_record(consumed);
                }
            }
            Event::Record(Consumed { partition, offset, .. }) => {
                // A skipped record would be lost.
                self.break_off(format!("a record at offset {offset} of {partition:?}, which is not being read"));
                return Ok(false);
            }
            Event::Assigned(shards) => {
                if !shards.is_empty() {
                    tracing::info!(count = shards.len(), "shards assigned");
                }
                // Another rebalance may follow at once. It is taken in before any of these shards is read.
                self.assignment.assigned(shards, &mut self.broker);
            }
            Event::Revoked(shards) => {
                #[cfg(feature = "mutations")]
                if mutated!("revocation-answered-before-the-commit") {
                    self.broker.give_back(&shards);
                }
                // This member is still live, so what is finished can be committed.
                self.commit_before_revocation()?;
                if self.standing == Standing::Member {
                    self.give_back(&shards);
                }
                return Ok(false);
            }
            Event::Lost(shards) => {
                self.give_back(&shards);
                return Ok(false);
            }
            Event::Failed(why) => {
                self.break_off(why.text);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes in a record.
    fn take_record(&mut self, consumed: Consumed) {
        let (partition, offset) = (consumed.partition, consumed.offset);
        if self.assignment.is_full(partition) {
            // It was held back with the one that had no room, and comes again behind it.
            return;
        }
        if !self.assignment.has_room_for(partition, offset) {
            let now = self.broker.now();
            let message = "a partition is paused: too many of its records are settled beyond one that is not, whose tenant waits or \
                           is slow";
            if self.full_warnings.is_due(now, message, &format!("{partition:?}")) {
                tracing::warn!(?partition, offset = offset.get(), "{message}");
            }
            self.hold_alone(partition);
            self.broker.seek(partition, offset);
            return;
        }
        if let Partition::Shard(shard) = partition
            && let Some(barrier) = Barrier::from_record(&consumed.record)
        {
            self.paths.read(shard, barrier);
        }
        let positions = self.assignment.positions(partition).expect("its records are taken");
        // Rule: skip-finished-beyond-offset.
        if !positions.read(offset) {
            return;
        }
        let (paths, assignment) = (&self.paths, &self.assignment);
        let decoder = Decoder {
            aliases: &self.aliases,
            routes: self.releases.routes_changed(),
            shards: self.config.shards,
            tenants: &mut self.tenants,
            memory: &self.memory,
            is_direct: |source, shard| paths.is_open(source, shard) && assignment.takes(Partition::Shard(shard)),
        };
        let (message, disposition) = decoder.decode(consumed);
        if let Partition::Source { .. } = partition {
            match disposition {
                Disposition::Process { .. } => self.load.direct += 1,
                Disposition::Repartition { .. } => self.load.repartitioned += 1,
                _ => {}
            }
        }
        match disposition {
            Disposition::Process { tenant, shard } => {
                self.lanes.push(&tenant, shard, message);
                self.hold_back(partition, &tenant.id);
            }
            other => self.results.push(Finished::unhandled(message, other, self.broker.now())),
        }
    }

    /// Forgets all about shards that are no longer ours, and about the source partitions that are anchored to them. No
    /// transaction is open here, so everything that was done for them is committed or aborted.
    fn give_back(&mut self, shards: &[ShardId]) {
        tracing::info!(count = shards.len(), "shards revoked");
        let sources = self.assignment.sources_of(shards, self.config.shards);
        // Rule: close-path-on-loss.
        if !mutated!("direct-paths-survive-a-revocation") {
            self.paths.close(&sources, shards);
        }
        // The sources of other shards stay. Their records for these shards take the hop, before any later one does.
        self.redirect(shards);
        let mut lost: BTreeSet<_> = shards.iter().copied().map(Partition::Shard).collect();
        if !mutated!("keep-records-of-revoked-partitions") {
            lost.extend(sources.iter().copied());
        }
        self.forget(&lost);
        // Rule: answer-revocation-between-transactions.
        self.assignment.give_back(shards, &sources, &mut self.broker);
        if !mutated!("decision-remembered-over-a-move") {
            self.releases.forget_all();
        }
        self.observer.rerouted();
        // Those that wait for a routing try again, which reports that they wait.
        self.lanes.wake();
    }

    /// Ends an attempt to open direct paths, and begins another one if that is due.
    pub(super) fn open_paths(&mut self) {
        let now = self.broker.now();
        if let Some(released) = self.paths.end(now) {
            self.release(released);
        }
        // Rule: write-barrier-after-takeover.
        let sources = self.assignment.reading_sources();
        let mut shards = self.assignment.ready_shards();
        if self.paths.open_count() == sources.len() * shards.len() {
            return;
        }
        // The barrier of a shard that is not read on would not be read back.
        shards.retain(|(shard, _)| {
            let partition = Partition::Shard(*shard);
            !self.held.contains_key(&partition) && !self.assignment.is_full(partition)
        });
        let closed = self.paths.closed(&sources, &shards.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), now);
        if closed.is_empty() || self.intake == Intake::Paused {
            return;
        }
        let broker = &mut self.broker;
        // Rule: start-attempt-when-near.
        let mut near = Vec::new();
        for (shard, read) in shards.into_iter().filter(|(shard, _)| closed.contains(shard)) {
            // A question without an answer takes long, and others would get none either.
            let Ok(bounds) = broker.log_bounds(Partition::Shard(shard)) else { break };
            if bounds.end.get() - read.get() <= NEAR {
                near.push(shard);
            }
        }
        let now = broker.now();
        if near.is_empty() || mutated!("direct-paths-never-open") {
            self.paths.postpone(now);
            return;
        }
        // Rule: hold-back-to-open.
        let held = self.paths.begin(&sources, near, now);
        self.broker.pause(&held);
    }

    /// Takes in what was held back while paths opened.
    fn release(&mut self, Released { sources, records }: Released) {
        // Rule: hold-back-to-open.
        for consumed in records {
            self.take_record(consumed);
        }
        self.resume(sources);
        tracing::info!(open = self.paths.open_count(), "direct paths");
    }
}
