//! What the workers of this host tell of releases: messages and failures, who runs what, who stays, who waits.
//!
//! Only what is committed counts: a batch that is aborted runs again. Tenants are those that have had a message since the
//! worker took its routing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use switchboard_core::envelope::{Class, Coordinates, TenantId};
use switchboard_core::release::{Digest, Release};
use switchboard_core::worker::{Observer, Verdict};

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

/// Tenants of one worker.
#[derive(Debug, Default)]
struct Tenants {
    running: HashMap<TenantId, Digest>,
    staying: BTreeMap<TenantId, Stays>,
    waiting: BTreeMap<TenantId, String>,
}

/// A tenant that does not run what its route says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stays {
    pub(super) wanted: Digest,
    pub(super) on: Digest,
    pub(super) why: String,
}

#[derive(Debug, Default)]
struct Sums {
    counts: BTreeMap<Digest, Counts>,
    /// The first failure of each release.
    first: BTreeMap<Digest, String>,
    workers: Vec<Tenants>,
}

/// The sums of all workers.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<Sums>>);

impl Tally {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A further worker's observer.
    pub fn observer(&self) -> TallyObserver {
        let workers = &mut self.sums().workers;
        workers.push(Tenants::default());
        TallyObserver { tally: self.clone(), worker: workers.len() - 1, open: Open::default() }
    }

    pub(super) fn counts(&self, release: &Digest) -> Counts {
        self.sums().counts.get(release).copied().unwrap_or_default()
    }

    /// The first failure of a release.
    pub(super) fn first(&self, release: &Digest) -> Option<String> {
        self.sums().first.get(release).cloned()
    }

    /// Each release that has had messages, with its first failure.
    pub(super) fn failures(&self) -> Vec<(Digest, Counts, Option<String>)> {
        let sums = self.sums();
        let told = |(release, counts): (&Digest, &Counts)| (*release, *counts, sums.first.get(release).cloned());
        sums.counts.iter().map(told).collect()
    }

    /// Release -> its tenants, in order.
    pub(super) fn running(&self) -> BTreeMap<Digest, Vec<TenantId>> {
        let mut running: BTreeMap<Digest, Vec<TenantId>> = BTreeMap::new();
        for (tenant, release) in self.sums().workers.iter().flat_map(|worker| &worker.running) {
            running.entry(*release).or_default().push(tenant.clone());
        }
        running.values_mut().for_each(|tenants| tenants.sort());
        running
    }

    pub(super) fn staying(&self) -> BTreeMap<TenantId, Stays> {
        self.sums().workers.iter().flat_map(|worker| worker.staying.clone()).collect()
    }

    pub(super) fn waiting(&self) -> BTreeMap<TenantId, String> {
        self.sums().workers.iter().flat_map(|worker| worker.waiting.clone()).collect()
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
pub struct TallyObserver {
    tally: Tally,
    worker: usize,
    open: Open,
}

impl Observer for TallyObserver {
    fn settled(&mut self, source: &Coordinates, by: (Option<&TenantId>, Option<&Release>), verdict: &Verdict) {
        let (Some(tenant), Some(release)) = by else { return };
        let counts = self.open.counts.entry(release.digest).or_default();
        counts.messages += 1;
        if let Verdict::DeadLetter(letter) = verdict {
            match letter.class {
                Class::Invalid => counts.rejections += 1,
                Class::Trap | Class::Deadline | Class::Limit | Class::Output => {
                    counts.failures += 1;
                    let told = || format!("{letter} (tenant {tenant}, {source})");
                    self.open.first.entry(release.digest).or_insert_with(told);
                }
                // The sources' and the producers' doing.
                Class::Lookup | Class::Envelope => {}
            }
        }
        if self.open.running.get(tenant) != Some(&release.digest) {
            self.open.running.insert(tenant.clone(), release.digest);
        }
    }

    fn stays(&mut self, tenant: &TenantId, wanted: Digest, on: Digest, why: &str) {
        let sums = &mut *self.tally.sums();
        let stays = Stays { wanted, on, why: why.to_owned() };
        sums.workers[self.worker].staying.insert(tenant.clone(), stays);
    }

    fn refused(&mut self, tenant: &TenantId, release: &Release, why: &str) {
        let sums = &mut *self.tally.sums();
        sums.counts.entry(release.digest).or_default().failures += 1;
        sums.first.entry(release.digest).or_insert_with(|| format!("{why} (tenant {tenant})"));
    }

    fn waits(&mut self, tenant: &TenantId, why: &str) {
        self.tally.sums().workers[self.worker].waiting.insert(tenant.clone(), why.to_owned());
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
            sums.first.entry(release).or_insert(text);
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
