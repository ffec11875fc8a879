use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::assignment::Assignment;
use super::broker::{Broker, Cause, Consumed, Destination, Event, Fault, Partition};
use super::config::{BatchLimits, WorkerConfig};
use super::inbox::{Disposition, Inbox, Pending, Verb};
use super::lookups::Lookups;
use super::observer::{Observer, Settled};
use super::plugins::{Call, Plugins};
use super::process::{Need, Verdict, process};
use super::releases::{ChosenRelease, MessageOrigin, Releases};
use super::resolve_lookups::answer;
use super::transaction::{Failure, Receipt, Transaction, again};
use crate::record::{DeadLetter, Record, ShardId, Tenants};
use crate::state::Shard;

/// How long an idle worker waits for events before it returns to its driver.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// How long it waits while a restore is under way.
const BUSY_WAIT: Duration = Duration::from_millis(1);
/// The pause before a failed batch runs again: doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How often trouble that lasts is told.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// When to call `step` again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Now,
    After(Duration),
}

/// Why a worker cannot go on. Nothing is lost: what was not committed will be read again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatalError {
    #[error(
        "another process took over this instance's identity ({0}). Two processes with the same instance id fence each \
         other: give each its own (--instance)"
    )]
    Fenced(Cause),
    #[error("the dead-letter topic refuses even a record without key and value, so nothing can be settled: {0}")]
    DeadLettersRefused(Cause),
}

/// One worker: one consumer, one transactional producer, the source partitions and shards assigned to it.
pub struct Worker<B, P, L, O = ()> {
    rules: WorkerConfig,
    broker: B,
    plugins: P,
    lookups: L,
    observer: O,
    releases: Releases,
    /// Aliases that releases have consumed, by their places in `Partition::Source`.
    aliases: Vec<Arc<str>>,
    /// Those that are consumed now; `None`: the group has not been joined.
    consumed: Option<Vec<Arc<str>>>,
    ownership: Assignment,
    tenants: Tenants,
    inbox: Inbox,
    /// The most records of the next transaction, by verb: halved after a time-out or a refusal, doubled after a commit.
    /// The commits of one verb must not undo the search for the other's refused record.
    batch: [usize; 2],
    /// The next transaction begins on a new producer.
    renew_producer: bool,
    /// Everything starts again from what is committed.
    restart: Option<String>,
    /// All that is read is paused, so that events come though there is no room for records.
    paused: bool,
    backoff: Duration,
    /// What was told last, and when: trouble that lasts is told every few seconds.
    told: Option<(Duration, String)>,
}

/// What a batch did to the records at the front of its queue.
struct Batch {
    done: usize,
    shards: BTreeSet<ShardId>,
    /// The shard of the record after these, when its tenant cannot go on.
    waits: Option<ShardId>,
}

impl<B: Broker, P: Plugins, L: Lookups, O: Observer> Worker<B, P, L, O> {
    pub fn new(rules: WorkerConfig, broker: B, plugins: P, lookups: L, observer: O) -> Self {
        Self {
            batch: [rules.batch.records; 2],
            tenants: Tenants::new(rules.tenants.clone()),
            rules,
            broker,
            plugins,
            lookups,
            observer,
            releases: Releases::default(),
            aliases: Vec::new(),
            consumed: None,
            ownership: Assignment::default(),
            inbox: Inbox::new(),
            renew_producer: true,
            restart: None,
            paused: false,
            backoff: BACKOFF.0,
            told: None,
        }
    }

    /// One bounded piece of work. No transaction is open when it returns.
    ///
    /// # Errors
    /// When this worker can never go on.
    pub fn step(&mut self) -> Result<Next, FatalError> {
        if let Some(why) = self.restart.take() {
            return self.start_again(why);
        }
        // Nobody joins the group before it is known for which topics.
        if self.consumed.is_none() && !self.take_routing() {
            return Ok(Next::After(IDLE_WAIT));
        }
        self.take_events()?;
        if self.restart.is_some() {
            return Ok(Next::Now);
        }
        // As late as can be: a message that comes after another routing is not to be handled by the former one.
        self.take_routing();
        // Before anything is taken over: stable offsets would wait for the transaction that a dead predecessor, or this
        // worker before it started again, left open, and the new epoch ends it.
        let no_producer = if self.renew_producer { self.new_producer()? } else { None };
        self.ownership.advance(&self.rules, &mut self.broker);
        if let Some(next) = no_producer {
            return Ok(next);
        }
        let verb = match self.inbox.turn() {
            Some(verb) => verb,
            // A transaction of offsets alone.
            None if !self.ownership.initial_offsets().is_empty() => Verb::Repartition,
            None => return Ok(Next::Now),
        };
        if let Some(head) = self.inbox.queue(verb).front_mut() {
            answer(head, &self.rules, &mut self.lookups, || self.broker.now());
        }
        if self.broker.producer_is_suspect()
            && let Some(next) = self.new_producer()?
        {
            return Ok(next);
        }
        match self.run(verb) {
            Ok((batch, receipt)) => {
                self.settle(verb, &batch, &receipt);
                if let Some(shard) = batch.waits {
                    self.rewind(shard);
                }
                Ok(Next::Now)
            }
            Err((batch, failure)) => self.undo(verb, &batch, failure),
        }
    }

    /// Takes another routing, if there is one: from here on messages are handled as it says. No transaction is open.
    fn take_routing(&mut self) -> bool {
        let Some(routing) = self.plugins.routing() else { return false };
        let consumed = routing.consumed();
        for alias in consumed {
            if !self.aliases.contains(alias) {
                self.aliases.push(Arc::clone(alias));
            }
        }
        if self.consumed.as_deref() != Some(consumed) {
            self.broker.subscribe(&self.aliases, consumed);
            self.consumed = Some(consumed.to_vec());
        }
        self.releases.take(routing);
        self.observer.rerouted();
        self.ownership.wake(&mut self.broker);
        true
    }

    /// Reads a shard again, from its first record that is not settled on, once there is another routing: its tenant cannot
    /// go on, and one committed offset cannot say that others of the shard have.
    fn rewind(&mut self, shard: ShardId) {
        if let Some(offset) = self.inbox.rewind(Partition::Shard(shard)) {
            self.ownership.wait(shard, offset, &mut self.broker);
        }
    }

    /// Makes a new producer; when that cannot be, says when to go on.
    fn new_producer(&mut self) -> Result<Option<Next>, FatalError> {
        let made = self.broker.renew_producer();
        self.renew_producer = made.is_err();
        match made {
            Ok(()) => Ok(None),
            Err(Fault::Fenced(why) | Fault::FencedInstance(why)) => Err(FatalError::Fenced(why)),
            Err(fault) => Ok(Some(self.wait(&format!("no transactional producer: {fault}")))),
        }
    }

    /// Takes in what the consumer has, up to two batches: records that wait here are bounded in number and bytes.
    fn take_events(&mut self) -> Result<(), FatalError> {
        // A producer can be had while the group still forms.
        let busy = self.ownership.is_busy() || self.renew_producer;
        let mut wait = if busy { BUSY_WAIT } else { IDLE_WAIT };
        if !self.inbox.is_empty() {
            wait = Duration::ZERO;
        }
        let BatchLimits { records, bytes, .. } = self.rules.batch;
        let has_room = |inbox: &Inbox| inbox.len() < 2 * records && inbox.bytes() < 2 * bytes;
        if has_room(&self.inbox) {
            if std::mem::take(&mut self.paused) {
                self.broker.resume(&self.ownership.reading());
            }
        } else if self.failing() {
            // The group may have an event for us that is why nothing can be committed: without hearing of it there would
            // never be room again.
            if !std::mem::replace(&mut self.paused, true) {
                self.broker.pause(&self.ownership.reading());
            }
        } else {
            return Ok(());
        }
        while self.paused || has_room(&self.inbox) {
            match self.broker.poll(wait) {
                Event::Nothing => return Ok(()),
                Event::Fenced(why) => return Err(FatalError::Fenced(why)),
                Event::Record(consumed) if self.ownership.takes(consumed.partition) => {
                    if self.paused {
                        // It came to us after the pause.
                        self.broker.pause(&[consumed.partition]);
                    }
                    let (routes, shards) = (self.releases.routes_changed(), self.rules.shards);
                    self.inbox.push(Pending::new(consumed, &self.aliases, routes, shards, &mut self.tenants));
                }
                Event::Record(Consumed { partition, offset, .. }) => {
                    // To leave it out would be to lose it.
                    self.restart =
                        Some(format!("a record at offset {offset} of {partition:?}, which is not being read"));
                    return Ok(());
                }
                Event::Assigned(partitions) => {
                    if !partitions.is_empty() {
                        tracing::info!("{} partitions assigned", partitions.len());
                    }
                    tracing::debug!(?partitions, "assigned");
                    // Another rebalance may be there already, and comes before anything of its partitions is run.
                    self.ownership.assigned(partitions, &mut self.broker);
                }
                // No transaction is open here: all that these partitions were part of is committed or aborted.
                Event::Revoked(partitions) | Event::Lost(partitions) => {
                    tracing::info!("{} partitions revoked", partitions.len());
                    tracing::debug!(?partitions, "revoked");
                    self.inbox.drop_partitions(&partitions);
                    self.ownership.dropped(&partitions, &mut self.broker);
                    self.releases.forget_all();
                    self.observer.rerouted();
                    return Ok(());
                }
                Event::Failed(why) => {
                    self.restart = Some(why.text);
                    return Ok(());
                }
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    /// Runs a batch of one verb in one transaction.
    fn run(&mut self, verb: Verb) -> Result<(Batch, Receipt), (Batch, Failure)> {
        let mut batch = Batch { done: 0, shards: BTreeSet::new(), waits: None };
        let queue = self.inbox.queue(verb);
        let mut txn = match Transaction::begin(&mut self.broker) {
            Ok(txn) => txn,
            Err(failure) => return Err((batch, failure)),
        };
        let began = txn.began();
        let deadline = began + self.rules.batch.time;
        for (partition, offset) in self.ownership.initial_offsets() {
            txn.starts_at(*partition, *offset);
        }
        let mut bytes = 0;
        for pending in queue.iter_mut().take(self.batch[verb as usize]) {
            bytes += pending.record.bytes();
            let (partition, offset, one_by_one) = (pending.partition, pending.offset, pending.one_by_one);
            let sent = match &pending.fate {
                Disposition::Repartition { shard } => txn.send(Destination::Shard(*shard), &pending.record),
                Disposition::DeadLetter { letter, minimal } => {
                    let verdict = Verdict::DeadLetter(letter.clone());
                    let (origin, tenant) = (&pending.source, pending.tenant.as_ref());
                    self.observer.settled(Settled { origin, tenant, release: None, verdict: &verdict });
                    send_dead_letter(&mut txn, letter, *minimal, pending)
                }
                Disposition::Process { shard, tenant } => {
                    let Some(state) = self.ownership.ready(*shard) else {
                        unreachable!("a shard is paused until it is restored, and its records go with it")
                    };
                    let (plugins, observer) = (&mut self.plugins, &mut self.observer);
                    batch.shards.insert(*shard);
                    let state = state.tenant(&tenant.id);
                    let message = MessageOrigin { alias: &pending.source.topic, routes: pending.routes };
                    let chosen = self.releases.choose(tenant, message, state, plugins, observer);
                    let Ok(ChosenRelease { release, not_consumed }) = chosen else {
                        // Of what the release staged the same is true as of a message's that waits for a lookup.
                        if state.has_staged() {
                            txn.starts_at(partition, offset);
                        }
                        batch.waits = Some(*shard);
                        break;
                    };
                    pending.lookups.need = None;
                    let answers = &mut pending.lookups.answers;
                    let (record, source) = (&pending.record, &pending.source);
                    let verdict = loop {
                        if let Some(verdict) = not_consumed {
                            break verdict;
                        }
                        let call = Call { tenant, record, source };
                        let verdict = process(&self.rules, plugins, &release, state, call, answers);
                        let Verdict::Waits(Need::Answer(query)) = &verdict else { break verdict };
                        let Some(answer) = self.lookups.known(tenant, query) else { break verdict };
                        answers.insert(query.clone(), answer);
                        // Calls made again take time too.
                        if txn.now() >= deadline {
                            break verdict;
                        }
                    };
                    if let Verdict::Waits(need) = verdict {
                        // What the release staged when it took over is committed before the message: only offsets fence
                        // the changelog's records, and only those of their shard make its next owner wait for them.
                        if state.has_staged() {
                            txn.starts_at(partition, offset);
                        }
                        // Its order among the tenant's messages is kept, and no open transaction waits for an answer.
                        pending.lookups.need = Some(need);
                        break;
                    }
                    let (origin, tenant, verdict) = (&pending.source, Some(&tenant.id), &verdict);
                    self.observer.settled(Settled { origin, tenant, release: Some(&release), verdict });
                    match verdict {
                        Verdict::Outputs(outputs) => outputs.iter().try_for_each(|output| {
                            txn.send(Destination::Output(&output.topic), &output.record)?;
                            if one_by_one { txn.flush() } else { Ok(()) }
                        }),
                        Verdict::DeadLetter(letter) => send_dead_letter(&mut txn, letter, false, pending),
                        Verdict::Waits(_) => unreachable!("handled above"),
                    }
                }
            };
            batch.done += 1;
            if let Err(fault) = sent {
                return Err((batch, txn.abort(fault, false)));
            }
            txn.consumed(partition, offset);
            // Processing may take long; to route a record takes as long as a look at the clock.
            if (verb == Verb::Process || batch.done.is_multiple_of(16)) && txn.now() >= deadline {
                break;
            }
            if bytes >= self.rules.batch.bytes {
                break;
            }
        }
        for shard in &batch.shards {
            let changes = self.ownership.ready(*shard).into_iter().flat_map(|state| state.changes());
            for (key, value) in changes {
                let record = Record { key: Some(key), value, ..Record::default() };
                if let Err(fault) = txn.send(Destination::Changelog(*shard), &record) {
                    return Err((batch, txn.abort(fault, false)));
                }
            }
        }
        let ran = txn.now();
        match txn.commit() {
            Ok(receipt) => {
                let (run, commit) = (ran.saturating_sub(began), self.broker.now().saturating_sub(ran));
                tracing::debug!(?verb, records = batch.done, ?run, ?commit, "committed");
                Ok((batch, receipt))
            }
            Err(failure) => Err((batch, failure)),
        }
    }

    /// After a commit.
    fn settle(&mut self, verb: Verb, batch: &Batch, receipt: &Receipt) {
        for shard in &batch.shards {
            if let Some(state) = self.ownership.ready(*shard) {
                state.promote(receipt);
            }
        }
        self.ownership.begun();
        self.inbox.settled(verb, batch.done);
        self.observer.committed();
        let size = &mut self.batch[verb as usize];
        *size = (*size * 2).min(self.rules.batch.records);
        self.backoff = BACKOFF.0;
    }

    /// After anything but a commit.
    fn undo(&mut self, verb: Verb, batch: &Batch, failure: Failure) -> Result<Next, FatalError> {
        self.observer.aborted();
        for shard in &batch.shards {
            let touched = self.ownership.ready(*shard).map(Shard::drop_staged).unwrap_or_default();
            for tenant in touched {
                self.plugins.discard(&tenant);
            }
        }
        self.releases.forget();
        let (fault, renew) = match failure {
            Failure::Fenced(why) => return Err(FatalError::Fenced(why)),
            Failure::Unclear(why) => {
                self.restart = Some(format!("a commit with an unknown outcome: {why}"));
                return Ok(Next::Now);
            }
            Failure::Aborted { fault, renew } => (fault, renew),
        };
        self.renew_producer |= renew;
        match &fault {
            Fault::Refused(why) if batch.done <= 1 => {
                let head = self.inbox.queue(verb).front_mut();
                if let Some(head) = head
                    && !head.refused(&why.text)
                {
                    return Err(FatalError::DeadLettersRefused(why.clone()));
                }
                return Ok(Next::Now);
            }
            Fault::Refused(_) => {
                self.batch[verb as usize] = (batch.done / 2).max(1);
                return Ok(Next::Now);
            }
            Fault::TimedOut(_) => self.batch[verb as usize] = (batch.done / 2).max(1),
            Fault::NotAMember(_) => {
                self.restart = Some(fault.to_string());
                return Ok(Next::Now);
            }
            _ => {}
        }
        Ok(self.wait(&format!("a transaction of {} records was aborted and runs again: {fault}", batch.done)))
    }

    fn start_again(&mut self, why: String) -> Result<Next, FatalError> {
        tracing::warn!("starting again from what is committed: {why}");
        self.inbox.clear();
        self.paused = false;
        self.ownership = Assignment::default();
        self.releases.forget_all();
        self.observer.rerouted();
        self.renew_producer = true;
        match again(&mut self.broker, B::restart) {
            // What made it necessary may be there still.
            Ok(()) => Ok(Next::After(self.back_off())),
            Err(Fault::Fenced(why) | Fault::FencedInstance(why)) => Err(FatalError::Fenced(why)),
            Err(fault) => {
                let next = self.wait(&format!("the consumer cannot start: {fault}"));
                self.restart = Some(why);
                Ok(next)
            }
        }
    }

    fn wait(&mut self, why: &str) -> Next {
        let now = self.broker.now();
        if self.told.as_ref().is_none_or(|(at, what)| what != why || now.saturating_sub(*at) >= TELL_EVERY) {
            tracing::warn!("{why}");
            self.told = Some((now, why.to_owned()));
        }
        Next::After(self.back_off())
    }

    /// Whether nothing has been committed since something went wrong.
    fn failing(&self) -> bool {
        self.backoff > BACKOFF.0
    }

    /// The pause before the next attempt; longer each time, until a transaction is committed.
    fn back_off(&mut self) -> Duration {
        let pause = self.backoff;
        self.backoff = (pause * 2).min(BACKOFF.1);
        pause
    }
}

fn send_dead_letter<B: Broker>(
    txn: &mut Transaction<'_, B>,
    letter: &DeadLetter,
    minimal: bool,
    pending: &Pending,
) -> Result<(), Fault> {
    let record = if minimal {
        letter.to_minimal_record(&pending.record, &pending.source)
    } else {
        letter.to_record(&pending.record, &pending.source)
    };
    txn.send(Destination::DeadLetters, &record)
}
