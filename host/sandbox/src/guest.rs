//! The host's side of one instance: the data of its wasmtime store, and the contract's imports (state, lookups, log).
//!
//! Every host function charges fuel first and returns at once. None waits: fuel and epochs bound only what runs inside
//! of WebAssembly, so a host function that waits would have no limit.

use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use switchboard_core::record::{Coordinates, TenantId};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Query};
use tracing::Level;
use wasmtime::component::{HasData, Linker};
use wasmtime::{Engine, Result, Store, UpdateDeadline};

use crate::bindings::contract::MigratingPlugin;
use crate::bindings::contract::switchboard::plugin::state::Entry;
use crate::bindings::contract::switchboard::plugin::{logging, lookup, state, types};
use crate::guest_log::{GuestLog, LogBudget, Stream};
use crate::limits::{Limits, MemoryLimiter};
use crate::random::Random;
use crate::trap::HostTrap;

/// Fuel for one call of a host function. Each byte that the call moves costs one unit more.
const HOST_CALL_FUEL: u64 = 200;

/// Epochs between two checks of a running guest's CPU time.
const EPOCHS_PER_CHECK: u64 = 1;

/// What the host knows of one instance.
pub(crate) struct Guest {
    pub(crate) limiter: MemoryLimiter,
    limits: Limits,
    log: GuestLog,
    budget: LogBudget,
    /// The tenant's state, while a message is handled or the state is migrated. At other times (instantiation,
    /// `describe`) a guest can reach nothing that differs from call to call.
    state: Option<TenantState>,
    /// Only while a message is handled.
    message: Option<MessageContext>,
    random: Random,
    /// What is left of the fuel for host functions.
    host_fuel: u64,
    /// The thread's CPU time at the first epoch of the call.
    cpu_start: Option<Duration>,
}

/// What a guest can observe while it handles a message, except for the tenant's state.
pub(crate) struct MessageContext {
    pub(crate) answers: Answers,
    pub(crate) source: Coordinates,
    /// Milliseconds since 1970.
    pub(crate) timestamp: u64,
}

/// Gives linkers access to a store's data.
pub(crate) struct HasGuest;

impl HasData for HasGuest {
    type Data<'a> = &'a mut Guest;
}

/// Links the contract's imports.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> Result<()> {
    MigratingPlugin::add_to_linker::<_, HasGuest>(linker, |guest| guest)
}

/// A store that enforces all limits, with fuel and CPU time for one call.
pub(crate) fn new_store(engine: &Engine, guest: Guest) -> Store<Guest> {
    let limits = guest.limits;
    let mut store = Store::new(engine, guest);
    store.limiter(|guest| &mut guest.limiter);
    store.set_hostcall_fuel(limits.host_call_bytes);
    store.set_max_component_handles(limits.handles);
    store.epoch_deadline_callback(|mut store| store.data_mut().check_cpu_time());
    refuel(&mut store, &limits).expect("fuel is configured");
    store
}

/// Gives a store fuel and CPU time for one call.
pub(crate) fn refuel(store: &mut Store<Guest>, limits: &Limits) -> Result<()> {
    store.set_epoch_deadline(EPOCHS_PER_CHECK);
    store.set_fuel(limits.fuel)
}

impl Guest {
    /// `plugin`: name and version, for log lines.
    pub(crate) fn new(plugin: Arc<str>, tenant: TenantId, limits: Limits, budget: LogBudget) -> Self {
        Self {
            limiter: MemoryLimiter::new(limits),
            limits,
            log: GuestLog::new(plugin, tenant),
            budget,
            state: None,
            message: None,
            random: Random::constant(),
            host_fuel: limits.fuel,
            cpu_start: None,
        }
    }

    /// Before a message's call.
    pub(crate) fn begin_message(&mut self, state: TenantState, message: MessageContext, budget: LogBudget) {
        self.random = Random::of(&message.source);
        self.state = Some(state);
        self.message = Some(message);
        self.budget = budget;
        self.host_fuel = self.limits.fuel;
        self.cpu_start = None;
        self.log.begin_message();
    }

    /// Before a migration, in an instance that has run nothing else. There is no message, so random numbers are constant
    /// and the clock shows 0.
    pub(crate) fn begin_migration(&mut self, state: TenantState) {
        self.state = Some(state);
    }

    /// After a call, however it ended. Returns the state that was moved in, and the tenant's log budget.
    pub(crate) fn end_call(&mut self) -> (Option<TenantState>, LogBudget) {
        let message = self.message.take();
        self.log.end_message(&mut self.budget, message.as_ref().map(|message| &message.source));
        (self.state.take(), self.budget)
    }

    /// What the guest wrote to stderr last.
    pub(crate) fn stderr_tail(&self) -> &str {
        self.log.stderr_tail()
    }

    /// wasmtime calls this at each epoch. Reading a thread's CPU time is a system call, so the measurement starts at a
    /// message's first epoch and not at its beginning.
    fn check_cpu_time(&mut self) -> Result<UpdateDeadline> {
        let now = thread_cpu_time();
        let start = *self.cpu_start.get_or_insert(now);
        if now.saturating_sub(start) >= self.limits.cpu_time {
            return Err(HostTrap::CpuTime(self.limits.cpu_time).into());
        }
        Ok(UpdateDeadline::Continue(EPOCHS_PER_CHECK))
    }

    /// Charges for a call of a host function that moves `bytes`. wasmtime's fuel bounds the guest's own work; this bounds
    /// the work that the guest causes in the host. Every host function calls it.
    pub(crate) fn charge_fuel(&mut self, bytes: usize) -> Result<()> {
        match self.host_fuel.checked_sub(HOST_CALL_FUEL + bytes as u64) {
            Some(left) => self.host_fuel = left,
            None => return Err(HostTrap::HostFuel { max_fuel: self.limits.fuel }.into()),
        }
        Ok(())
    }

    /// Checks a number of bytes that the guest asks the host to produce.
    pub(crate) fn check_length(&self, length: u64) -> Result<usize> {
        let max_bytes = self.limits.host_call_bytes;
        let length = usize::try_from(length).ok().filter(|length| *length <= max_bytes);
        length.ok_or_else(|| HostTrap::HostCall { max_bytes }.into())
    }

    /// The time that the guest's clocks show. It stands still during a call.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_millis(self.message.as_ref().map_or(0, |message| message.timestamp))
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    pub(crate) fn print(&mut self, stream: Stream, bytes: &[u8]) {
        let source = self.message.as_ref().map(|message| &message.source);
        self.log.write(stream, bytes, &mut self.budget, source);
    }

    fn state(&mut self) -> Result<&mut TenantState> {
        self.state.as_mut().ok_or_else(|| HostTrap::Unavailable("state").into())
    }
}

/// CPU time of this thread so far.
fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

impl types::Host for Guest {}

impl state::Host for Guest {
    fn get(&mut self, key: String) -> Result<Option<Vec<u8>>> {
        self.charge_fuel(key.len())?;
        let value = self.state()?.get(&key).map(<[u8]>::to_vec);
        self.charge_fuel(value.as_ref().map_or(0, Vec::len))?;
        Ok(value)
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<()> {
        self.charge_fuel(key.len() + value.len())?;
        let limits = self.limits.state;
        Ok(self.state()?.set(&key, value, &limits).map_err(HostTrap::State)?)
    }

    fn delete(&mut self, key: String) -> Result<()> {
        self.charge_fuel(key.len())?;
        self.state()?.delete(&key);
        Ok(())
    }

    fn list(&mut self, prefix: String, after: Option<String>, limit: u32) -> Result<Vec<Entry>> {
        self.charge_fuel(prefix.len())?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let entries = self.state()?.list(&prefix, after.as_deref(), limit);
        for (key, value) in &entries {
            self.charge_fuel(key.len() + value.len())?;
        }
        Ok(entries.into_iter().map(|(key, value)| Entry { key, value }).collect())
    }
}

impl lookup::Host for Guest {
    fn lookup(&mut self, source: String, key: String) -> Result<Option<Vec<u8>>> {
        self.charge_fuel(source.len() + key.len())?;
        let query = Query { source, key };
        let message = self.message.as_ref().ok_or(HostTrap::Unavailable("a lookup"))?;
        let answer = match message.answers.get(&query) {
            Some(answer) => answer.map(<[u8]>::to_vec),
            // The worker fetches the answer and calls again. It also checks that the manifest declares the source.
            None => return Err(HostTrap::MissingAnswer(query).into()),
        };
        self.charge_fuel(answer.as_ref().map_or(0, Vec::len))?;
        Ok(answer)
    }
}

impl logging::Host for Guest {
    fn log(&mut self, level: logging::Level, message: String) -> Result<()> {
        self.charge_fuel(message.len())?;
        let level = match level {
            logging::Level::Trace => Level::TRACE,
            logging::Level::Debug => Level::DEBUG,
            logging::Level::Info => Level::INFO,
            logging::Level::Warn => Level::WARN,
            logging::Level::Error | logging::Level::Critical => Level::ERROR,
        };
        let source = self.message.as_ref().map(|message| &message.source);
        self.log.log(level, &message, &mut self.budget, source);
        Ok(())
    }
}
