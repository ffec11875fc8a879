use std::time::Duration;

use switchboard_core::state::StateLimits;
use wasmtime::ResourceLimiter;

use super::trap::HostTrap;

/// Bytes that a table's element takes in wasmtime.
const TABLE_ELEMENT: usize = size_of::<usize>();

/// What a message, an instance, a tenant, a worker may use. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Fuel a message, about one unit an instruction; deterministic, so that the same message fails everywhere or
    /// nowhere. What the host does for a message is paid from a second account of the same size: 200 units a call and
    /// one a byte.
    pub fuel: u64,
    /// CPU time of the worker's thread a message, behind the fuel: other processes' load does not count.
    pub cpu_time: Duration,
    /// The same two for a migration of a tenant's state.
    pub migration_fuel: u64,
    pub migration_cpu_time: Duration,
    /// Memories and tables of an instance, in sum over its core instances.
    pub memory: usize,
    /// Core instances in an instance.
    pub core_instances: usize,
    /// Linear memories in an instance.
    pub memories: usize,
    /// Tables in an instance.
    pub tables: usize,
    /// Handed over by the guest in one call of the host, or as a message's outputs.
    pub host_call: usize,
    /// Handles (streams, pollables) that an instance holds at a time.
    pub handles: usize,
    /// Log lines a second a tenant, and as many at once.
    pub log_lines: u32,
    /// Size of an artifact.
    pub artifact: u64,
    pub state: StateLimits,
    /// Tenants whose instance a worker keeps. An instance takes about four of the 65,530 memory mappings that Linux
    /// allows a process (`vm.max_map_count`): at most 16,000 for all workers of a process.
    pub warm_instances: usize,
    /// By how much the memories of a worker's warm instances may have grown in all; beyond, the least recently used
    /// ones are dropped.
    pub warm_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel: 200_000_000,
            cpu_time: Duration::from_secs(1),
            migration_fuel: 2_000_000_000,
            migration_cpu_time: Duration::from_secs(5),
            memory: 64 << 20,
            core_instances: 32,
            memories: 4,
            tables: 8,
            host_call: 8 << 20,
            handles: 1000,
            log_lines: 100,
            artifact: 16 << 20,
            state: StateLimits::default(),
            warm_instances: 2000,
            warm_memory: 1 << 30,
        }
    }
}

impl Limits {
    /// Those of a migration, as if it were a message.
    pub(super) fn of_a_migration(self) -> Self {
        Self { fuel: self.migration_fuel, cpu_time: self.migration_cpu_time, ..self }
    }
}

/// Counts what an instance has of memory: wasmtime's own limits are per memory and per table.
#[derive(Debug)]
pub(super) struct Ledger {
    used: usize,
    most: usize,
    core_instances: usize,
    memories: usize,
    tables: usize,
}

impl Ledger {
    pub(super) fn new(limits: &Limits) -> Self {
        let Limits { memory, core_instances, memories, tables, .. } = *limits;
        Self { used: 0, most: memory, core_instances, memories, tables }
    }

    /// Bytes of all memories and tables.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Growth beyond a limit ends the call: refused, it would be the guest's allocator that aborts, and a limit would
    /// look like a bug of the plugin. Growth beyond the guest's own declared maximum is its own affair.
    fn grow(&mut self, current: usize, desired: usize, maximum: Option<usize>, unit: usize) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let more = desired.saturating_sub(current).saturating_mul(unit);
        let used = self.used.saturating_add(more);
        if used > self.most {
            return Err(HostTrap::Memory { most: self.most }.into());
        }
        self.used = used;
        Ok(true)
    }
}

impl ResourceLimiter for Ledger {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(current, desired, maximum, 1)
    }

    /// Reached when the machine has no memory, or a memory cannot grow beyond 4 GiB: over a limit either way.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(HostTrap::NoMemory(error.to_string()).into())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(current, desired, maximum, TABLE_ELEMENT)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(HostTrap::NoMemory(error.to_string()).into())
    }

    fn instances(&self) -> usize {
        self.core_instances
    }

    fn memories(&self) -> usize {
        self.memories
    }

    fn tables(&self) -> usize {
        self.tables
    }
}
