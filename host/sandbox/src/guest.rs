//! What a guest's calls of the contract do: state, lookups, log. The data of its store.

use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use switchboard_core::record::{Coordinates, TenantId};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Query};
use tracing::Level;
use wasmtime::component::{HasData, Linker};
use wasmtime::{Result, UpdateDeadline};

use super::bindings::MigratingPlugin;
use super::bindings::switchboard::plugin::state::Entry;
use super::bindings::switchboard::plugin::{logging, lookup, state, types};
use super::guest_log::{Console, LogBudget, Stream};
use super::limits::{Ledger, Limits};
use super::random::Random;
use super::trap::HostTrap;

/// What a call of the host costs, in units of fuel, beside one a byte that it moves.
const HOST_CALL_FUEL: u64 = 200;

/// An instance's side of the host.
pub(super) struct Guest {
    pub(super) ledger: Ledger,
    limits: Limits,
    console: Console,
    budget: LogBudget,
    /// The tenant's, while a message is handled or the state migrated. At other times (while it is instantiated, in
    /// `describe()`) a guest can reach nothing that differs from call to call.
    state: Option<TenantState>,
    /// Only while a message is handled.
    message: Option<Message>,
    random: Random,
    host_fuel: u64,
    /// The thread's CPU time at the first epoch within the call.
    cpu_start: Option<Duration>,
}

/// A message's world, beside its tenant's state.
pub(super) struct Message {
    pub(super) answers: Answers,
    pub(super) source: Coordinates,
    /// Milliseconds since 1970.
    pub(super) timestamp: u64,
}

/// Access to a store's data, for linkers.
pub(super) struct HasGuest;

impl HasData for HasGuest {
    type Data<'a> = &'a mut Guest;
}

/// Links the contract's imports.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    MigratingPlugin::add_to_linker::<_, HasGuest>(linker, |guest| guest)
}

impl Guest {
    pub(super) fn new(plugin: Arc<str>, tenant: TenantId, limits: Limits, budget: LogBudget) -> Self {
        Self {
            ledger: Ledger::new(&limits),
            limits,
            console: Console::new(plugin, tenant),
            budget,
            state: None,
            message: None,
            random: Random::constant(),
            host_fuel: limits.fuel,
            cpu_start: None,
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Before a message's call.
    pub(super) fn begin(&mut self, state: TenantState, message: Message, budget: LogBudget) {
        self.random = Random::of(&message.source);
        self.state = Some(state);
        self.message = Some(message);
        self.budget = budget;
        self.host_fuel = self.limits.fuel;
        self.cpu_start = None;
        self.console.begin_message();
    }

    /// Before a migration, in an instance that has run nothing else: there is no message, its numbers are constant and
    /// its clock is at 0.
    pub(super) fn begin_migration(&mut self, state: TenantState) {
        self.state = Some(state);
    }

    /// After a call, however it ended.
    pub(super) fn end(&mut self) -> (Option<TenantState>, LogBudget) {
        let message = self.message.take();
        self.console.end_message(&mut self.budget, message.as_ref().map(|message| &message.source));
        (self.state.take(), self.budget)
    }

    /// What the guest wrote to stderr last.
    pub(super) fn words(&self) -> &str {
        self.console.words()
    }

    /// Called at each epoch. A thread's CPU time is a system call: so not at the beginning of each message, but from
    /// its first epoch on.
    pub(super) fn check_cpu_time(&mut self) -> Result<UpdateDeadline> {
        let now = cpu_time();
        let start = *self.cpu_start.get_or_insert(now);
        if now.saturating_sub(start) >= self.limits.cpu_time {
            return Err(HostTrap::CpuTime(self.limits.cpu_time).into());
        }
        Ok(UpdateDeadline::Continue(1))
    }

    /// Fuel bounds what the guest does; this bounds what it has the host do. Every host function comes by here.
    pub(super) fn pay(&mut self, bytes: usize) -> Result<()> {
        match self.host_fuel.checked_sub(HOST_CALL_FUEL + bytes as u64) {
            Some(left) => self.host_fuel = left,
            None => return Err(HostTrap::HostFuel { most: self.limits.fuel }.into()),
        }
        Ok(())
    }

    /// Bytes that the host makes for the guest at its word.
    pub(super) fn check_length(&self, length: u64) -> Result<usize> {
        let most = self.limits.host_call;
        usize::try_from(length).ok().filter(|length| *length <= most).ok_or_else(|| HostTrap::HostCall { most }.into())
    }

    /// The time, as far as a guest can know it: it stands still.
    pub(super) fn time(&self) -> Duration {
        Duration::from_millis(self.message.as_ref().map_or(0, |message| message.timestamp))
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    pub(super) fn print(&mut self, stream: Stream, bytes: &[u8]) {
        let source = self.message.as_ref().map(|message| &message.source);
        self.console.write(stream, bytes, &mut self.budget, source);
    }

    fn state(&mut self) -> Result<&mut TenantState> {
        self.state.as_mut().ok_or_else(|| HostTrap::NotNow("state").into())
    }
}

/// CPU time of this thread so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

impl types::Host for Guest {}

impl state::Host for Guest {
    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>> {
        self.pay(key.len())?;
        let value = self.state()?.get(&key).map(<[u8]>::to_vec);
        self.pay(value.as_ref().map_or(0, Vec::len))?;
        Ok(value)
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<()> {
        self.pay(key.len() + value.len())?;
        let limits = self.limits.state;
        Ok(self.state()?.set(&key, value, &limits).map_err(HostTrap::State)?)
    }

    fn delete(&mut self, key: String) -> Result<()> {
        self.pay(key.len())?;
        self.state()?.delete(&key);
        Ok(())
    }

    fn list(&mut self, prefix: String, after: Option<String>, limit: u32) -> Result<Vec<Entry>> {
        self.pay(prefix.len())?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let entries = self.state()?.list(&prefix, after.as_deref(), limit);
        for (key, value) in &entries {
            self.pay(key.len() + value.len())?;
        }
        Ok(entries.into_iter().map(|(key, value)| Entry { key, value }).collect())
    }
}

impl lookup::Host for Guest {
    fn lookup(&mut self, source: String, key: String) -> Result<Option<Vec<u8>>> {
        self.pay(source.len() + key.len())?;
        let query = Query { source, key };
        let message = self.message.as_ref().ok_or(HostTrap::NotNow("a lookup"))?;
        let answer = match message.answers.get(&query) {
            Some(answer) => answer.map(<[u8]>::to_vec),
            // The worker fetches it and makes the call again. A source that is not declared is found out there too.
            None => return Err(HostTrap::Missing(query).into()),
        };
        self.pay(answer.as_ref().map_or(0, Vec::len))?;
        Ok(answer)
    }
}

impl logging::Host for Guest {
    fn log(&mut self, level: logging::Level, message: String) -> Result<()> {
        self.pay(message.len())?;
        let level = match level {
            logging::Level::Trace => Level::TRACE,
            logging::Level::Debug => Level::DEBUG,
            logging::Level::Info => Level::INFO,
            logging::Level::Warn => Level::WARN,
            logging::Level::Error | logging::Level::Critical => Level::ERROR,
        };
        let source = self.message.as_ref().map(|message| &message.source);
        self.console.log(level, &message, &mut self.budget, source);
        Ok(())
    }
}
