//! Messages of one tenant, run one after the other by an executor.
//!
//! A job contains all that the messages need: the tenant's state, its wasm instance, and what is known about its release. So an
//! executor shares nothing with the worker, and takes no lock. All of it comes back with the job, and the results.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::config::WorkerConfig;
use super::fetch::LookupProgress;
use super::lookups::Lookups;
use super::message::Message;
use super::plugins::{Call, Runner};
use super::process::{Need, Verdict, process};
use super::releases::{ChosenRelease, Report, TenantRelease};
use crate::record::{ShardId, Tenant};
use crate::routing::Release;
use crate::state::{Change, TenantState, Version};

/// The bytes of outputs and changes at which a job ends, so that results that nobody counts yet stay few.
const MOST_RESULT_BYTES: usize = 1 << 20;

/// What a message, or a release's takeover, did.
#[derive(Debug)]
pub(super) struct JobResult {
    /// The message. A takeover's result has the message that comes next.
    pub(super) message: Arc<Message>,
    /// `None`: the message's release took over the tenant's state. The message is not settled by that.
    pub(super) verdict: Option<Verdict>,
    /// The release that was called.
    pub(super) release: Arc<Release>,
    /// The version of the tenant's state before it.
    pub(super) before: Version,
    /// The version of the tenant's state with these changes.
    pub(super) version: Version,
    /// What it changed, in the order of the keys.
    pub(super) changes: Vec<Change>,
}

/// Why a job ended before its last message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Its first message needs an answer.
    NeedsLookup,
    /// The tenant has to wait for another routing.
    WaitsForRouting,
}

/// Messages of one tenant.
#[derive(Debug)]
pub struct Job<R> {
    /// No other job of the worker has it.
    pub(super) number: u64,
    pub(super) shard: ShardId,
    pub(super) tenant: Arc<Tenant>,
    pub(super) config: Arc<WorkerConfig>,
    pub(super) state: TenantState,
    pub(super) runner: R,
    pub(super) release: TenantRelease,
    /// The messages that were not run yet, in order.
    pub(super) queue: VecDeque<Arc<Message>>,
    /// How far the first of them is with its lookups.
    pub(super) lookups: LookupProgress,
    pub(super) results: Vec<JobResult>,
    pub(super) reports: Vec<Report>,
    pub(super) stopped: Option<Stopped>,
    pub(super) used: Duration,
    /// How long this run took.
    pub(super) took: Duration,
}

impl<R> Job<R> {
    /// The time that the tenant's jobs took so far. A tenant that had none for a while is not ahead of others. Executors run
    /// the job with the smallest one first.
    pub fn used(&self) -> Duration {
        self.used
    }

    /// The tenant. An executor may run its jobs where the last one ran.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }
}

impl<R: Runner> Job<R> {
    /// Runs messages until none is left, or one of them has to wait. After each message `goes_on` may end the run; it gets the
    /// time that the run has taken. `now`: the monotonic time since some fixed point.
    pub fn run(
        &mut self,
        lookups: &impl Lookups,
        now: impl Fn() -> Duration,
        mut goes_on: impl FnMut(Duration) -> bool,
    ) {
        let started = now();
        let mut bytes = 0;
        while let Some(message) = self.queue.front().cloned() {
            if let Err(stopped) = self.run_one(&message, lookups, &now) {
                self.stopped = Some(stopped);
                break;
            }
            self.queue.pop_front();
            self.lookups = LookupProgress::default();
            bytes += self.results.last().map_or(0, JobResult::bytes);
            if bytes >= MOST_RESULT_BYTES || !goes_on(now().saturating_sub(started)) {
                break;
            }
        }
        self.took = now().saturating_sub(started);
        self.used += self.took;
    }

    fn run_one(
        &mut self,
        message: &Arc<Message>,
        lookups: &impl Lookups,
        now: &impl Fn() -> Duration,
    ) -> Result<(), Stopped> {
        let (tenant, state) = (&self.tenant, &mut self.state);
        // Rule: run-on-all-layers.
        let before = state.version();
        let chosen = self.release.choose(tenant, message, state, &mut self.runner, &mut self.reports);
        // What a release staged when it took over. It holds also if the message has to wait.
        if let Some((version, changes)) = state.accept()
            && !mutated!("takeover-outside-the-transaction")
            && let Some(release) = self.release.decided()
        {
            let message = Arc::clone(message);
            self.results.push(JobResult { message, verdict: None, release, before, version, changes });
        }
        let Ok(ChosenRelease { release, not_consumed }) = chosen else { return Err(Stopped::WaitsForRouting) };
        self.lookups.need = None;
        let verdict = match not_consumed {
            Some(verdict) => verdict,
            None => self.call(&release, message, lookups, now),
        };
        if let Verdict::Waits(need) = verdict {
            // The tenant's order is kept: later messages wait too.
            self.lookups.need = Some(need);
            return Err(Stopped::NeedsLookup);
        }
        let before = self.state.version();
        let (version, changes) = self.state.accept().unwrap_or((before, Vec::new()));
        let message = Arc::clone(message);
        self.results.push(JobResult { message, verdict: Some(verdict), release, before, version, changes });
        Ok(())
    }

    /// Calls the release, again for each answer that is known without waiting, as long as there is time for that.
    fn call(
        &mut self,
        release: &Arc<Release>,
        message: &Message,
        lookups: &impl Lookups,
        now: &impl Fn() -> Duration,
    ) -> Verdict {
        let call = Call { tenant: &self.tenant, record: &message.record, origin: &message.origin };
        let mut until = None;
        loop {
            let answers = &mut self.lookups.answers;
            let verdict = process(&self.config, &mut self.runner, release, &mut self.state, call, answers);
            let Verdict::Waits(Need::Answer(query)) = &verdict else { return verdict };
            let Some(answer) = lookups.known(&self.tenant, query) else { return verdict };
            answers.insert(query.clone(), answer);
            let now = now();
            if now >= *until.get_or_insert(now + self.config.batch.time) {
                return verdict;
            }
        }
    }
}

impl JobResult {
    /// Bytes of outputs and changes.
    pub(super) fn bytes(&self) -> usize {
        let outputs = match &self.verdict {
            Some(Verdict::Outputs(outputs)) => outputs.iter().map(|output| output.record.bytes()).sum(),
            _ => 0,
        };
        let change = |(key, value): &Change| key.len() + value.as_ref().map_or(0, |value| value.len());
        outputs + self.changes.iter().map(change).sum::<usize>()
    }
}
