//! The numbers of source partitions and of shards.

use super::non_negative::non_negative;

non_negative! {
    /// The number of a partition of a source topic.
    PartitionIndex: i32, "i32", "a partition", from u16, try_from [i32, u32, i64, usize]
}

non_negative! {
    /// The number of a shard: of one partition of the repartition topic and the same partition of the changelog.
    ShardId: i32, "i32", "a shard", from u16, try_from [i32, u32, i64, usize]
}

impl From<PartitionIndex> for ShardId {
    fn from(index: PartitionIndex) -> Self {
        Self(index.0)
    }
}

impl From<ShardId> for PartitionIndex {
    fn from(shard: ShardId) -> Self {
        Self(shard.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_never_negative_and_a_shard_is_one() {
        assert!(PartitionIndex::try_from(-1).is_err());
        assert!(ShardId::try_from(u32::MAX).is_err());
        assert_eq!(PartitionIndex::from(ShardId::from(3)), PartitionIndex::from(3));
        assert_eq!(ShardId::try_from(3_u32).map(i32::from), Ok(3));
    }
}
