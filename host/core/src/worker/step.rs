//! `Worker::step`: events, restores, one transaction, and what follows from its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::assignment::Assignment;
use super::config::{BatchLimits, WorkerConfig};
use super::fault::{Cause, Fault};
use super::handle::{Handled, Handler};
use super::inbox::{Disposition, Inbox, Pending};
use super::lookups::Lookups;
use super::observer::Observer;
use super::paths::{NEAR, Paths, Released};
use super::plugins::Plugins;
use super::ports::{Broker, Consumed, Destination, Event, Partition, Producer};
use super::releases::Releases;
use super::resolve_lookups::answer;
use super::throttled_warn::ThrottledWarn;
use super::transaction::{Failure, Receipt, Transaction, again};
use crate::record::{Barrier, Offset, Record, ShardId, Tenants};
use crate::routing::Routing;
use crate::state::Shard;

/// How long an idle worker waits for events before it returns to its driver.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// How long a worker waits for events while a restore is under way.
const RESTORE_WAIT: Duration = Duration::from_millis(1);
/// The pause before a failed batch runs again. Each failure doubles it, up to the longest.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(10);
/// The longest pause before a failed batch runs again.
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// When to call `step` again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once.
    Now,
    /// After a pause, because something failed or nothing is to be done.
    After(Duration),
}

/// Why a worker cannot go on. Nothing is lost: what is not committed is read again by the next owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatalError {
    /// Another process has this process instance's identity.
    #[error(
        "another process took over this instance's identity ({0}). Two processes with the same instance id fence each \
         other: give each its own (--instance)"
    )]
    Fenced(Cause),
    /// The dead-letter topic refused a record that had to be settled.
    #[error("the dead-letter topic refuses even a record without key and value, so nothing can be settled: {0}")]
    DeadLettersRefused(Cause),
}

/// One worker: one member of the group with the shards assigned to it, the source partitions anchored to them, and one
/// transactional producer.
pub struct Worker<B, P, L, O = ()> {
    config: WorkerConfig,
    broker: B,
    plugins: P,
    lookups: L,
    observer: O,
    releases: Releases,
    /// Aliases of all topics consumed so far; `Partition::Source` has their indices.
    aliases: Vec<Arc<str>>,
    /// The aliases consumed now. `None`: no routing has been taken yet.
    consumed: Option<Vec<Arc<str>>>,
    /// Whether the worker is a member of the group, or becomes one.
    joined: bool,
    assignment: Assignment,
    /// `Assignment::describe`, as it was logged last.
    owns: String,
    tenants: Tenants,
    inbox: Inbox,
    paths: Paths,
    /// The most records of the next transaction. Halved after a time-out or a refusal, doubled after a commit.
    batch_size: usize,
    /// The next transaction needs a new producer.
    renew_producer: bool,
    /// Why everything has to start again from what is committed.
    restart: Option<String>,
    /// All partitions are paused, so that events of the group arrive though there is no room for records.
    paused: bool,
    /// The next pause after a failure.
    backoff: Duration,
    warnings: ThrottledWarn,
}

/// What a transaction did with the records at the front of the inbox.
#[derive(Default)]
struct Batch {
    /// How many records it handled.
    done: usize,
    /// Shards whose state it may have changed.
    shards: BTreeSet<ShardId>,
    /// The shard of the next record, where that record's tenant has to wait for another routing.
    waits: Option<ShardId>,
    /// The barriers that it wrote.
    barriers: Vec<(ShardId, Barrier)>,
}

/// A batch whose transaction is committed, with the offsets that were committed.
type Committed = (Batch, Receipt, BTreeMap<Partition, Offset>);

impl<B: Broker, P: Plugins, L: Lookups, O: Observer> Worker<B, P, L, O> {
    /// A worker that has not joined its group yet. `incarnation`: a number that no other run of a worker of the application
    /// has. It names the worker's barriers.
    pub fn new(config: WorkerConfig, incarnation: u64, broker: B, plugins: P, lookups: L, observer: O) -> Self {
        Self {
            batch_size: config.batch.records,
            paths: Paths::new(incarnation),
            tenants: Tenants::new(config.tenants.clone()),
            config,
            broker,
            plugins,
            lookups,
            observer,
            releases: Releases::default(),
            aliases: Vec::new(),
            consumed: None,
            joined: false,
            assignment: Assignment::default(),
            owns: String::new(),
            inbox: Inbox::default(),
            renew_producer: true,
            restart: None,
            paused: false,
            backoff: SHORTEST_BACKOFF,
            warnings: ThrottledWarn::default(),
        }
    }

    /// One bounded piece of work. No transaction is open when it returns.
    ///
    /// # Errors
    /// When this worker can never go on.
    pub fn step(&mut self) -> Result<Next, FatalError> {
        if let Some(why) = self.restart.take() {
            return Ok(self.start_again(&why));
        }
        // Without a routing the worker does not know which topics its shards bring.
        if self.consumed.is_none() && !self.take_routing() {
            return Ok(Next::After(IDLE_WAIT));
        }
        if !self.joined
            && let Some(next) = self.join()?
        {
            return Ok(next);
        }
        self.take_events()?;
        if self.restart.is_some() {
            return Ok(Next::Now);
        }
        // As late as possible: a message that was sent after a change of routes must not be handled by the old routes.
        self.take_routing();
        // Before any partition is taken over. A dead predecessor, or this worker before a restart, may have left a
        // transaction open. Stable offsets would wait for it, and the new epoch ends it.
        let no_producer = if self.renew_producer { self.new_producer()? } else { None };
        self.follow_sources();
        self.assignment.advance(&self.config, &mut self.broker);
        if let Some(next) = no_producer {
            return Ok(next);
        }
        self.open_paths();
        let barriers = self.paths.barriers(|sources| self.inbox.has_hop_of(sources));
        let unsaved = self.assignment.unsaved(self.broker.now());
        if self.inbox.is_empty() && barriers.is_empty() && unsaved.is_empty() {
            return Ok(Next::Now);
        }
        if let Some(head) = self.inbox.queue().front_mut() {
            answer(head, &self.config, &mut self.lookups, || self.broker.now());
        }
        if self.broker.producer_is_suspect()
            && !mutated!("no-new-epoch-after-doubt")
            && let Some(next) = self.new_producer()?
        {
            return Ok(next);
        }
        match self.run(barriers, &unsaved) {
            Ok((batch, receipt, offsets)) => {
                self.settle(&batch, &receipt, &offsets);
                if let Some(shard) = batch.waits {
                    self.rewind(shard);
                }
                Ok(Next::Now)
            }
            Err((batch, failure)) => self.undo(&batch, failure),
        }
    }

    /// The next routing, if there is another one.
    fn next_routing(&mut self) -> Option<Arc<Routing>> {
        let next = self.plugins.routing();
        #[cfg(feature = "mutations")]
        let next = next.or(self.releases.taken_early());
        next
    }

    /// Takes the next routing, if there is one. From here on it says which release handles a message. No transaction is
    /// open.
    fn take_routing(&mut self) -> bool {
        let Some(routing) = self.next_routing() else { return false };
        let consumed = routing.consumed();
        for alias in consumed {
            if !self.aliases.contains(alias) {
                self.aliases.push(Arc::clone(alias));
            }
        }
        if self.consumed.as_deref() != Some(consumed) {
            let index = |alias| self.aliases.iter().position(|known| known == alias).expect("it was added above");
            let topics: Vec<_> = consumed.iter().map(index).collect();
            self.broker.consume(&self.aliases, &topics);
            self.assignment.consume(&topics);
            self.consumed = Some(consumed.to_vec());
        }
        self.releases.take(routing);
        self.observer.rerouted();
        self.assignment.wake(&mut self.broker);
        true
    }

    /// Becomes a member of the group. Returns when to try again, if that failed.
    fn join(&mut self) -> Result<Option<Next>, FatalError> {
        match again(&mut self.broker, B::join) {
            Ok(()) => self.joined = true,
            Err(Fault::Fenced(why) | Fault::FencedInstance(why)) => return Err(FatalError::Fenced(why)),
            Err(fault) => return Ok(Some(self.wait("the consumer cannot start", &fault, None))),
        }
        Ok(None)
    }

    /// Takes over and gives up source partitions, as shards, topics and their partitions have changed.
    fn follow_sources(&mut self) {
        let (changed, gone) = self.assignment.follow_sources(self.config.shards, &mut self.broker);
        if changed {
            let owns = self.assignment.describe(&self.aliases);
            if owns != self.owns {
                tracing::info!(%owns, "partitions");
            }
            self.owns = owns;
        }
        if !gone.is_empty() {
            self.close_paths(&gone, &[]);
            self.inbox.drop_partitions(&gone);
        }
    }

    /// Ends an attempt to open direct paths, and begins another one if that is due.
    fn open_paths(&mut self) {
        let now = self.broker.now();
        if let Some(released) = self.paths.end(now) {
            self.release(released);
        }
        // Rule: write-barrier-after-takeover.
        let sources = self.assignment.reading_sources();
        let shards = self.assignment.ready_shards();
        if self.paths.open_count() == sources.len() * shards.len() {
            return;
        }
        let closed = self.paths.closed(&sources, &shards.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), now);
        if closed.is_empty() || self.paused {
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

    /// Closes the paths from these sources, and to these shards.
    fn close_paths(&mut self, sources: &[Partition], shards: &[ShardId]) {
        self.paths.close(sources, shards);
        self.observer.paths(self.paths.open_count());
    }

    /// Takes in what was held back while paths opened.
    fn release(&mut self, Released { sources, records }: Released) {
        // Rule: hold-back-to-open.
        for consumed in records {
            self.take_record(consumed);
        }
        self.broker.resume(&sources);
        tracing::info!(open = self.paths.open_count(), "direct paths");
        self.observer.paths(self.paths.open_count());
    }

    /// Takes in a record.
    fn take_record(&mut self, consumed: Consumed) {
        if let Partition::Shard(shard) = consumed.partition {
            self.assignment.read(shard, consumed.offset);
            if let Some(barrier) = Barrier::from_record(&consumed.record) {
                self.paths.read(shard, barrier);
            }
        }
        let (routes, shards) = (self.releases.routes_changed(), self.config.shards);
        let (paths, assignment) = (&self.paths, &self.assignment);
        let is_direct = |source, shard| paths.is_open(source, shard) && assignment.takes(Partition::Shard(shard));
        let pending = Pending::new(consumed, &self.aliases, routes, shards, &mut self.tenants, is_direct);
        self.inbox.push(pending);
    }

    /// Goes back to the first record of a shard that is not settled, and reads on when there is another routing. The
    /// record's tenant has to wait, and the shard with it: the one committed offset of a shard cannot say that later
    /// records of other tenants are settled.
    fn rewind(&mut self, shard: ShardId) {
        // Records that came directly are not in the shard, so they cannot be read again from there. They take the hop now,
        // behind all that is there.
        // Rule: close-path-on-loss.
        self.close_paths(&[], &[shard]);
        // Rule: hop-direct-records-of-lost-shard.
        self.inbox.redirect(&[shard]);
        if let Some(offset) = self.inbox.rewind(Partition::Shard(shard)) {
            let offset = if mutated!("rewind-one-too-far") { offset.next() } else { offset };
            self.assignment.wait(shard, offset, &mut self.broker);
        }
    }

    /// Makes a new producer. Returns when to try again, if that failed.
    fn new_producer(&mut self) -> Result<Option<Next>, FatalError> {
        let made = self.broker.renew_producer();
        self.renew_producer = made.is_err();
        match made {
            Ok(()) => Ok(None),
            Err(Fault::Fenced(why) | Fault::FencedInstance(why)) => Err(FatalError::Fenced(why)),
            Err(fault) => Ok(Some(self.wait("no transactional producer", &fault, None))),
        }
    }

    /// Takes in what the consumer has, up to two batches. So the records that wait here are bounded in number and bytes.
    fn take_events(&mut self) -> Result<(), FatalError> {
        if !self.make_ready_to_poll() {
            return Ok(());
        }
        // A producer can be made while the group still forms.
        let busy = self.assignment.is_busy() || self.renew_producer;
        let mut wait = if busy { RESTORE_WAIT } else { IDLE_WAIT };
        if !self.inbox.is_empty() {
            wait = Duration::ZERO;
        }
        while self.paused || self.has_room() {
            let event = self.broker.poll(wait);
            if !self.take_event(event)? {
                return Ok(());
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// Whether there is room for another record.
    fn has_room(&self) -> bool {
        let BatchLimits { records, bytes, .. } = self.config.batch;
        self.inbox.len() < 2 * records && self.inbox.bytes() < 2 * bytes
    }

    /// Whether the consumer is to be polled. Without room it is polled only when nothing can be committed: the group may
    /// have an event that is the reason for that, and without the event there would never be room again. All partitions
    /// are paused meanwhile.
    fn make_ready_to_poll(&mut self) -> bool {
        if self.has_room() {
            if std::mem::take(&mut self.paused) {
                let mut reading = self.assignment.reading();
                reading.retain(|partition| !self.paths.holds(*partition));
                self.broker.resume(&reading);
            }
            return true;
        }
        if self.is_failing() && !std::mem::replace(&mut self.paused, true) {
            self.broker.pause(&self.assignment.reading());
        }
        self.is_failing()
    }

    /// Takes in one event. Returns whether to poll for another one.
    fn take_event(&mut self, event: Event) -> Result<bool, FatalError> {
        match event {
            Event::Nothing => return Ok(false),
            Event::Fenced(why) => return Err(FatalError::Fenced(why)),
            Event::Record(consumed) if self.assignment.takes(consumed.partition) => {
                if self.paused {
                    // It was on its way before the pause, or its partition was resumed after it.
                    self.broker.pause(&[consumed.partition]);
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
                self.restart = Some(format!("a record at offset {offset} of {partition:?}, which is not being read"));
                return Ok(false);
            }
            Event::Assigned(shards) => {
                if !shards.is_empty() {
                    tracing::info!(count = shards.len(), "shards assigned");
                }
                // Another rebalance may follow at once. It is taken in before any of these shards is read.
                self.assignment.assigned(shards, &mut self.broker);
            }
            Event::Revoked(shards) | Event::Lost(shards) => {
                self.give_back(&shards);
                return Ok(false);
            }
            Event::Failed(why) => {
                self.restart = Some(why.text);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Forgets all about shards that are no longer ours, and about the source partitions that are anchored to them. No
    /// transaction is open here, so everything that was done for them is committed or aborted.
    fn give_back(&mut self, shards: &[ShardId]) {
        tracing::info!(count = shards.len(), "shards revoked");
        let sources = self.assignment.sources_of(shards, self.config.shards);
        let mut dropped: Vec<_> = shards.iter().copied().map(Partition::Shard).collect();
        if !mutated!("keep-records-of-revoked-partitions") {
            dropped.extend(sources.iter().copied());
        }
        // Rule: drop-direct-records-of-lost-source.
        self.inbox.drop_partitions(&dropped);
        // Rule: close-path-on-loss.
        if !mutated!("direct-paths-survive-a-revocation") {
            self.close_paths(&sources, shards);
        }
        // The sources of other shards stay. Their records for these shards take the hop, before any later one does.
        #[cfg(feature = "mutations")]
        if mutated!("forget-direct-records-of-a-lost-shard") {
            self.inbox.forget_direct(shards);
        }
        // Rule: hop-direct-records-of-lost-shard.
        self.inbox.redirect(shards);
        // Rule: answer-revocation-between-transactions.
        self.assignment.give_back(shards, &sources, &mut self.broker);
        if !mutated!("decision-remembered-over-a-move") {
            self.releases.forget_all();
        }
        self.observer.rerouted();
    }

    /// Runs a batch in one transaction: begin, barriers, one record after the other, the changelog, commit.
    fn run(
        &mut self,
        barriers: Vec<(ShardId, Barrier)>,
        unsaved: &BTreeMap<Partition, Offset>,
    ) -> Result<Committed, (Batch, Failure)> {
        assert!(self.assignment.is_settled(), "nothing is staged before a transaction begins");
        let mut batch = Batch { barriers, ..Batch::default() };
        let mut txn = match Transaction::begin(&mut self.broker) {
            Ok(txn) => txn,
            Err(failure) => return Err((batch, failure)),
        };
        let began = txn.began();
        let deadline = began + self.config.batch.time;
        for (partition, offset) in unsaved {
            txn.starts_at(*partition, *offset);
        }
        let mut handler = Handler {
            config: &self.config,
            plugins: &mut self.plugins,
            lookups: &mut self.lookups,
            observer: &mut self.observer,
            releases: &mut self.releases,
            assignment: &mut self.assignment,
            shards: BTreeSet::new(),
            deadline,
        };
        let queue = self.inbox.queue().iter_mut().take(self.batch_size);
        let sent = send_barriers(&mut txn, &batch.barriers)
            .and_then(|()| handle_batch(&mut handler, &mut txn, queue, &mut batch));
        batch.shards = handler.shards;
        if let Err(fault) = sent.and_then(|()| write_changelog(&mut txn, &batch.shards, &mut self.assignment)) {
            return Err((batch, txn.abort(fault, false)));
        }
        #[cfg(feature = "mutations")]
        if let Some(receipt) = Receipt::premature() {
            self.assignment.promote(&batch.shards, &receipt);
        }
        let ran = txn.now();
        match txn.commit() {
            Ok((receipt, offsets)) => {
                let (run, commit) = (ran.saturating_sub(began), self.broker.now().saturating_sub(ran));
                tracing::debug!(records = batch.done, ?run, ?commit, "committed");
                Ok((batch, receipt, offsets))
            }
            Err(failure) => Err((batch, failure)),
        }
    }

    /// After a commit: what was staged becomes committed state, and its records leave the inbox.
    fn settle(&mut self, batch: &Batch, receipt: &Receipt, offsets: &BTreeMap<Partition, Offset>) {
        self.assignment.promote(&batch.shards, receipt);
        // Rule: count-finished-at-commit.
        self.assignment.committed(offsets, self.broker.now());
        self.paths.sent(&batch.barriers);
        self.paths.progressed(self.broker.now());
        self.inbox.settled(batch.done);
        self.observer.committed();
        self.batch_size = (self.batch_size * 2).min(self.config.batch.records);
        self.backoff = SHORTEST_BACKOFF;
    }

    /// After a transaction that was not committed, or may not have been: drops what it staged, and says what comes next.
    fn undo(&mut self, batch: &Batch, failure: Failure) -> Result<Next, FatalError> {
        let now = self.broker.now();
        self.assignment.postpone_unsaved(now);
        if matches!(&failure, Failure::Aborted { fault: Fault::Refused(_), .. }) && !batch.barriers.is_empty() {
            // It may be a barrier that the broker refuses. Then no record is to blame.
            self.paths.give_up(now);
        }
        self.observer.aborted();
        for shard in &batch.shards {
            let touched = self.assignment.ready(*shard).map(Shard::drop_staged).unwrap_or_default();
            for tenant in touched {
                self.plugins.discard(&tenant);
            }
        }
        if !mutated!("decision-remembered-over-an-abort") {
            self.releases.forget();
        }
        let (fault, renew) = match failure {
            Failure::Fenced(why) => return Err(FatalError::Fenced(why)),
            Failure::Unclear(why) if mutated!("run-again-after-an-unclear-commit") => (Fault::Abortable(why), true),
            Failure::Unclear(why) => {
                self.restart = Some(format!("a commit with an unknown outcome: {why}"));
                return Ok(Next::Now);
            }
            Failure::Aborted { fault, renew } => (fault, renew),
        };
        self.renew_producer |= renew && !mutated!("no-new-epoch-after-doubt");
        if mutated!("forget-the-aborted-batch") {
            self.inbox.settled(batch.done);
        }
        match &fault {
            Fault::Refused(_) if !batch.barriers.is_empty() => return Ok(Next::After(self.back_off())),
            Fault::Refused(why) if batch.done <= 1 => {
                let head = self.inbox.queue().front_mut();
                // Rule: dead-letter-for-refused.
                if let Some(head) = head
                    && !head.refused(&why.text)
                {
                    return Err(FatalError::DeadLettersRefused(why.clone()));
                }
                return Ok(Next::Now);
            }
            Fault::Refused(_) => {
                self.batch_size = (batch.done / 2).max(1);
                return Ok(Next::Now);
            }
            Fault::TimedOut(_) => self.batch_size = (batch.done / 2).max(1),
            Fault::NotAMember(_) => {
                self.restart = Some(fault.to_string());
                return Ok(Next::Now);
            }
            _ => {}
        }
        Ok(self.wait("a transaction was aborted and runs again", &fault, Some(batch.done)))
    }

    /// Forgets everything and leaves the group. A later step joins it again: the cause may still be there.
    fn start_again(&mut self, why: &str) -> Next {
        tracing::warn!(reason = %why, "starting again from what is committed");
        self.inbox.clear();
        self.paths.clear();
        self.observer.paths(0);
        self.paused = false;
        self.assignment.clear(&mut self.broker);
        self.releases.forget_all();
        self.observer.rerouted();
        self.renew_producer = true;
        self.broker.drop_producer();
        self.broker.leave();
        self.joined = false;
        Next::After(self.back_off())
    }

    /// Logs why nothing can be done now. `records`: the size of the transaction that failed. Returns when to try again.
    fn wait(&mut self, message: &'static str, reason: &Fault, records: Option<usize>) -> Next {
        let is_due = self.warnings.is_due(self.broker.now(), message, &reason.to_string());
        if is_due {
            tracing::warn!(records, %reason, "{message}");
        }
        Next::After(self.back_off())
    }

    /// Whether nothing has been committed since something went wrong.
    fn is_failing(&self) -> bool {
        self.backoff > SHORTEST_BACKOFF
    }

    /// The pause before the next attempt. It grows until a transaction is committed.
    fn back_off(&mut self) -> Duration {
        let pause = self.backoff;
        self.backoff = (pause * 2).min(LONGEST_BACKOFF);
        pause
    }
}

/// Handles the records of a batch until one of them, or a limit, ends it.
fn handle_batch<'q, B: Producer, P: Plugins, L: Lookups, O: Observer>(
    handler: &mut Handler<'_, P, L, O>,
    txn: &mut Transaction<'_, B>,
    queue: impl Iterator<Item = &'q mut Pending>,
    batch: &mut Batch,
) -> Result<(), Fault> {
    let mut bytes = 0;
    for pending in queue {
        bytes += pending.record.bytes();
        match handler.handle(txn, pending).inspect_err(|_| batch.done += 1)? {
            Handled::Sent => {}
            Handled::NeedsLookup => break,
            Handled::TenantWaits(shard) => {
                batch.waits = Some(shard);
                break;
            }
        }
        batch.done += 1;
        // Rule: send-offset-of-direct-source.
        // Rule: commit-only-finished.
        txn.consumed(pending.partition, pending.offset);
        // A message may take long. A hop takes about as long as reading the clock.
        let read_clock = matches!(pending.disposition, Disposition::Process { .. }) || batch.done.is_multiple_of(16);
        if bytes >= handler.config.batch.bytes || (read_clock && txn.now() >= handler.deadline) {
            break;
        }
    }
    Ok(())
}

/// Writes barriers to their shards.
fn send_barriers<B: Producer>(txn: &mut Transaction<'_, B>, barriers: &[(ShardId, Barrier)]) -> Result<(), Fault> {
    for (shard, barrier) in barriers {
        txn.send(Destination::Shard(*shard), &barrier.to_record())?;
    }
    Ok(())
}

/// Sends what the transaction changed in the state of its shards.
fn write_changelog<B: Producer>(
    txn: &mut Transaction<'_, B>,
    shards: &BTreeSet<ShardId>,
    assignment: &mut Assignment,
) -> Result<(), Fault> {
    for shard in shards {
        let changes = assignment.ready(*shard).into_iter().flat_map(|state| state.changes());
        for (key, value) in changes {
            let record = Record { key: Some(key), value, ..Record::default() };
            txn.send(Destination::Changelog(*shard), &record)?;
        }
    }
    Ok(())
}
