//! What a message, an instance, a tenant and a worker may use.
//!
//! `Limits` are plain numbers; their defaults are the product's. `MemoryLimiter` enforces those on memories, tables and
//! core instances inside wasmtime. The other limits are enforced where the resource is used.

use std::time::Duration;

use switchboard_core::state::StateLimits;
use wasmtime::ResourceLimiter;

use crate::trap::HostTrap;

/// Bytes that wasmtime uses for an element of a table.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// Limits on plugins. A message that exceeds one becomes a dead letter (class `limit`, or `deadline` for CPU time).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Fuel for one message: about one unit an instruction.
    ///
    /// Fuel is deterministic, so the same message fails on every host or on none. A second account of the same size pays
    /// for the host's work: 200 units a call, and one unit a byte that the call moves.
    pub fuel: u64,
    /// CPU time of the thread that runs a message, for that message. A second limit behind the fuel; load of other processes does not
    /// count.
    pub cpu_time: Duration,
    /// Fuel for the migration of one tenant's state.
    pub migration_fuel: u64,
    /// CPU time for the migration of one tenant's state.
    pub migration_cpu_time: Duration,
    /// Bytes of memories and tables in one instance, summed over its core instances.
    pub memory_bytes: usize,
    /// Core instances in one instance.
    pub core_instances: usize,
    /// Linear memories in one instance.
    pub memories: usize,
    /// Tables in one instance.
    pub tables: usize,
    /// Bytes that a guest passes to the host in one call, or returns as the outputs of one message.
    pub host_call_bytes: usize,
    /// Handles (streams, pollables) that one instance holds at a time.
    pub handles: usize,
    /// Log lines that one tenant writes in a second. A tenant may write as many at once.
    pub log_lines_per_second: u32,
    /// Bytes of an artifact.
    pub artifact_bytes: u64,
    /// Sizes of keys, values and the whole state of one tenant.
    pub state: StateLimits,
    /// Warm instances that one worker keeps, those of lent runners included. Beyond this limit a runner drops the least
    /// recently used idle instance, or its own one. So a worker has at most one more for each message that is being run, and
    /// one for each migration.
    ///
    /// An instance uses about four memory mappings. Linux allows a process 65,530 of them (`vm.max_map_count`), so all
    /// workers of a process together can keep 16,000 instances at most.
    pub warm_instances: usize,
    /// Bytes by which the memories of one worker's warm instances may grow in all, those of lent runners included. Beyond
    /// this limit a runner drops the least recently used idle instances, and in the end its own one. While a message is being
    /// run, its instance may add at most `memory_bytes`.
    pub warm_memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fuel: 200_000_000,
            cpu_time: Duration::from_secs(1),
            migration_fuel: 2_000_000_000,
            migration_cpu_time: Duration::from_secs(5),
            memory_bytes: 64 << 20,
            core_instances: 32,
            memories: 4,
            tables: 8,
            host_call_bytes: 8 << 20,
            handles: 1000,
            log_lines_per_second: 100,
            artifact_bytes: 16 << 20,
            state: StateLimits::default(),
            warm_instances: 2000,
            warm_memory_bytes: 1 << 30,
        }
    }
}

impl Limits {
    /// The same limits, with a migration's fuel and CPU time in place of a message's.
    pub(crate) fn for_migration(self) -> Self {
        Self { fuel: self.migration_fuel, cpu_time: self.migration_cpu_time, ..self }
    }
}

/// Counts the bytes of all memories and tables of an instance. wasmtime's own limits apply to each memory and table
/// alone.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    used_bytes: usize,
    limits: Limits,
}

impl MemoryLimiter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { used_bytes: 0, limits }
    }

    /// Bytes of all memories and tables.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Growth beyond a limit ends the call. If the host only refused, the guest's allocator would abort, and the limit
    /// would look like a bug of the plugin. Growth beyond the maximum that the guest declares is refused: the guest
    /// expects that.
    fn grow(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
        unit_bytes: usize,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let max_bytes = self.limits.memory_bytes;
        let growth_bytes = desired.saturating_sub(current).saturating_mul(unit_bytes);
        let used_bytes = self.used_bytes.saturating_add(growth_bytes);
        if used_bytes > max_bytes {
            return Err(HostTrap::Memory { max_bytes }.into());
        }
        self.used_bytes = used_bytes;
        Ok(true)
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(current, desired, maximum, 1)
    }

    /// wasmtime calls this when the machine has no memory, or when a memory would exceed 4 GiB. Both are limits.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(HostTrap::OutOfMemory(error.to_string()).into())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(current, desired, maximum, TABLE_ELEMENT_BYTES)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(HostTrap::OutOfMemory(error.to_string()).into())
    }

    fn instances(&self) -> usize {
        self.limits.core_instances
    }

    fn memories(&self) -> usize {
        self.limits.memories
    }

    fn tables(&self) -> usize {
        self.limits.tables
    }
}
