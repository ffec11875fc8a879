//! What the workers of this host tell of releases: messages and failures, who runs what, who stays, who waits.
//!
//! Only what is committed counts: a batch that is aborted runs again. Tenants are those that have had a message since the
//! worker took its routing.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use switchboard_core::record::{Class, TenantId};
use switchboard_core::routing::{Digest, Release};
use switchboard_core::worker::{Observer, Settled, Verdict};

/// What has become of a release's messages since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) messages: u64,
    /// Traps, limits, deadlines, outputs that may not be sent: what a sound plugin never has. Tenants whose state it could
    /// not take over count too.
    pub(super) failures: u64,
    /// Messages that the plugin called invalid: every plugin has them, at a rate of its input.
    pub(super) rejections: u64,
}

impl Counts {
    /// What has come since an earlier count.
    pub(super) fn since(&self, before: &Self) -> Self {
        Self {
            messages: self.messages - before.messages,
            failures: self.failures - before.failures,
            rejections: self.rejections - before.rejections,
        }
    }
}

/// Tenants of one worker.
#[derive(Debug, Default)]
struct Tenants {
    running: HashMap<TenantId, Digest>,
    staying: BTreeMap<TenantId, Stays>,
    /// Why, and the release that it ran last where this host does not have that.
    waiting: BTreeMap<TenantId, (String, Option<Digest>)>,
}

/// A tenant that does not run what its route says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stays {
    pub(super) on: Digest,
    pub(super) why: String,
}

#[derive(Debug, Default)]
struct Sums {
    counts: BTreeMap<Digest, Counts>,
    /// What of that was before the release was deployed or routed to last.
    before: BTreeMap<Digest, Counts>,
    /// The first failure of each release since then.
    first: BTreeMap<Digest, String>,
    workers: Vec<Tenants>,
    /// Who was refused by which release: that counts once, however often it is tried.
    refused: BTreeSet<(TenantId, Digest)>,
    /// Counts up.
    troubles: u64,
}

impl Sums {
    fn failed(&mut self, release: Digest, told: impl FnOnce() -> String) {
        if let Entry::Vacant(first) = self.first.entry(release) {
            first.insert(told());
            self.troubles += 1;
        }
    }
}

/// The sums of all workers.
#[derive(Debug, Clone, Default)]
pub struct ReleaseHealth(Arc<Mutex<Sums>>);

impl ReleaseHealth {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A further worker's observer.
    pub fn observer(&self) -> HealthObserver {
        let workers = &mut self.sums().workers;
        workers.push(Tenants::default());
        HealthObserver { tally: self.clone(), worker: workers.len() - 1, open: Open::default() }
    }

    pub(super) fn counts(&self, release: &Digest) -> Counts {
        self.sums().counts.get(release).copied().unwrap_or_default()
    }

    /// It is deployed or routed to anew: what is told of its failures begins here.
    pub(super) fn begin(&self, release: &Digest) {
        let sums = &mut *self.sums();
        sums.first.remove(release);
        if let Some(counts) = sums.counts.get(release) {
            sums.before.insert(*release, *counts);
        }
    }

    /// Another number whenever there is something new that somebody who follows a change wants to hear of at once: a release's
    /// first failure, a tenant that stays or waits.
    pub(super) fn troubles(&self) -> u64 {
        self.sums().troubles
    }

    /// Forgets all other releases.
    pub(super) fn keep(&self, releases: &BTreeSet<Digest>) {
        let sums = &mut *self.sums();
        sums.counts.retain(|release, _| releases.contains(release));
        sums.before.retain(|release, _| releases.contains(release));
        sums.first.retain(|release, _| releases.contains(release));
        sums.refused.retain(|(_, release)| releases.contains(release));
    }

    /// Releases that tenants of this host run.
    pub(super) fn in_use(&self) -> BTreeSet<Digest> {
        let sums = self.sums();
        let staying = sums.workers.iter().flat_map(|worker| worker.staying.values().map(|stays| stays.on));
        sums.workers.iter().flat_map(|worker| worker.running.values().copied()).chain(staying).collect()
    }

    /// The first failure of a release.
    pub(super) fn first(&self, release: &Digest) -> Option<String> {
        self.sums().first.get(release).cloned()
    }

    /// What has become of each release's messages since it was deployed or routed to last, with its first failure.
    pub(super) fn failures(&self) -> Vec<(Digest, Counts, Option<String>)> {
        let sums = self.sums();
        let told = |(release, counts): (&Digest, &Counts)| {
            let before = sums.before.get(release).copied().unwrap_or_default();
            (*release, counts.since(&before), sums.first.get(release).cloned())
        };
        sums.counts.iter().map(told).collect()
    }

    /// Release -> its tenants, in order.
    pub(super) fn running(&self) -> BTreeMap<Digest, Vec<TenantId>> {
        let mut running: BTreeMap<Digest, Vec<TenantId>> = BTreeMap::new();
        for (tenant, release) in self.sums().workers.iter().flat_map(|worker| &worker.running) {
            running.entry(*release).or_default().push(tenant.clone());
        }
        for tenants in running.values_mut() {
            tenants.sort();
        }
        running
    }

    pub(super) fn staying(&self) -> BTreeMap<TenantId, Stays> {
        self.sums().workers.iter().flat_map(|worker| worker.staying.clone()).collect()
    }

    pub(super) fn waiting(&self) -> BTreeMap<TenantId, String> {
        let sums = self.sums();
        let waiting = sums.workers.iter().flat_map(|worker| &worker.waiting);
        waiting.map(|(tenant, (why, _))| (tenant.clone(), why.clone())).collect()
    }

    /// Releases that tenants ran last and wait for.
    pub(super) fn lacking(&self) -> BTreeSet<Digest> {
        self.sums().workers.iter().flat_map(|worker| worker.waiting.values().filter_map(|(_, lacks)| *lacks)).collect()
    }
}

/// What one worker has told since its last commit.
#[derive(Debug, Default)]
struct Open {
    counts: BTreeMap<Digest, Counts>,
    first: BTreeMap<Digest, String>,
    running: HashMap<TenantId, Digest>,
}

/// One worker's end of the tally.
pub struct HealthObserver {
    tally: ReleaseHealth,
    worker: usize,
    open: Open,
}

impl Observer for HealthObserver {
    fn settled(&mut self, message: Settled<'_>) {
        let Settled { origin, tenant: Some(tenant), release: Some(release), verdict } = message else { return };
        // It was not called: the record's topic is another release's.
        if !release.consumes(&origin.topic) {
            return;
        }
        let counts = self.open.counts.entry(release.digest).or_default();
        counts.messages += 1;
        if let Verdict::DeadLetter(letter) = verdict {
            match letter.class {
                Class::Invalid => counts.rejections += 1,
                Class::Trap | Class::Deadline | Class::Limit | Class::Output => {
                    counts.failures += 1;
                    let told = || format!("{letter} (tenant {tenant}, {origin})");
                    self.open.first.entry(release.digest).or_insert_with(told);
                }
                // The sources' and the producers' doing; and what a release was not asked for is no failure of it.
                Class::Lookup | Class::Envelope | Class::Release => {}
            }
        }
        if self.open.running.get(tenant) != Some(&release.digest) {
            self.open.running.insert(tenant.clone(), release.digest);
        }
    }

    fn stays(&mut self, tenant: &TenantId, _: Digest, on: Digest, why: &str) {
        let sums = &mut *self.tally.sums();
        let stays = Stays { on, why: why.to_owned() };
        if sums.workers[self.worker].staying.insert(tenant.clone(), stays.clone()) != Some(stays) {
            sums.troubles += 1;
        }
    }

    fn refused(&mut self, tenant: &TenantId, release: &Release, why: &str) {
        let sums = &mut *self.tally.sums();
        if !sums.refused.insert((tenant.clone(), release.digest)) {
            return;
        }
        sums.counts.entry(release.digest).or_default().failures += 1;
        sums.failed(release.digest, || format!("{why} (tenant {tenant})"));
    }

    fn waits(&mut self, tenant: &TenantId, lacks: Option<Digest>, why: &str) {
        let (sums, waits) = (&mut *self.tally.sums(), (why.to_owned(), lacks));
        if sums.workers[self.worker].waiting.insert(tenant.clone(), waits.clone()) != Some(waits) {
            sums.troubles += 1;
        }
    }

    fn rerouted(&mut self) {
        self.open = Open::default();
        self.tally.sums().workers[self.worker] = Tenants::default();
    }

    fn committed(&mut self) {
        let Open { counts, first, running } = &mut self.open;
        let sums = &mut *self.tally.sums();
        for (release, more) in std::mem::take(counts) {
            let sum = sums.counts.entry(release).or_default();
            sum.messages += more.messages;
            sum.failures += more.failures;
            sum.rejections += more.rejections;
        }
        for (release, text) in std::mem::take(first) {
            sums.failed(release, || text);
        }
        let known = &mut sums.workers[self.worker].running;
        for (tenant, release) in running.drain() {
            known.insert(tenant, release);
        }
    }

    fn aborted(&mut self) {
        self.open = Open::default();
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
        let tally = ReleaseHealth::default();
        let (mut one, mut two, old, new) = (tally.observer(), tally.observer(), release(1), release(2));
        settle(&mut one, "a", &new, Some(Class::Trap));
        one.aborted();
        assert_eq!(tally.counts(&new.digest), Counts::default());
        let not_its_own = [Class::Lookup, Class::Release].map(Some);
        for class in [None, Some(Class::Trap), Some(Class::Invalid), Some(Class::Limit)].into_iter().chain(not_its_own)
        {
            settle(&mut one, "a", &new, class);
        }
        one.committed();
        settle(&mut two, "b", &old, None);
        two.committed();
        assert_eq!(tally.counts(&new.digest), Counts { messages: 6, failures: 2, rejections: 1 });
        assert_eq!(tally.first(&new.digest).unwrap(), "trap: why (tenant a, T[0]@7)");
        let tenant = |name: &str| vec![TenantId::new(name)];
        assert_eq!(tally.running(), [(old.digest, tenant("b")), (new.digest, tenant("a"))].into());
        one.rerouted();
        assert_eq!(tally.running(), [(old.digest, tenant("b"))].into(), "those of the other worker are still so");
    }

    #[test]
    fn failures_are_told_from_the_last_deployment_on_and_gates_see_all() {
        let tally = ReleaseHealth::default();
        let (mut observer, new) = (tally.observer(), release(2));
        let told = || tally.failures().pop().map(|(_, counts, first)| (counts, first.is_some())).unwrap();
        let trap = |observer: &mut HealthObserver| {
            settle(observer, "a", &new, Some(Class::Trap));
            observer.committed();
        };
        trap(&mut observer);
        let one = Counts { messages: 1, failures: 1, rejections: 0 };
        assert_eq!((told(), tally.troubles()), ((one, true), 1));
        trap(&mut observer);
        assert_eq!(tally.troubles(), 1, "that it fails is no news");
        tally.begin(&new.digest);
        assert_eq!(told(), (Counts::default(), false));
        trap(&mut observer);
        assert_eq!((told(), tally.troubles()), ((one, true), 2));
        assert_eq!(tally.counts(&new.digest), Counts { messages: 3, failures: 3, rejections: 0 });
    }

    #[test]
    fn who_stays_and_who_waits_is_told_until_the_next_routing() {
        let tally = ReleaseHealth::default();
        let (mut observer, old, new, tenant) = (tally.observer(), release(1), release(2), TenantId::new("t"));
        observer.refused(&tenant, &new, "no");
        observer.stays(&tenant, new.digest, old.digest, "no");
        observer.waits(&tenant, Some(old.digest), "none");
        assert_eq!(tally.lacking(), [old.digest].into());
        let stays = Stays { on: old.digest, why: "no".into() };
        assert_eq!(tally.staying(), [(tenant.clone(), stays)].into());
        assert_eq!(tally.waiting(), [(tenant.clone(), "none".into())].into());
        assert_eq!(tally.counts(&new.digest).failures, 1, "a release that cannot take its tenants over fails");
        let troubles = tally.troubles();
        observer.stays(&tenant, new.digest, old.digest, "no");
        observer.waits(&tenant, Some(old.digest), "none");
        assert_eq!(tally.troubles(), troubles, "that was known");
        observer.rerouted();
        assert!(tally.staying().is_empty() && tally.waiting().is_empty());
    }
}
