//! What an operator does to the group's offsets. Brokers allow it only while the group has no members, so all processes are
//! stopped before.

use std::time::Duration;

use switchboard_core::record::{TenantId, shard_of};
use switchboard_core::worker::{GroupOffset, Partition};

use crate::check::Truth;
use crate::client::World;
use crate::inputs::Input;
use crate::kafka::{Place, WITHOUT_MAP};

/// What an operator waits to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Leaves metadata that no worker can read at one of the offsets.
    Damage,
    /// Commits one of the offsets again, without its metadata.
    Reset,
    /// Puts back what was damaged.
    Repair,
}

impl World {
    /// Does what an operator waits for, if the group has no members. Returns whether it is done.
    pub(crate) fn operate(&mut self, plan: Plan, truth: &Truth<'_>) -> bool {
        if !self.cluster.operator_may_act() {
            return false;
        }
        match plan {
            Plan::Damage => self.damage(),
            Plan::Reset => self.reset(truth),
            Plan::Repair => self.repair(),
        }
        true
    }

    /// One of the partitions with an offset that workers can read. `has_map`: one that lists settled records, as far as its
    /// metadata is longer than without any.
    fn choose(&mut self, has_map: bool) -> Option<(Partition, GroupOffset)> {
        let group = &self.cluster.group;
        let readable = group.committed.iter().filter(|(partition, _)| !group.damaged.contains_key(partition));
        let chosen = readable.filter(|(_, offset)| !(has_map && offset.metadata.len() <= WITHOUT_MAP.len()));
        let chosen: Vec<_> = chosen.map(|(partition, offset)| (*partition, offset.clone())).collect();
        self.cluster.random.choice(chosen)
    }

    fn damage(&mut self) {
        let has_map = self.cluster.random.bool();
        let Some((partition, before)) = self.choose(has_map).or_else(|| self.choose(false)) else { return };
        let mut after = before.clone();
        if before.metadata.len() > 2 && self.cluster.random.bool() {
            after.metadata.truncate(self.cluster.random.usize(1..before.metadata.len()));
        } else {
            after.metadata = "moved by another tool".into();
        }
        tracing::trace!(?partition, ?before, ?after, "damaged");
        self.cluster.group.committed.insert(partition, after.clone());
        self.cluster.group.damaged.insert(partition, after);
        self.originals.insert(partition, before);
    }

    fn repair(&mut self) {
        self.cluster.group.damaged.clear();
        tracing::trace!(originals = ?self.originals, "repaired");
        self.cluster.group.committed.append(&mut self.originals);
    }

    fn reset(&mut self, truth: &Truth<'_>) {
        let Some((partition, before)) = self.choose(true) else { return };
        tracing::trace!(?partition, ?before, "reset");
        let origins: Vec<_> = match partition {
            Partition::Source { .. } => {
                let log = &self.cluster.logs[&Place::Consumed(partition)];
                log.from(before.offset).map(|(offset, _)| (partition, offset)).collect()
            }
            Partition::Shard(_) => {
                let log = &self.cluster.logs[&Place::Consumed(partition)];
                log.from(before.offset).filter_map(|(_, record)| self.cluster.repartitioned(record)).collect()
            }
        };
        let produced = truth.inputs.iter().zip(truth.offsets).enumerate();
        let affected = produced.filter(|(_, (input, offset))| origins.contains(&(input.partition, **offset)));
        self.again.extend(affected.map(|(id, _)| id));
        let offset = before.offset;
        self.cluster.group.committed.insert(partition, GroupOffset { offset, metadata: String::new() });
    }

    /// Whether nothing that no worker can read holds this input up.
    pub(crate) fn is_free(&self, input: &Input, shards: u32) -> bool {
        let shard = input.tenant.as_deref().map(|tenant| Partition::Shard(shard_of(&TenantId::new(tenant), shards)));
        let damaged = &self.cluster.group.damaged;
        !damaged.contains_key(&input.partition) && shard.is_none_or(|shard| !damaged.contains_key(&shard))
    }
}

/// How long all processes are stopped at least, so that the group gives up their memberships and open transactions.
pub(crate) const OUTAGE: Duration = Duration::from_secs(1);
