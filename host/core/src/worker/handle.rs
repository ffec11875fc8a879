//! One record within an open transaction: what is sent for it, or why the batch ends before it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::assignment::Assignment;
use super::config::WorkerConfig;
use super::fault::Fault;
use super::inbox::{Disposition, Pending};
use super::lookups::Lookups;
use super::observer::{Observer, Settled};
use super::plugins::{Call, Plugins};
use super::ports::{Destination, Partition, Producer};
use super::process::{Need, Verdict, process};
use super::releases::{ChosenRelease, MessageOrigin, Releases};
use super::transaction::Transaction;
use crate::record::{DeadLetter, ShardId, Tenant};
use crate::routing::Release;
use crate::state::TenantState;

/// How a record fared in the open transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handled {
    /// Everything that follows from it is sent. Its offset may be committed.
    Sent,
    /// It stays first in the queue until it has an answer. The transaction ends before it.
    NeedsLookup,
    /// Its tenant has to wait for another routing. The transaction ends before it.
    TenantWaits(ShardId),
}

/// The parts of a worker that handle a record while a transaction is open.
pub(super) struct Handler<'a, P, L, O> {
    pub(super) config: &'a WorkerConfig,
    pub(super) plugins: &'a mut P,
    pub(super) lookups: &'a mut L,
    pub(super) observer: &'a mut O,
    pub(super) releases: &'a mut Releases,
    pub(super) assignment: &'a mut Assignment,
    /// Shards whose state the transaction may have changed.
    pub(super) shards: BTreeSet<ShardId>,
    /// No further plugin call is made after this time.
    pub(super) deadline: Duration,
}

impl<P: Plugins, L: Lookups, O: Observer> Handler<'_, P, L, O> {
    /// Does what is to be done with a record, as its disposition says.
    ///
    /// # Errors
    /// When something could not be sent: the transaction can only be aborted.
    pub(super) fn handle<B: Producer>(
        &mut self,
        txn: &mut Transaction<'_, B>,
        pending: &mut Pending,
    ) -> Result<Handled, Fault> {
        match &pending.disposition {
            Disposition::Skip => {}
            Disposition::Repartition { shard } => txn.send(Destination::Shard(*shard), &pending.record)?,
            Disposition::DeadLetter { letter, minimal } => {
                let verdict = Verdict::DeadLetter(letter.clone());
                let (origin, tenant) = (&pending.origin, pending.tenant.as_ref());
                self.observer.settled(Settled { origin, tenant, release: None, verdict: &verdict });
                send_dead_letter(txn, letter, *minimal, pending)?;
            }
            Disposition::Process { shard, tenant } => {
                let (shard, tenant) = (*shard, Arc::clone(tenant));
                return self.process_one(txn, pending, shard, &tenant);
            }
        }
        Ok(Handled::Sent)
    }

    /// Runs a message on its tenant's state and sends what follows from it.
    fn process_one<B: Producer>(
        &mut self,
        txn: &mut Transaction<'_, B>,
        pending: &mut Pending,
        shard: ShardId,
        tenant: &Tenant,
    ) -> Result<Handled, Fault> {
        self.shards.insert(shard);
        // A transaction with results of a shard sends the shard's offset, also when their records came directly: a pending
        // offset is what makes the shard's next owner wait.
        // Rule: send-offset-of-touched-shard.
        if matches!(pending.partition, Partition::Source { .. }) {
            let next = self.assignment.next_offset(shard);
            txn.starts_at(Partition::Shard(shard), next);
        }
        #[cfg(feature = "mutations")]
        if mutated!("new-routing-within-a-transaction") {
            self.releases.take_early(self.plugins.routing());
        }
        let Some(state) = self.assignment.ready(shard) else {
            unreachable!("a shard is paused until it is restored, and its records go with it")
        };
        // Rule: run-on-all-layers.
        let state = state.tenant(&tenant.id);
        let message = MessageOrigin { alias: &pending.origin.topic, routes: pending.routes };
        let chosen = self.releases.choose(tenant, message, state, self.plugins, self.observer);
        let Ok(ChosenRelease { release, not_consumed }) = chosen else {
            if state.has_staged() && !mutated!("wait-without-an-offset") {
                commit_take_over_first(txn, pending);
            }
            return Ok(Handled::TenantWaits(shard));
        };
        pending.lookups.need = None;
        let verdict = match not_consumed {
            Some(verdict) => verdict,
            None => {
                let message = MessageAtHand { release: &release, tenant, state, pending };
                run(self.config, self.plugins, self.lookups, message, || txn.now() < self.deadline)
            }
        };
        if let Verdict::Waits(need) = verdict {
            if state.has_staged() && !mutated!("takeover-without-an-offset") {
                commit_take_over_first(txn, pending);
            }
            // The tenant's order is kept, and no open transaction waits for an answer.
            pending.lookups.need = Some(need);
            return Ok(Handled::NeedsLookup);
        }
        let (origin, tenant, verdict) = (&pending.origin, Some(&tenant.id), &verdict);
        self.observer.settled(Settled { origin, tenant, release: Some(&release), verdict });
        match verdict {
            Verdict::Outputs(outputs) => {
                for output in outputs {
                    txn.send(Destination::Output(&output.topic), &output.record)?;
                    if pending.one_by_one {
                        txn.flush()?;
                    }
                }
            }
            Verdict::DeadLetter(letter) => send_dead_letter(txn, letter, false, pending)?,
            Verdict::Waits(_) => unreachable!("handled above"),
        }
        Ok(Handled::Sent)
    }
}

/// The message that a release handles.
struct MessageAtHand<'a> {
    release: &'a Arc<Release>,
    tenant: &'a Tenant,
    state: &'a mut TenantState,
    pending: &'a mut Pending,
}

/// Calls the release, again for each answer that is known without waiting. `may_go_on`: whether there is time for that.
fn run(
    config: &WorkerConfig,
    plugins: &mut impl Plugins,
    lookups: &mut impl Lookups,
    message: MessageAtHand<'_>,
    may_go_on: impl Fn() -> bool,
) -> Verdict {
    let MessageAtHand { release, tenant, state, pending } = message;
    let answers = &mut pending.lookups.answers;
    let call = Call { tenant, record: &pending.record, origin: &pending.origin };
    loop {
        let verdict = process(config, plugins, release, state, call, answers);
        let Verdict::Waits(Need::Answer(query)) = &verdict else { return verdict };
        let Some(answer) = lookups.known(tenant, query) else { return verdict };
        answers.insert(query.clone(), answer);
        if !may_go_on() {
            return verdict;
        }
    }
}

/// Commits what the tenant's release staged when it took over, and not the record at hand. The transaction includes the
/// shard's current offset, for two reasons:
///
/// * Only offsets fence the records of the changelog.
/// * The shard's next owner waits only for transactions that include offsets of the shard.
fn commit_take_over_first<B: Producer>(txn: &mut Transaction<'_, B>, pending: &Pending) {
    // Rule: send-offset-of-touched-shard.
    txn.starts_at(pending.partition, pending.offset);
}

fn send_dead_letter<B: Producer>(
    txn: &mut Transaction<'_, B>,
    letter: &DeadLetter,
    minimal: bool,
    pending: &Pending,
) -> Result<(), Fault> {
    let record = if minimal {
        letter.to_minimal_record(&pending.record, &pending.origin)
    } else {
        letter.to_record(&pending.record, &pending.origin)
    };
    txn.send(Destination::DeadLetters, &record)
}
