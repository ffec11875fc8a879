//! `Worker::step`: what a worker does, in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::assignment::Assignment;
use super::config::WorkerConfig;
use super::executors::Executors;
use super::fault::{Cause, Fault};
use super::intake::Intake;
use super::lanes::Lanes;
use super::message::Memory;
use super::observer::{Load, Observer};
use super::paths::Paths;
use super::plugins::Plugins;
use super::ports::{Broker, Partition};
use super::releases::Releases;
use super::results::Results;
use super::throttled_warn::ThrottledWarn;
use super::transaction::again;
use crate::record::{TenantId, Tenants};

/// How long an idle worker waits for events before it returns to its driver.
pub(super) const IDLE_WAIT: Duration = Duration::from_millis(100);
/// The pause before a failed transaction is sent again. Each failure doubles it, up to the longest.
const SHORTEST_BACKOFF: Duration = Duration::from_millis(10);
/// The longest pause before a failed transaction is sent again.
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

/// Where a worker stands.
///
/// ```text
///            a routing                 joins the group
///  NoRouting ──────────▶ Outside ───────────────────────▶ Member
///                           ▲                               │  a commit with an unknown outcome, the group does not know
///                           │ drops all that is not         │  the member, the consumer cannot go on
///                           │ committed, leaves the group   ▼
///                           └──────────────────────────── Broken
/// ```
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Without a routing it does not know which topics its shards bring.
    NoRouting,
    /// It is not a member of the group.
    Outside,
    /// It is a member of the group, or becomes one.
    Member,
    /// Everything has to start again from what is committed, for this reason.
    Broken(String),
}

/// One member of the group with the shards assigned to it, the source partitions anchored to them, and one transactional
/// producer. Executors run its messages.
pub struct Worker<B, P, E, O = ()> {
    pub(super) config: Arc<WorkerConfig>,
    pub(super) broker: B,
    pub(super) plugins: P,
    pub(super) executors: E,
    pub(super) observer: O,
    pub(super) releases: Releases,
    /// Aliases of all topics consumed so far; `Partition::Source` has their indices.
    pub(super) aliases: Vec<Arc<str>>,
    /// The aliases consumed now.
    consumed: Vec<Arc<str>>,
    pub(super) standing: Standing,
    pub(super) assignment: Assignment,
    /// `Assignment::describe`, as it was logged last.
    owns: String,
    pub(super) tenants: Tenants,
    pub(super) memory: Arc<Memory>,
    pub(super) intake: Intake,
    /// Partitions that are held back while a tenant waits.
    pub(super) held: BTreeMap<Partition, TenantId>,
    pub(super) lanes: Lanes,
    pub(super) results: Results,
    pub(super) paths: Paths,
    /// The most results of the next transaction. Halved after a time-out or a refusal, doubled after a commit.
    pub(super) batch_size: usize,
    /// How long a commit takes, on average.
    pub(super) commit_time: Duration,
    /// The next transaction needs a new producer.
    pub(super) needs_producer: bool,
    /// The next pause after a failure.
    backoff: Duration,
    warnings: ThrottledWarn,
    pub(super) full_warnings: ThrottledWarn,
    pub(super) load: Load,
}

impl<B: Broker, P: Plugins, E: Executors<P::Runner>, O: Observer> Worker<B, P, E, O> {
    /// A worker that has not joined its group yet. `incarnation`: a number that no other run of a worker of the application
    /// has. It names the worker's barriers.
    pub fn new(config: WorkerConfig, incarnation: u64, broker: B, plugins: P, executors: E, observer: O) -> Self {
        Self {
            batch_size: config.batch.records,
            paths: Paths::new(incarnation),
            tenants: Tenants::new(config.tenants.clone()),
            config: Arc::new(config),
            broker,
            plugins,
            executors,
            observer,
            releases: Releases::default(),
            aliases: Vec::new(),
            consumed: Vec::new(),
            standing: Standing::NoRouting,
            assignment: Assignment::default(),
            owns: String::new(),
            memory: Arc::default(),
            intake: Intake::default(),
            held: BTreeMap::new(),
            lanes: Lanes::default(),
            results: Results::default(),
            commit_time: Duration::ZERO,
            needs_producer: true,
            backoff: SHORTEST_BACKOFF,
            warnings: ThrottledWarn::default(),
            full_warnings: ThrottledWarn::default(),
            load: Load::default(),
        }
    }

    /// One bounded piece of work. No transaction is open when it returns.
    ///
    /// # Errors
    /// When this worker can never go on.
    pub fn step(&mut self) -> Result<Next, FatalError> {
        let next = self.go_on();
        self.report_load();
        next
    }

    fn go_on(&mut self) -> Result<Next, FatalError> {
        if let Standing::Broken(why) = &mut self.standing {
            let why = std::mem::take(why);
            return Ok(self.start_again(&why));
        }
        if self.standing == Standing::NoRouting {
            if !self.take_routing() {
                return Ok(Next::After(IDLE_WAIT));
            }
            self.standing = Standing::Outside;
        }
        if self.standing == Standing::Outside
            && let Some(next) = self.join()?
        {
            return Ok(next);
        }
        self.collect();
        self.take_events()?;
        if self.standing != Standing::Member {
            return Ok(Next::Now);
        }
        // As late as possible: a message that was sent after a change of routes must not be handled by the old routes.
        self.take_routing();
        // Before any partition is taken over. A dead predecessor, or this worker before a restart, may have left a
        // transaction open. Stable offsets would wait for it, and the new epoch ends it.
        let no_producer = if self.needs_producer { self.new_producer()? } else { None };
        self.follow_sources();
        self.assignment.advance(&self.config, &mut self.broker);
        if let Some(next) = no_producer {
            return Ok(next);
        }
        self.open_paths();
        self.submit();
        self.collect();
        self.let_go();
        if self.commit_is_due() {
            return self.commit();
        }
        Ok(self.next_without_commit())
    }

    /// Takes the next routing, if there is one. From here on it says which release handles a message.
    fn take_routing(&mut self) -> bool {
        let Some(routing) = self.plugins.routing() else { return false };
        let consumed = routing.consumed();
        for alias in consumed {
            if !self.aliases.contains(alias) {
                self.aliases.push(Arc::clone(alias));
            }
        }
        if self.consumed != consumed || self.standing == Standing::NoRouting {
            let index = |alias| self.aliases.iter().position(|known| known == alias).expect("it was added above");
            let topics: Vec<_> = consumed.iter().map(index).collect();
            self.broker.consume(&self.aliases, &topics);
            self.assignment.consume(&topics);
            self.consumed = consumed.to_vec();
        }
        self.releases.take(routing);
        self.observer.rerouted();
        self.lanes.wake();
        true
    }

    /// Becomes a member of the group. Returns when to try again, if that failed.
    fn join(&mut self) -> Result<Option<Next>, FatalError> {
        match again(&mut self.broker, B::join) {
            Ok(()) => self.standing = Standing::Member,
            Err(Fault::Fenced(why) | Fault::FencedInstance(why)) => return Err(FatalError::Fenced(why)),
            Err(fault) => return Ok(Some(self.wait("the consumer cannot start", &fault, None))),
        }
        Ok(None)
    }

    /// Makes a new producer. Returns when to try again, if that failed.
    pub(super) fn new_producer(&mut self) -> Result<Option<Next>, FatalError> {
        let made = self.broker.renew_producer();
        self.needs_producer = made.is_err();
        match made {
            Ok(()) => Ok(None),
            Err(Fault::Fenced(why) | Fault::FencedInstance(why)) => Err(FatalError::Fenced(why)),
            Err(fault) => Ok(Some(self.wait("no transactional producer", &fault, None))),
        }
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
            self.paths.close(&gone, &[]);
            self.forget(&gone.into_iter().collect());
        }
    }

    /// Drops all that is not committed of partitions that are no longer ours, and what was built on it.
    pub(super) fn forget(&mut self, gone: &BTreeSet<Partition>) {
        self.held.retain(|partition, _| !gone.contains(partition));
        // Rule: drop-direct-records-of-lost-source.
        self.drop_messages(|message| gone.contains(&message.partition));
    }

    /// Has everything start again from what is committed.
    pub(super) fn break_off(&mut self, why: String) {
        self.standing = Standing::Broken(why);
    }

    /// Forgets everything and leaves the group. A later step joins it again: the cause may still be there.
    fn start_again(&mut self, why: &str) -> Next {
        tracing::warn!(reason = %why, "starting again from what is committed");
        for tenant in self.lanes.clear() {
            self.plugins.discard(&tenant);
        }
        self.results = Results::default();
        self.paths.clear();
        self.intake = Intake::default();
        self.held.clear();
        self.assignment.clear(&mut self.broker);
        self.releases.forget_all();
        self.observer.rerouted();
        self.needs_producer = true;
        self.broker.drop_producer();
        self.broker.leave();
        self.standing = Standing::Outside;
        Next::After(self.back_off())
    }

    /// Logs why nothing can be done now. `records`: the size of the transaction that failed. Returns when to try again.
    pub(super) fn wait(&mut self, message: &'static str, reason: &Fault, records: Option<usize>) -> Next {
        let is_due = self.warnings.is_due(self.broker.now(), message, &reason.to_string());
        if is_due {
            tracing::warn!(records, %reason, "{message}");
        }
        Next::After(self.back_off())
    }

    /// Whether nothing has been committed since something went wrong.
    pub(super) fn is_failing(&self) -> bool {
        self.backoff > SHORTEST_BACKOFF
    }

    /// The pause before the next attempt. It grows until a transaction is committed.
    pub(super) fn back_off(&mut self) -> Duration {
        let pause = self.backoff;
        self.backoff = (pause * 2).min(LONGEST_BACKOFF);
        pause
    }

    /// A transaction is committed: the next failure is the first one.
    pub(super) fn has_succeeded(&mut self) {
        self.backoff = SHORTEST_BACKOFF;
    }
}
