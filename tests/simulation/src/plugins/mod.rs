//! The releases that workers run. Each numbers the messages of a tenant, around a plugin whose outputs and state depend on
//! the order of messages.

mod directory;
mod numbered;
mod stock;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use messenger::Messenger;
use switchboard_core::record::{Tenant, TenantId};
use switchboard_core::routing::{Digest, Release, Routing};
use switchboard_core::state::{StateLimits, TenantState};
use switchboard_core::worker::{Answers, Call, MigrateError, Outcome, Plugins, Runner};
use switchboard_sdk::testkit::{Bench, Native};
use switchboard_sdk::{Message, Migrate, Outbound, Rejection};

use crate::client::World;
use crate::control::Reader;

pub(crate) use directory::{Directory, directory};
pub(crate) use numbered::{ID, MORE, ORDER, TRACE, trace};

use numbered::Numbered;
use stock::Stock;

/// A release by its number.
pub(crate) const fn digest(release: u8) -> Digest {
    Digest::new([release; 32])
}

/// A release's number.
pub(crate) fn number(digest: Digest) -> u8 {
    digest.bytes()[0]
}

/// Whether a release's migration of this tenant's state fails half-way.
pub(crate) fn fails(release: u8, tenant: &str) -> bool {
    release == 4 && (tenant.ends_with('0') || tenant.ends_with('2'))
}

/// The plugin of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logic {
    Stock,
    Messenger,
}

impl Logic {
    pub(crate) const RELEASES: std::ops::RangeInclusive<u8> = 1..=4;

    fn plugin(self, release: u8) -> &'static dyn Runs {
        match (self, release) {
            (Self::Stock, 1) => &PhantomData::<Numbered<Stock, 1>>,
            (Self::Stock, 2) => &PhantomData::<Numbered<Stock, 2>>,
            (Self::Stock, 3) => &PhantomData::<Numbered<Stock, 3>>,
            (Self::Stock, _) => &PhantomData::<Numbered<Stock, 4>>,
            (Self::Messenger, 1) => &PhantomData::<Numbered<Messenger, 1>>,
            (Self::Messenger, 2) => &PhantomData::<Numbered<Messenger, 2>>,
            (Self::Messenger, 3) => &PhantomData::<Numbered<Messenger, 3>>,
            (Self::Messenger, _) => &PhantomData::<Numbered<Messenger, 4>>,
        }
    }

    pub(crate) fn release(self, release: u8) -> Release {
        self.plugin(release).release(digest(release))
    }

    /// What a release does with a message, without any worker.
    pub(crate) fn replay(self, release: u8, bench: &mut Bench, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        self.plugin(release).replay(bench, message)
    }

    /// What a release's migration does, without any worker.
    pub(crate) fn replay_migration(self, release: u8, bench: &mut Bench, from: u32) -> Result<(), String> {
        self.plugin(release).replay_migration(bench, from)
    }
}

/// A plugin's ways to be run natively.
trait Runs {
    fn release(&self, digest: Digest) -> Release;

    fn handle(&self, release: &Arc<Release>, call: Call<'_>, state: &mut TenantState, answers: &Answers) -> Outcome;

    fn migrate(&self, from: u32, state: &mut TenantState) -> Result<(), String>;

    fn replay(&self, bench: &mut Bench, message: &Message) -> Result<Vec<Outbound>, Rejection>;

    fn replay_migration(&self, bench: &mut Bench, from: u32) -> Result<(), String>;
}

impl<P: Migrate> Runs for PhantomData<P> {
    fn release(&self, digest: Digest) -> Release {
        Release { migrates: P::FROM.to_vec(), ..Release::new(digest, Native::<P>::manifest()) }
    }

    fn handle(&self, release: &Arc<Release>, call: Call<'_>, state: &mut TenantState, answers: &Answers) -> Outcome {
        Native::<P>::default().handle(release, call, state, answers)
    }

    fn migrate(&self, from: u32, state: &mut TenantState) -> Result<(), String> {
        Native::<P>::migrating().migrate(from, state)
    }

    fn replay(&self, bench: &mut Bench, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        bench.handle::<P>(message)
    }

    fn replay_migration(&self, bench: &mut Bench, from: u32) -> Result<(), String> {
        bench.migrate::<P>(from)
    }
}

/// A process' plugins.
pub(crate) struct Loaded {
    world: Rc<RefCell<World>>,
    logic: Logic,
    reader: Reader,
    /// The number of the runner that each tenant's messages may use.
    lent: BTreeMap<TenantId, u64>,
    next: u64,
}

impl Loaded {
    pub(crate) fn new(world: Rc<RefCell<World>>, logic: Logic, reader: Reader) -> Self {
        Self { world, logic, reader, lent: BTreeMap::new(), next: 0 }
    }
}

/// What runs the messages of one tenant.
pub(crate) struct Lent {
    logic: Logic,
    tenant: TenantId,
    number: u64,
}

impl Plugins for Loaded {
    type Runner = Lent;

    fn routing(&mut self) -> Option<Arc<Routing>> {
        let World { cluster, faults, control, .. } = &mut *self.world.borrow_mut();
        self.reader.read(control, faults, cluster).map(Arc::new)
    }

    fn lend(&mut self, tenant: &TenantId) -> Lent {
        self.next += 1;
        self.lent.insert(tenant.clone(), self.next);
        Lent { logic: self.logic, tenant: tenant.clone(), number: self.next }
    }

    fn give_back(&mut self, tenant: &TenantId, runner: Lent) {
        // A wasm instance that has seen what was dropped since must not be used again.
        if (&runner.tenant, self.lent.remove(tenant)) != (tenant, Some(runner.number)) {
            let problem = format!("the plugins of {tenant} got a runner back that was to be dropped");
            self.world.borrow_mut().problem.get_or_insert(problem);
        }
    }

    fn discard(&mut self, tenant: &TenantId) {
        self.lent.remove(tenant);
    }
}

impl Runner for Lent {
    fn handle(
        &mut self,
        release: &Arc<Release>,
        call: Call<'_>,
        state: &mut TenantState,
        answers: &Answers,
    ) -> Outcome {
        assert_eq!(call.tenant.id, self.tenant, "a runner has one tenant");
        self.logic.plugin(number(release.digest)).handle(release, call, state, answers)
    }

    fn migrate(
        &mut self,
        release: &Arc<Release>,
        tenant: &Tenant,
        from: u32,
        state: &mut TenantState,
    ) -> Result<(), MigrateError> {
        assert_eq!(tenant.id, self.tenant, "a runner has one tenant");
        let release = number(release.digest);
        self.logic.plugin(release).migrate(from, state).map_err(MigrateError::Rejected)?;
        if fails(release, tenant.id.as_str()) {
            // The caller has to drop what it staged.
            let half = state.set("~half", b"way".to_vec(), &StateLimits::default());
            return Err(MigrateError::Rejected(format!("half way: {half:?}")));
        }
        Ok(())
    }
}
