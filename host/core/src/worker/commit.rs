//! Transactions: when the next one is due, what it contains, and what follows from its end.
//!
//! A transaction is assembled from finished results and committed at once, so a message that runs never delays it. Executors go
//! on meanwhile; their results wait for the next one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::executors::Executors;
use super::fault::{Fault, KafkaErrorCode};
use super::intake::Intake;
use super::lanes::Phase;
use super::observer::{Observer, Settled};
use super::plugins::Plugins;
use super::ports::{Broker, Destination, GroupOffset, Partition, Producer};
use super::positions::MOST_METADATA;
use super::process::Verdict;
use super::results::{Effect, Finished};
use super::step::{FatalError, Next, Standing, Worker};
use super::transaction::{Failure, Receipt, Transaction};
use crate::record::{Barrier, DeadLetter, Record, ShardId, TenantId};
use crate::state::{Promotion, Version, encode_key};

/// While jobs run and nothing arrives, a result waits so long for theirs.
const QUIET_WAIT: Duration = Duration::from_millis(1);
/// Under load a transaction begins this many times the duration of a commit after its first result.
const COMMITS_BETWEEN: u32 = 20;
/// The shortest time between transactions under load.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(5);
/// All offsets of a transaction are one record batch of the group's log, which is limited by the brokers'
/// `message.max.bytes` of 1 MiB by default.
const MOST_METADATA_IN_ALL: usize = 512 << 10;

/// What a transaction contains.
struct Assembled {
    /// The number of results, the first ones.
    results: usize,
    /// The barriers that it writes.
    barriers: Vec<(ShardId, Barrier)>,
    offsets: Vec<(Partition, GroupOffset)>,
    /// Whether some of them belong to partitions without a settled record.
    has_unsaved: bool,
}

impl<B: Broker, P: Plugins, E: Executors<P::Runner>, O: Observer> Worker<B, P, E, O> {
    /// Whether a transaction is due.
    pub(super) fn commit_is_due(&mut self) -> bool {
        self.until_commit() == Some(Duration::ZERO)
    }

    /// How long until the next transaction is due, as far as that is known.
    pub(super) fn until_commit(&mut self) -> Option<Duration> {
        if self.standing != Standing::Member || self.needs_producer {
            return None;
        }
        let now = self.broker.now();
        if self.assignment.has_unsaved(now) || !self.barriers().is_empty() {
            return Some(Duration::ZERO);
        }
        let since = self.results.since()?;
        // Nothing more finishes before this transaction.
        let is_last = self.lanes.tally().running == 0 && self.intake != Intake::Open;
        if is_last || self.results.len() >= self.batch_size || self.results.bytes() >= self.config.batch.bytes {
            return Some(Duration::ZERO);
        }
        let interval = (self.commit_time * COMMITS_BETWEEN).max(SHORTEST_INTERVAL).min(self.config.batch.time);
        let wait = if self.intake == Intake::Quiet { QUIET_WAIT } else { interval };
        Some((since + wait).saturating_sub(now))
    }

    /// The barriers to write with the next transaction.
    fn barriers(&self) -> Vec<(ShardId, Barrier)> {
        self.paths.barriers(|sources| self.results.has_hop_of(sources))
    }

    /// Commits what is finished before shards are given back. The group waits for that.
    pub(super) fn commit_before_revocation(&mut self) -> Result<(), FatalError> {
        self.collect();
        if self.results.is_empty() || self.needs_producer {
            return Ok(());
        }
        // A failure changes nothing: what is not committed is dropped, and handled by the next owner.
        self.commit().map(|_| ())
    }

    /// Commits the first results in one transaction.
    pub(super) fn commit(&mut self) -> Result<Next, FatalError> {
        if self.broker.producer_is_suspect()
            && !mutated!("no-new-epoch-after-doubt")
            && let Some(next) = self.new_producer()?
        {
            return Ok(next);
        }
        let assembled = self.assemble();
        #[cfg(feature = "mutations")]
        if let Some(receipt) = Receipt::premature() {
            self.promote_early(assembled.results, &receipt);
        }
        let began = self.broker.now();
        match self.send(&assembled) {
            Ok(receipt) => {
                let took = self.broker.now().saturating_sub(began);
                tracing::debug!(results = assembled.results, ?took, "committed");
                self.commit_time = (self.commit_time * 7 + took) / 8;
                self.settle(&assembled, &receipt);
                Ok(Next::Now)
            }
            Err(failure) => self.undo(&assembled, failure),
        }
    }

    /// Chooses the results of the next transaction, and the offsets that follow from them.
    fn assemble(&mut self) -> Assembled {
        let barriers = self.barriers();
        let mut count = 0;
        let mut bytes = 0;
        for finished in self.results.iter().take(self.batch_size) {
            if count > 0 && bytes >= self.config.batch.bytes {
                break;
            }
            bytes += finished.bytes;
            count += 1;
        }
        loop {
            let offsets = self.settle_positions(count);
            #[cfg(feature = "mutations")]
            let offsets = self.mistake_maps(offsets);
            let metadata: usize = offsets.iter().map(|(_, offset)| offset.metadata.len()).sum();
            debug_assert!(offsets.iter().all(|(_, offset)| offset.metadata.len() <= MOST_METADATA));
            if metadata <= MOST_METADATA_IN_ALL || count <= 1 {
                let has_unsaved = self.assignment.has_unsaved(self.broker.now());
                return Assembled { results: count, barriers, offsets, has_unsaved };
            }
            self.reopen_positions(count);
            count /= 2;
        }
    }

    /// Counts the records of the first results as settled, and returns the offsets to commit with them.
    fn settle_positions(&mut self, count: usize) -> Vec<(Partition, GroupOffset)> {
        let now = self.broker.now();
        let mut partitions = self.assignment.unsaved(now);
        for finished in self.results.iter().take(count) {
            let message = &finished.message;
            // Rule: commit-only-finished.
            // Rule: send-offset-of-direct-source.
            if finished.settles()
                && let Some(positions) = self.assignment.positions(message.partition)
            {
                positions.settle(message.offset);
                partitions.insert(message.partition);
            }
            // A transaction with results of a shard sends the shard's offset, also when their records came directly. Only
            // offsets fence the records of the changelog, and a pending offset is what makes the shard's next owner wait.
            // Rule: send-offset-of-touched-shard.
            partitions.extend(finished.shard.map(Partition::Shard));
        }
        // Rule: send-whole-map.
        let offset = |partition| Some((partition, self.assignment.offset_to_commit(partition)?));
        partitions.into_iter().filter_map(offset).collect()
    }

    /// Sends maps as they are not: mistakes that only a mutation makes.
    #[cfg(feature = "mutations")]
    fn mistake_maps(&self, mut offsets: Vec<(Partition, GroupOffset)>) -> Vec<(Partition, GroupOffset)> {
        if mutated!("map-forgotten-on-abort") && self.load.resending {
            for (_, offset) in &mut offsets {
                offset.metadata = super::positions::Positions::from(offset.offset).to_commit().metadata;
            }
        }
        if mutated!("map-of-another-partition")
            && let [(_, first), (_, second), ..] = &mut *offsets
        {
            std::mem::swap(&mut first.metadata, &mut second.metadata);
        }
        offsets
    }

    /// The records of the first results are not settled after all.
    fn reopen_positions(&mut self, count: usize) {
        for finished in self.results.iter().take(count).filter(|finished| finished.settles()) {
            // Rule: commit-only-finished.
            if let Some(positions) = self.assignment.positions(finished.message.partition) {
                positions.reopen(finished.message.offset);
            }
        }
    }

    /// Sends a transaction: begin, barriers, one result after the other, the changelog, offsets, commit.
    fn send(&mut self, assembled: &Assembled) -> Result<Receipt, Failure> {
        let mut txn = Transaction::begin(&mut self.broker)?;
        let results = || self.results.iter().take(assembled.results);
        let sent = send_barriers(&mut txn, &assembled.barriers)
            .and_then(|()| results().try_for_each(|finished| send_result(&mut txn, finished, &mut self.observer)))
            .and_then(|()| send_changelog(&mut txn, results()));
        if let Err(fault) = sent {
            return Err(txn.abort(fault, false));
        }
        txn.commit(&assembled.offsets)
    }

    /// After a commit: what finished becomes committed state, and its records leave the worker.
    fn settle(&mut self, assembled: &Assembled, receipt: &Receipt) {
        let now = self.broker.now();
        // Rule: count-finished-at-commit.
        self.assignment.committed(assembled.offsets.iter().map(|(partition, _)| *partition), now);
        self.paths.sent(&assembled.barriers);
        self.paths.progressed(now);
        let mut versions: BTreeMap<TenantId, (ShardId, Option<Version>, usize)> = BTreeMap::new();
        for finished in self.results.take_first(assembled.results) {
            if let (Some(shard), Some(tenant)) = (finished.shard, &finished.tenant) {
                let version = finished.versions().map(|(_, version)| version);
                let entry = versions.entry(tenant.clone()).or_insert((shard, None, 0));
                entry.1 = version.or(entry.1);
                entry.2 += 1;
            }
        }
        for (tenant, (shard, version, count)) in versions {
            self.promote(&tenant, shard, version.map(|version| Promotion::new(version, receipt)), count);
        }
        let emptied = self.assignment.emptied();
        self.resume(emptied);
        self.observer.committed();
        self.load.transactions += 1;
        self.load.resending = false;
        self.batch_size = (self.batch_size * 2).min(self.config.batch.records);
        self.progressed();
        self.has_succeeded();
    }

    /// What the first results changed becomes committed state, before it is: a mistake that only a mutation makes.
    #[cfg(feature = "mutations")]
    fn promote_early(&mut self, count: usize, receipt: &Receipt) {
        let version = |finished: &Finished| {
            let (_, version) = finished.versions()?;
            Some((finished.tenant.clone()?, finished.shard?, version))
        };
        let versions: Vec<_> = self.results.iter().take(count).filter_map(version).collect();
        for (tenant, shard, version) in versions {
            self.promote(&tenant, shard, Some(Promotion::new(version, receipt)), 0);
        }
    }

    /// What a tenant's results changed becomes committed state.
    fn promote(&mut self, tenant: &TenantId, shard: ShardId, promotion: Option<Promotion>, count: usize) {
        let Some(lane) = self.lanes.get_mut(tenant) else { return };
        lane.results -= count;
        if let Some(promotion) = promotion {
            match &mut lane.phase {
                // Its state is in the job.
                Phase::Running(running) => running.promotion = Some(promotion),
                _ => {
                    if let Some(states) = self.assignment.ready(shard) {
                        states.change(tenant, |state| state.promote(promotion));
                    }
                }
            }
        }
        self.lanes.settle(tenant);
    }

    /// After a transaction that was not committed, or may not have been. Its results stay first, and are sent again.
    fn undo(&mut self, assembled: &Assembled, failure: Failure) -> Result<Next, FatalError> {
        let now = self.broker.now();
        // Rule: resend-stored-results.
        self.reopen_positions(assembled.results);
        self.assignment.postpone_unsaved(now);
        let is_refused = matches!(&failure, Failure::Aborted { fault: Fault::Refused(_), .. });
        if is_refused && !assembled.barriers.is_empty() {
            // It may be a barrier that the broker refuses. Then no record is to blame.
            self.paths.give_up(now);
        }
        self.observer.aborted();
        self.load.resending = true;
        let (fault, renew) = match failure {
            Failure::Fenced(why) => return Err(FatalError::Fenced(why)),
            Failure::Unclear(why) if mutated!("run-again-after-an-unclear-commit") => (Fault::Abortable(why), true),
            Failure::Unclear(why) => {
                self.break_off(format!("a commit with an unknown outcome: {why}"));
                return Ok(Next::Now);
            }
            Failure::Aborted { fault, renew } => (fault, renew),
        };
        self.needs_producer |= renew && !mutated!("no-new-epoch-after-doubt");
        #[cfg(feature = "mutations")]
        if mutated!("forget-the-aborted-batch") {
            self.results.take_first(assembled.results);
        }
        match &fault {
            Fault::Refused(_) if !assembled.barriers.is_empty() => return Ok(Next::After(self.back_off())),
            // Rule: dead-letter-for-refused.
            Fault::Refused(why) if assembled.results <= 1 => {
                if !self.refuse_first(&why.text) {
                    return Err(FatalError::DeadLettersRefused(why.clone()));
                }
                return Ok(Next::Now);
            }
            Fault::Refused(_) => {
                self.batch_size = (assembled.results / 2).max(1);
                return Ok(Next::Now);
            }
            Fault::TimedOut(_) => self.batch_size = (assembled.results / 2).max(1),
            Fault::NotAMember(_) => {
                self.break_off(fault.to_string());
                return Ok(Next::Now);
            }
            // The topic of a settled record was deleted, or may not be read any more. To send the record's offset again would fail
            // for ever. After another start nothing of that topic is read, and all others go on.
            // (It may also be the offset of an idle source that the group does not take. Then the next transaction is without it.)
            Fault::Abortable(why) if !assembled.has_unsaved && why.code.is_some_and(KafkaErrorCode::is_of_a_topic) => {
                self.break_off(format!("the group does not take the offsets of a source topic: {why}"));
                return Ok(Next::Now);
            }
            _ => {}
        }
        Ok(self.wait("a transaction was aborted and is sent again", &fault, Some(assembled.results)))
    }

    /// Tells the observer how much there is to do.
    pub(super) fn report_load(&mut self) {
        let tally = self.lanes.tally();
        (self.load.queued, self.load.jobs) = (tally.queued, tally.running);
        (self.load.fetches, self.load.waiting_tenants) = (tally.fetching, tally.waiting);
        self.load.results = self.results.len();
        self.load.direct_paths = self.paths.open_count();
        self.observer.load(&self.load);
    }
}

/// Sends what follows from a record.
fn send_result<B: Producer>(
    txn: &mut Transaction<'_, B>,
    finished: &Finished,
    observer: &mut impl Observer,
) -> Result<(), Fault> {
    let Finished { message, tenant, effect, one_by_one, .. } = finished;
    let (origin, tenant) = (&message.origin, tenant.as_ref());
    match effect {
        Effect::Nothing | Effect::TakenOver { .. } => {}
        Effect::Hop(shard) => txn.send(Destination::Shard(*shard), &message.to_hop())?,
        Effect::DeadLetter { letter, minimal } => {
            let verdict = Verdict::DeadLetter(letter.clone());
            observer.settled(Settled { origin, tenant, release: None, verdict: &verdict });
            send_dead_letter(txn, letter, *minimal, finished)?;
        }
        Effect::Handled { verdict, release, .. } => {
            observer.settled(Settled { origin, tenant, release: Some(release), verdict });
            match verdict {
                Verdict::Outputs(outputs) => {
                    for output in outputs {
                        txn.send(Destination::Output(&output.topic), &output.record)?;
                        if *one_by_one {
                            txn.flush()?;
                        }
                    }
                }
                Verdict::DeadLetter(letter) => send_dead_letter(txn, letter, false, finished)?,
                Verdict::Waits(_) => unreachable!("a message that waits has not finished"),
            }
        }
    }
    Ok(())
}

fn send_dead_letter<B: Producer>(
    txn: &mut Transaction<'_, B>,
    letter: &DeadLetter,
    minimal: bool,
    finished: &Finished,
) -> Result<(), Fault> {
    let (record, origin) = (&finished.message.record, &finished.message.origin);
    let record = if minimal { letter.to_minimal_record(record, origin) } else { letter.to_record(record, origin) };
    txn.send(Destination::DeadLetters, &record)
}

/// Writes barriers to their shards.
fn send_barriers<B: Producer>(txn: &mut Transaction<'_, B>, barriers: &[(ShardId, Barrier)]) -> Result<(), Fault> {
    for (shard, barrier) in barriers {
        txn.send(Destination::Shard(*shard), &barrier.to_record())?;
    }
    Ok(())
}

/// Sends what the results changed in the state of their tenants: only the last change of each key.
fn send_changelog<'r, B: Producer>(
    txn: &mut Transaction<'_, B>,
    results: impl Iterator<Item = &'r Finished>,
) -> Result<(), Fault> {
    let mut last: BTreeMap<(ShardId, &TenantId, &str), Option<&[u8]>> = BTreeMap::new();
    for finished in results {
        let (Some(shard), Some(tenant)) = (finished.shard, &finished.tenant) else { continue };
        last.extend(finished.changes().iter().map(|(key, value)| ((shard, tenant, key.as_str()), value.as_deref())));
    }
    for ((shard, tenant, key), value) in last {
        let record =
            Record { key: Some(encode_key(tenant, key)), value: value.map(<[u8]>::to_vec), ..Record::default() };
        txn.send(Destination::Changelog(shard), &record)?;
    }
    Ok(())
}
