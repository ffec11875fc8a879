//! Jobs: what is handed over to executors, what comes back, and what is undone.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

use super::executors::{Executors, Finished as Done};
use super::fetch::Fetch;
use super::job::{Job, Stopped};
use super::lanes::{Lane, Phase};
use super::message::{Disposition, Message};
use super::observer::Observer;
use super::plugins::Plugins;
use super::ports::{Broker, Partition};
use super::process::Verdict;
use super::releases::Report;
use super::results::{Effect, Finished};
use super::step::Worker;
use crate::record::{Class, DeadLetter, ShardId, TenantId};
use crate::state::Version;

/// The most jobs that are out. Executors should not run out of them while a transaction is committed. Each may come back with
/// about 1 MiB of results, and has its tenant's wasm instance.
const MOST_JOBS: usize = 128;
/// The most messages of a job. While it runs, its tenant's other messages wait.
const MOST_MESSAGES: usize = 256;

/// Results of one tenant that are undone.
#[derive(Debug, Default)]
struct Undone {
    /// The version of the tenant's state before the first of them.
    before: Option<Version>,
    results: usize,
    /// Their messages, which run again.
    messages: Vec<Arc<Message>>,
}

impl Undone {
    fn add(&mut self, finished: Finished) {
        self.before = self.before.or(finished.versions().map(|(before, _)| before));
        self.results += 1;
        if finished.settles() {
            self.messages.push(finished.message);
        }
    }
}

impl<B: Broker, P: Plugins, E: Executors<P::Runner>, O: Observer> Worker<B, P, E, O> {
    /// Hands over the messages of all tenants that are ready.
    pub(super) fn submit(&mut self) {
        // Results that wait for a transaction are bounded, and so are those of jobs that are out.
        while self.results.bytes() < 2 * self.config.batch.bytes && self.lanes.tally().running < MOST_JOBS {
            let Some(tenant) = self.lanes.next_ready() else { return };
            self.submit_one(&tenant);
        }
    }

    fn submit_one(&mut self, id: &TenantId) {
        let lane = self.lanes.get_mut(id).expect("a ready tenant has a lane");
        let (tenant, shard) = (Arc::clone(&lane.tenant), lane.shard);
        let Some(states) = self.assignment.ready(shard) else {
            unreachable!("a shard is paused until it is restored, and its tenants' queues go with it")
        };
        let state = states.take(id);
        let begun = self.lanes.begin_job(id, MOST_MESSAGES, state.version(), self.broker.now());
        self.executors.submit(Job {
            number: begun.number,
            shard,
            tenant,
            config: Arc::clone(&self.config),
            state,
            runner: self.plugins.lend(id),
            release: self.releases.lend(id),
            queue: begun.messages,
            lookups: begun.lookups,
            results: Vec::new(),
            reports: Vec::new(),
            stopped: None,
            used: begun.used,
            took: std::time::Duration::ZERO,
        });
    }

    /// Takes in what executors have finished.
    pub(super) fn collect(&mut self) {
        while let Some(done) = self.executors.finished() {
            match done {
                Done::Job(job) => self.end_job(job),
                Done::Fetch(fetch) => self.end_fetch(fetch),
            }
        }
    }

    fn end_job(&mut self, job: Job<P::Runner>) {
        // A job of a tenant that is no longer ours, or was not for a while: its state is not the tenant's any more.
        // Rule: drop-result-of-abandoned-job.
        let Some((id, running)) = self.lanes.end_job(job.number, job.used, job.took) else { return };
        let Job { shard, mut state, runner, mut release, queue, lookups, results, reports, stopped, .. } = job;
        if let Some(promotion) = running.promotion {
            state.promote(promotion);
        }
        // Rule: drop-result-of-abandoned-job.
        if let Some(version) = running.abandoned
            && !mutated!("result-of-an-abandoned-job-used")
        {
            if !mutated!("run-on-the-state-of-dropped-results") {
                state.drop_after(version);
            }
            release.forget();
            self.releases.give_back(&id, release);
            self.put_back(&id, shard, state);
            self.plugins.discard(&id);
            self.lanes.settle(&id);
            return;
        }
        self.put_back(&id, shard, state);
        self.plugins.give_back(&id, runner);
        let is_current = self.releases.give_back(&id, release);
        if is_current {
            self.report(&id, reports);
        }
        let now = self.broker.now();
        let count = results.len();
        for result in results {
            self.results.push(Finished::of_job(result, id.clone(), shard, now));
        }
        let lane = self.lanes.get_mut(&id).expect("the job's lane is there");
        lane.results += count;
        let left: Vec<_> = queue.into();
        self.lanes.requeue_left(&id, left, lookups);
        match stopped {
            Some(Stopped::NeedsLookup) => self.fetch(&id),
            // The routing that was taken meanwhile may be the one.
            Some(Stopped::WaitsForRouting) if is_current || mutated!("wait-for-a-routing-that-is-taken") => {
                self.lanes.wait(&id);
                self.hold_back_of(&id);
            }
            Some(Stopped::WaitsForRouting) | None => {}
        }
        self.lanes.settle(&id);
    }

    fn put_back(&mut self, id: &TenantId, shard: ShardId, state: crate::state::TenantState) {
        let states = self.assignment.ready(shard).expect("a tenant with a lane is of a shard that is ready");
        states.put(id, state);
    }

    fn report(&mut self, id: &TenantId, reports: Vec<Report>) {
        for report in reports {
            match report {
                Report::RunsFallback { wanted, on, why } => self.observer.runs_fallback(id, wanted, on, &why),
                Report::Refused { release, why } => self.observer.refused(id, &release, &why),
                Report::Waits { missing_release, why } => self.observer.waits(id, missing_release, &why),
            }
        }
    }

    /// Has the answers fetched that the tenant's first message needs.
    fn fetch(&mut self, id: &TenantId) {
        let number = self.lanes.begin_fetch(id);
        self.hold_back_of(id);
        let lane = self.lanes.get_mut(id).expect("a tenant whose message waits has a lane");
        let progress = std::mem::take(&mut lane.lookups);
        let (tenant, lookup_time) = (Arc::clone(&lane.tenant), self.config.lookup_time);
        self.executors.fetch(Fetch { number, tenant, progress, lookup_time, problem: None });
    }

    fn end_fetch(&mut self, fetch: Fetch) {
        let Some((id, is_stale)) = self.lanes.end_fetch(fetch.number) else { return };
        if is_stale {
            self.lanes.settle(&id);
            return;
        }
        let lane = self.lanes.get_mut(&id).expect("the fetch's lane is there");
        lane.lookups = fetch.progress;
        if let Some(reason) = fetch.problem {
            let shard = lane.shard;
            lane.results += 1;
            let message = self.lanes.pop(&id).expect("the message that waits is the first one");
            let letter = DeadLetter::new(Class::Lookup, reason);
            self.results.push(Finished::dead_letter(message, id.clone(), shard, letter, self.broker.now()));
        }
        self.lanes.settle(&id);
    }

    /// Undoes all results of a tenant, and has its messages run again.
    fn roll_back(&mut self, id: &TenantId) {
        let mut undone = Undone::default();
        let is_of_lane = |finished: &Finished| finished.shard.is_some() && finished.tenant.as_ref() == Some(id);
        for finished in self.results.take_if(is_of_lane) {
            undone.add(finished);
        }
        self.undo_after(id, undone);
    }

    /// Drops the changes of undone results, and puts their messages before those that wait. A job that is out is abandoned.
    fn undo_after(&mut self, id: &TenantId, undone: Undone) {
        let Undone { before, results, mut messages } = undone;
        let Some(lane) = self.lanes.get_mut(id) else { return };
        lane.results -= results;
        let shard = lane.shard;
        match &mut lane.phase {
            Phase::Running(running) => {
                // Rule: abandon-job-of-dropped-state.
                let version = before.unwrap_or(running.before);
                running.abandoned = Some(running.abandoned.map_or(version, |earlier| earlier.min(version)));
                messages.extend(running.messages.drain(..));
            }
            _ => {
                if let (Some(version), Some(states)) = (before, self.assignment.ready(shard))
                    && !mutated!("run-on-the-state-of-dropped-results")
                {
                    states.change(id, |state| state.drop_after(version));
                }
                self.plugins.discard(id);
            }
        }
        self.releases.forget(id);
        self.lanes.requeue(id, messages);
    }

    /// Drops all messages for which `is_lost` says so, and undoes what was built on them.
    pub(super) fn drop_messages(&mut self, is_lost: impl Fn(&Message) -> bool) {
        // Rule: drop-results-behind-dropped.
        let mut undone: BTreeMap<TenantId, Undone> = BTreeMap::new();
        let dropped = self.results.take_if(|finished| {
            let lost = is_lost(&finished.message);
            match (&finished.tenant, finished.shard) {
                (Some(tenant), Some(_)) if lost => {
                    undone.entry(tenant.clone()).or_default();
                    true
                }
                (Some(tenant), Some(_)) => undone.contains_key(tenant),
                _ => lost,
            }
        });
        for finished in dropped.into_iter().filter(|finished| finished.shard.is_some()) {
            let tenant = finished.tenant.clone().expect("what a lane has had has a tenant");
            undone.entry(tenant).or_default().add(finished);
        }
        for (tenant, undone) in undone {
            self.undo_after(&tenant, undone);
        }
        for tenant in self.lanes.running(&is_lost) {
            self.undo_after(&tenant, Undone::default());
        }
        self.lanes.drop_queued(&is_lost);
    }

    /// Gives up the queues of these shards. Records that came directly from sources that stay take the hop, in their order,
    /// before any later record of their source does.
    pub(super) fn redirect(&mut self, shards: &[ShardId]) {
        let of_shards = |finished: &Finished| finished.shard.is_some_and(|shard| shards.contains(&shard));
        let finished = self.results.take_if(of_shards);
        let mut direct: Vec<_> = finished
            .into_iter()
            .filter(Finished::settles)
            .filter_map(|finished| Some((finished.tenant?, finished.shard?, finished.message)))
            .collect();
        for Lane { tenant, shard, queue, phase, .. } in self.lanes.remove(shards) {
            let running = if let Phase::Running(running) = phase { running.messages } else { VecDeque::new() };
            let messages = running.into_iter().chain(queue);
            direct.extend(messages.map(|message| (tenant.id.clone(), shard, message)));
            self.plugins.discard(&tenant.id);
        }
        direct.retain(|(_, _, message)| matches!(message.partition, Partition::Source { .. }));
        direct.sort_by_key(|(_, _, message)| (message.partition, message.offset));
        #[cfg(feature = "mutations")]
        if mutated!("forget-direct-records-of-a-lost-shard") {
            self.settle_unseen(direct);
            return;
        }
        // Rule: hop-direct-records-of-lost-shard.
        let now = self.broker.now();
        for (tenant, shard, message) in direct {
            self.results.push(Finished::unhandled(message, Disposition::Repartition { tenant, shard }, now));
        }
    }

    /// Settles records without any effect: a mistake that only a mutation makes.
    #[cfg(feature = "mutations")]
    fn settle_unseen(&mut self, records: Vec<(TenantId, ShardId, Arc<Message>)>) {
        let now = self.broker.now();
        for (_, _, message) in records {
            self.results.push(Finished::unhandled(message, Disposition::Skip, now));
        }
    }

    /// The broker refuses something of the first result, which was alone in its transaction. Takes the next of these steps, and
    /// returns false when there is none:
    ///
    /// 1. its outputs are flushed one by one;
    /// 2. it becomes a dead letter;
    /// 3. it becomes a dead letter with its coordinates only, without key and value.
    pub(super) fn refuse_first(&mut self, reason: &str) -> bool {
        let Some(first) = self.results.front_mut() else { return true };
        match &mut first.effect {
            Effect::DeadLetter { minimal: true, .. } | Effect::Nothing => return false,
            Effect::DeadLetter { minimal, .. } => *minimal = true,
            Effect::Handled { verdict: Verdict::DeadLetter(letter), .. } => {
                // A dead letter changed nothing, so nothing was built on it.
                first.effect = Effect::DeadLetter { letter: letter.clone(), minimal: true };
            }
            Effect::Handled { .. } if !first.one_by_one => first.one_by_one = true,
            Effect::Hop(_) => {
                let letter = DeadLetter::new(Class::Output, reason);
                first.effect = Effect::DeadLetter { letter, minimal: false };
            }
            Effect::Handled { .. } | Effect::TakenOver { .. } => {
                // All that the tenant did since was built on it, and runs again.
                // Rule: drop-results-behind-refused.
                let (Some(id), Some(shard)) = (first.tenant.clone(), first.shard) else {
                    unreachable!("what a release handled has a tenant and its shard")
                };
                self.roll_back(&id);
                let message = self.lanes.pop(&id).expect("the message was put back");
                let lane = self.lanes.get_mut(&id).expect("the message was put back to its lane");
                lane.results += 1;
                let letter = DeadLetter::new(Class::Output, reason);
                let now = self.broker.now();
                // Rule: dead-letter-for-refused.
                self.results.push_front(Finished::dead_letter(message, id.clone(), shard, letter, now));
                self.lanes.settle(&id);
            }
        }
        true
    }
}
