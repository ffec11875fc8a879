//! The health of this host's releases, as its workers report it: messages, failures, and which tenant runs which
//! release. And how much the workers have to do.
//!
//! Only committed messages count: the messages of an aborted transaction run again. A tenant is known from its first
//! message after the worker has taken its current routing.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use switchboard_core::record::{Class, TenantId};
use switchboard_core::registry::HostLoad;
use switchboard_core::routing::{Digest, Release};
use switchboard_core::worker::{Load, Observer, Settled, Verdict};

/// The outcomes of a release's messages since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) messages: u64,
    /// Traps, limits, deadlines and outputs that may not be sent, plus tenants whose state the release could not take
    /// over. A sound plugin has none.
    pub(super) failures: u64,
    /// Messages that the plugin called invalid. Their rate depends on the input.
    pub(super) rejections: u64,
}

impl Counts {
    /// The difference to an earlier count.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            messages: self.messages - earlier.messages,
            failures: self.failures - earlier.failures,
            rejections: self.rejections - earlier.rejections,
        }
    }
}

/// The tenants of one worker.
#[derive(Debug, Default)]
struct WorkerTenants {
    running: HashMap<TenantId, Digest>,
    on_fallback: BTreeMap<TenantId, Fallback>,
    waiting: BTreeMap<TenantId, WaitingTenant>,
}

/// The release that a tenant runs instead of its route's, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fallback {
    pub(super) release: Digest,
    pub(super) reason: String,
}

/// Why a tenant's messages wait.
#[derive(Debug, Clone, PartialEq, Eq)]
struct WaitingTenant {
    reason: String,
    /// The release that the tenant ran last, if this host does not have it.
    missing_release: Option<Digest>,
}

/// What became of a release's messages since it was deployed or routed to last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FailureReport {
    pub(super) release: Digest,
    pub(super) counts: Counts,
    pub(super) first: Option<String>,
}

/// The sums of all workers.
#[derive(Debug, Default)]
struct Totals {
    counts: BTreeMap<Digest, Counts>,
    /// The counts of each release when it was deployed or routed to last.
    baseline: BTreeMap<Digest, Counts>,
    /// The first failure of each release since then.
    first_failures: BTreeMap<Digest, String>,
    workers: Vec<WorkerTenants>,
    /// How much each worker has to do. Each worker changes its own after each step, without the lock of the totals.
    loads: Vec<Arc<Mutex<Load>>>,
    /// Tenants whose state a release could not take over. Each counts once, however often the release tries.
    refused: BTreeSet<(TenantId, Digest)>,
    problem_count: u64,
}

impl Totals {
    fn record_failure(&mut self, release: Digest, describe: impl FnOnce() -> String) {
        if let Entry::Vacant(first) = self.first_failures.entry(release) {
            first.insert(describe());
            self.problem_count += 1;
        }
    }
}

/// A poisoned lock is taken too: each critical section leaves the value consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The health of all releases of a process. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ReleaseHealth(Arc<Mutex<Totals>>);

impl ReleaseHealth {
    fn totals(&self) -> MutexGuard<'_, Totals> {
        lock(&self.0)
    }

    /// The observer of one more worker.
    pub fn observer(&self) -> HealthObserver {
        let Totals { workers, loads, .. } = &mut *self.totals();
        let load = Arc::default();
        loads.push(Arc::clone(&load));
        workers.push(WorkerTenants::default());
        HealthObserver { health: self.clone(), worker: workers.len() - 1, uncommitted: Uncommitted::default(), load }
    }

    /// How much all workers have to do. `None`: there is no worker yet.
    pub(super) fn load(&self) -> Option<HostLoad> {
        let totals = self.totals();
        let mut sum = HostLoad::default();
        for load in &totals.loads {
            sum.add(&lock(load));
        }
        (sum.members > 0).then_some(sum)
    }

    /// The outcomes of a release's messages since the process started.
    pub(super) fn counts(&self, release: &Digest) -> Counts {
        self.totals().counts.get(release).copied().unwrap_or_default()
    }

    /// Starts the failure report of a release over: it was deployed or routed to again.
    pub(super) fn reset_failures(&self, release: &Digest) {
        let totals = &mut *self.totals();
        totals.first_failures.remove(release);
        if let Some(counts) = totals.counts.get(release) {
            totals.baseline.insert(*release, *counts);
        }
    }

    /// Grows with each problem that a follower of a change wants to see at once: a release's first failure, a tenant
    /// that runs a fallback release, a tenant that waits.
    pub(super) fn problem_count(&self) -> u64 {
        self.totals().problem_count
    }

    /// Forgets all other releases.
    pub(super) fn retain(&self, releases: &BTreeSet<Digest>) {
        let totals = &mut *self.totals();
        totals.counts.retain(|release, _| releases.contains(release));
        totals.baseline.retain(|release, _| releases.contains(release));
        totals.first_failures.retain(|release, _| releases.contains(release));
        totals.refused.retain(|(_, release)| releases.contains(release));
    }

    /// Releases that tenants of this host run.
    pub(super) fn in_use(&self) -> BTreeSet<Digest> {
        let totals = self.totals();
        let running = totals.workers.iter().flat_map(|worker| worker.running.values().copied());
        let fallbacks = totals.workers.iter().flat_map(|worker| worker.on_fallback.values().map(|it| it.release));
        running.chain(fallbacks).collect()
    }

    /// The first failure of a release since it was deployed or routed to last.
    pub(super) fn first_failure(&self, release: &Digest) -> Option<String> {
        self.totals().first_failures.get(release).cloned()
    }

    /// A report for each release that has had messages.
    pub(super) fn failures(&self) -> Vec<FailureReport> {
        let totals = self.totals();
        let report = |(release, counts): (&Digest, &Counts)| {
            let baseline = totals.baseline.get(release).copied().unwrap_or_default();
            let first = totals.first_failures.get(release).cloned();
            FailureReport { release: *release, counts: counts.since(&baseline), first }
        };
        totals.counts.iter().map(report).collect()
    }

    /// The tenants of each release, sorted.
    pub(super) fn running(&self) -> BTreeMap<Digest, Vec<TenantId>> {
        let mut running: BTreeMap<Digest, Vec<TenantId>> = BTreeMap::new();
        for (tenant, release) in self.totals().workers.iter().flat_map(|worker| &worker.running) {
            running.entry(*release).or_default().push(tenant.clone());
        }
        for tenants in running.values_mut() {
            tenants.sort();
        }
        running
    }

    /// Tenants that run a fallback release.
    pub(super) fn on_fallback(&self) -> BTreeMap<TenantId, Fallback> {
        self.totals().workers.iter().flat_map(|worker| worker.on_fallback.clone()).collect()
    }

    /// Tenants whose messages wait, and the reason.
    pub(super) fn waiting(&self) -> BTreeMap<TenantId, String> {
        let totals = self.totals();
        let waiting = totals.workers.iter().flat_map(|worker| &worker.waiting);
        waiting.map(|(tenant, waiting)| (tenant.clone(), waiting.reason.clone())).collect()
    }

    /// Releases that tenants ran last, and wait for because this host does not have them.
    pub(super) fn missing_releases(&self) -> BTreeSet<Digest> {
        let totals = self.totals();
        let waiting = totals.workers.iter().flat_map(|worker| worker.waiting.values());
        waiting.filter_map(|waiting| waiting.missing_release).collect()
    }
}

/// What one worker has reported since its last commit.
#[derive(Debug, Default)]
struct Uncommitted {
    counts: BTreeMap<Digest, Counts>,
    first_failures: BTreeMap<Digest, String>,
    running: HashMap<TenantId, Digest>,
}

/// Reports what one worker does.
pub struct HealthObserver {
    health: ReleaseHealth,
    worker: usize,
    uncommitted: Uncommitted,
    load: Arc<Mutex<Load>>,
}

impl Observer for HealthObserver {
    fn settled(&mut self, message: Settled<'_>) {
        let Settled { origin, tenant: Some(tenant), release: Some(release), verdict } = message else { return };
        // The release was not called: another release consumes this topic.
        if !release.consumes(&origin.topic) {
            return;
        }
        let counts = self.uncommitted.counts.entry(release.digest).or_default();
        counts.messages += 1;
        if let Verdict::DeadLetter(letter) = verdict {
            match letter.class {
                Class::Invalid => counts.rejections += 1,
                Class::Trap | Class::Deadline | Class::Limit | Class::Output => {
                    counts.failures += 1;
                    let describe = || format!("{letter} (tenant {tenant}, {origin})");
                    self.uncommitted.first_failures.entry(release.digest).or_insert_with(describe);
                }
                // Lookup sources and producers cause these, not the release.
                Class::Lookup | Class::Envelope | Class::Release => {}
            }
        }
        if self.uncommitted.running.get(tenant) != Some(&release.digest) {
            self.uncommitted.running.insert(tenant.clone(), release.digest);
        }
    }

    fn runs_fallback(&mut self, tenant: &TenantId, _: Digest, on: Digest, why: &str) {
        let totals = &mut *self.health.totals();
        let fallback = Fallback { release: on, reason: why.to_owned() };
        let known = totals.workers[self.worker].on_fallback.insert(tenant.clone(), fallback.clone());
        if known != Some(fallback) {
            totals.problem_count += 1;
        }
    }

    fn refused(&mut self, tenant: &TenantId, release: &Release, why: &str) {
        let totals = &mut *self.health.totals();
        if !totals.refused.insert((tenant.clone(), release.digest)) {
            return;
        }
        totals.counts.entry(release.digest).or_default().failures += 1;
        totals.record_failure(release.digest, || format!("{why} (tenant {tenant})"));
    }

    fn waits(&mut self, tenant: &TenantId, missing_release: Option<Digest>, why: &str) {
        let totals = &mut *self.health.totals();
        let waiting = WaitingTenant { reason: why.to_owned(), missing_release };
        let known = totals.workers[self.worker].waiting.insert(tenant.clone(), waiting.clone());
        if known != Some(waiting) {
            totals.problem_count += 1;
        }
    }

    fn rerouted(&mut self) {
        self.uncommitted = Uncommitted::default();
        self.health.totals().workers[self.worker] = WorkerTenants::default();
    }

    fn load(&mut self, load: &Load) {
        *lock(&self.load) = *load;
    }

    fn committed(&mut self) {
        let Uncommitted { counts, first_failures, running } = &mut self.uncommitted;
        let totals = &mut *self.health.totals();
        for (release, added) in std::mem::take(counts) {
            let sum = totals.counts.entry(release).or_default();
            sum.messages += added.messages;
            sum.failures += added.failures;
            sum.rejections += added.rejections;
        }
        for (release, failure) in std::mem::take(first_failures) {
            totals.record_failure(release, || failure);
        }
        // Drained, so that the map keeps its memory for the next transaction.
        totals.workers[self.worker].running.extend(running.drain());
    }

    fn aborted(&mut self) {
        self.uncommitted = Uncommitted::default();
    }
}

#[cfg(test)]
mod tests {
    use switchboard_core::record::{Coordinates, DeadLetter};
    use switchboard_core::routing::Manifest;

    use super::*;

    fn release(number: u8) -> Release {
        let manifest = Manifest {
            name: "n".into(),
            version: "1.0.0".into(),
            consumes: vec!["T".into()],
            produces: vec![],
            lookups: vec![],
            state_version: 1,
        };
        Release::new(Digest::new([number; 32]), manifest)
    }

    fn settle(observer: &mut HealthObserver, tenant: &str, release: &Release, failure: Option<Class>) {
        let origin = Coordinates { topic: "T".into(), partition: 0.into(), offset: 7.into() };
        let verdict = match failure {
            None => Verdict::Outputs(vec![]),
            Some(class) => Verdict::DeadLetter(DeadLetter::new(class, "why")),
        };
        let tenant = TenantId::new(tenant);
        observer.settled(Settled { origin: &origin, tenant: Some(&tenant), release: Some(release), verdict: &verdict });
    }

    #[test]
    fn only_what_is_committed_counts() {
        let health = ReleaseHealth::default();
        let (mut one, mut two, old, new) = (health.observer(), health.observer(), release(1), release(2));
        settle(&mut one, "a", &new, Some(Class::Trap));
        one.aborted();
        assert_eq!(health.counts(&new.digest), Counts::default());
        let not_its_fault = [Class::Lookup, Class::Release].map(Some);
        for class in
            [None, Some(Class::Trap), Some(Class::Invalid), Some(Class::Limit)].into_iter().chain(not_its_fault)
        {
            settle(&mut one, "a", &new, class);
        }
        one.committed();
        settle(&mut two, "b", &old, None);
        two.committed();
        assert_eq!(health.counts(&new.digest), Counts { messages: 6, failures: 2, rejections: 1 });
        assert_eq!(health.first_failure(&new.digest).unwrap(), "trap: why (tenant a, T[0]@7)");
        let tenant = |name: &str| vec![TenantId::new(name)];
        assert_eq!(health.running(), [(old.digest, tenant("b")), (new.digest, tenant("a"))].into());
        one.rerouted();
        assert_eq!(health.running(), [(old.digest, tenant("b"))].into(), "the other worker's tenants stay known");
    }

    #[test]
    fn the_load_of_a_host_is_that_of_all_its_workers() {
        let health = ReleaseHealth::default();
        assert_eq!(health.load(), None);
        let (mut one, mut two) = (health.observer(), health.observer());
        one.load(&Load { queued: 9, ..Load::default() });
        one.load(&Load { queued: 1, transactions: 2, ..Load::default() });
        two.load(&Load { queued: 3, jobs: 1, ..Load::default() });
        let sum = HostLoad { members: 2, queued: 4, jobs: 1, transactions: 2, ..HostLoad::default() };
        assert_eq!(health.load(), Some(sum));
    }

    #[test]
    fn a_report_starts_over_with_a_deployment_and_the_counts_go_on() {
        let health = ReleaseHealth::default();
        let (mut observer, new) = (health.observer(), release(2));
        let report = || health.failures().pop().map(|report| (report.counts, report.first.is_some())).unwrap();
        let trap = |observer: &mut HealthObserver| {
            settle(observer, "a", &new, Some(Class::Trap));
            observer.committed();
        };
        trap(&mut observer);
        let one = Counts { messages: 1, failures: 1, rejections: 0 };
        assert_eq!((report(), health.problem_count()), ((one, true), 1));
        trap(&mut observer);
        assert_eq!(health.problem_count(), 1, "only the first failure is a new problem");
        health.reset_failures(&new.digest);
        assert_eq!(report(), (Counts::default(), false));
        trap(&mut observer);
        assert_eq!((report(), health.problem_count()), ((one, true), 2));
        assert_eq!(health.counts(&new.digest), Counts { messages: 3, failures: 3, rejections: 0 });
    }

    #[test]
    fn tenants_on_a_fallback_and_waiting_tenants_are_known_until_the_next_routing() {
        let health = ReleaseHealth::default();
        let (mut observer, old, new, tenant) = (health.observer(), release(1), release(2), TenantId::new("t"));
        observer.refused(&tenant, &new, "no");
        observer.runs_fallback(&tenant, new.digest, old.digest, "no");
        observer.waits(&tenant, Some(old.digest), "none");
        assert_eq!(health.missing_releases(), [old.digest].into());
        let fallback = Fallback { release: old.digest, reason: "no".into() };
        assert_eq!(health.on_fallback(), [(tenant.clone(), fallback)].into());
        assert_eq!(health.waiting(), [(tenant.clone(), "none".into())].into());
        assert_eq!(health.counts(&new.digest).failures, 1, "a release that cannot take a tenant over has failed");
        let problems = health.problem_count();
        observer.runs_fallback(&tenant, new.digest, old.digest, "no");
        observer.waits(&tenant, Some(old.digest), "none");
        assert_eq!(health.problem_count(), problems, "both were known");
        observer.rerouted();
        assert!(health.on_fallback().is_empty() && health.waiting().is_empty());
    }
}
