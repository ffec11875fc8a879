//! The consumer group: who owns `p` and `s`, in which generation, and whose offsets the coordinator accepts.

use std::fmt;

/// The two partitions whose owner matters. A partition without a committed offset is none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Partition {
    /// `p`, a source partition. Its owner is that of the shard to which it is anchored.
    Source,
    /// `s`, a shard.
    Shard,
}

impl Partition {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Source, Self::Shard];
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "p",
            Self::Shard => "s",
        })
    }
}

/// To which shard `p` is anchored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// To `s`: both always have the same owner.
    SameShard,
    /// To another shard: each has an owner of its own.
    OtherShard,
}

/// By what the group coordinator refuses the offsets of a former owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fencing {
    /// By the generation: the classic protocol, and KIP-848 before Kafka 4.4. An old generation is refused.
    Generation,
    /// By partition: KIP-848 of Kafka 4.4. An old generation is accepted for partitions that the member has held since then.
    Partition,
}

/// The state of the group coordinator. One generation covers `p` and `s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// The current generation.
    pub generation: u8,
    owners: [u8; 2],
    since: [u8; 2],
}

impl Group {
    /// Member 0 owns both partitions in the first generation.
    pub fn start() -> Self {
        Self { generation: 1, owners: [0; 2], since: [1; 2] }
    }

    /// The owner of a partition.
    pub fn owner(&self, partition: Partition) -> u8 {
        self.owners[partition as usize]
    }

    /// Whether the member has owned the partition without a break since it learned of `generation`.
    pub fn owned_since(&self, member: u8, partition: Partition, generation: u8) -> bool {
        self.owner(partition) == member && self.since[partition as usize] <= generation
    }

    /// A new generation in which the other member owns the partitions.
    pub fn move_to_other(&mut self, partitions: &[Partition]) {
        self.generation += 1;
        for partition in partitions {
            self.owners[*partition as usize] ^= 1;
            self.since[*partition as usize] = self.generation;
        }
    }

    /// Whether the coordinator accepts an offset. It does not ask who owns the partition: the current generation is enough.
    pub fn accepts(&self, fencing: Fencing, member: u8, generation: u8, partition: Partition) -> bool {
        generation == self.generation
            || fencing == Fencing::Partition && self.owned_since(member, partition, generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_generation_is_accepted_by_partition_for_what_the_member_still_holds() {
        let mut group = Group::start();
        group.move_to_other(&[Partition::Source]);
        let accepts = |fencing, generation, partition| group.accepts(fencing, 0, generation, partition);
        assert!(accepts(Fencing::Partition, 1, Partition::Shard));
        assert!(!accepts(Fencing::Partition, 1, Partition::Source));
        assert!(!accepts(Fencing::Generation, 1, Partition::Shard));
        // Who has joined again is not asked whose a partition is.
        assert!(accepts(Fencing::Partition, 2, Partition::Source));
        assert!(accepts(Fencing::Generation, 2, Partition::Source));
    }

    #[test]
    fn a_partition_that_came_back_counts_as_lost() {
        let mut group = Group::start();
        group.move_to_other(&[Partition::Source]);
        group.move_to_other(&[Partition::Source]);
        assert_eq!(group.owner(Partition::Source), 0);
        assert!(!group.owned_since(0, Partition::Source, 1));
        assert!(group.owned_since(0, Partition::Shard, 1));
    }
}
