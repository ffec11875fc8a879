//! How many shards does an application have, and why? Pure: no request of its own.
//!
//! The number is chosen when the repartition topic is created: `--shards`, else the largest number of partitions of a
//! consumed topic. Each source partition is read by the owner of the shard `partition mod shards`, so with this number every
//! topic is spread over all shards as evenly as possible. Later the number of partitions of the topic itself holds.

use std::fmt;

use super::topology::Topology;

/// The number of shards, and what decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardCount {
    /// The number of partitions of the repartition topic and of the changelog.
    pub count: u32,
    /// What decided it.
    pub origin: ShardOrigin,
}

/// What decided the number of shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardOrigin {
    /// The setting `--shards`.
    Setting,
    /// An internal topic that exists.
    Existing(String),
    /// The consumed topic with the most partitions.
    Source(String),
}

impl fmt::Display for ShardOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting => f.write_str("--shards"),
            Self::Existing(topic) => write!(f, "partitions of {topic}"),
            Self::Source(topic) => write!(f, "partitions of the largest consumed topic, {topic}"),
        }
    }
}

impl ShardCount {
    /// The number of shards of an application. `configured`: the setting `--shards`. `partitions`: how many partitions a topic
    /// has; `None`: it does not exist. `None`: nothing decides it yet.
    pub(crate) fn find(
        topology: &Topology,
        configured: Option<u32>,
        partitions: impl Fn(&str) -> Option<u32>,
    ) -> Option<Self> {
        if let Some(count) = configured {
            return Some(Self { count, origin: ShardOrigin::Setting });
        }
        for topic in [&topology.repartition, &topology.changelog] {
            if let Some(count) = partitions(topic) {
                return Some(Self { count, origin: ShardOrigin::Existing(topic.clone()) });
            }
        }
        let sources = topology.consumed.iter().filter_map(|topic| Some((partitions(&topic.name)?, &topic.name)));
        let (count, topic) = sources.max_by_key(|(count, _)| *count)?;
        Some(Self { count, origin: ShardOrigin::Source(topic.clone()) })
    }

    /// What the number of partitions of another topic differs from: `--shards is 4`.
    pub(crate) fn claim(&self) -> String {
        let Self { count, origin } = self;
        match origin {
            ShardOrigin::Setting => format!("--shards is {count}"),
            ShardOrigin::Existing(topic) | ShardOrigin::Source(topic) => format!("{topic} has {count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const REPARTITION: &str = "app-switchboard-repartition";
    const CHANGELOG: &str = "app-switchboard-changelog";

    fn find(configured: Option<u32>, existing: &[(&str, u32)]) -> Option<(u32, String)> {
        let topology = Topology::new("app", BTreeMap::new(), |_| None);
        let topology = topology.with(&["A".into(), "B".into(), "C".into()], &["OUT".into()]).unwrap();
        let existing: BTreeMap<_, _> = existing.iter().copied().collect();
        let found = ShardCount::find(&topology, configured, |topic| existing.get(topic).copied())?;
        Some((found.count, found.origin.to_string()))
    }

    #[test]
    fn by_default_there_are_as_many_shards_as_the_largest_consumed_topic_has_partitions() {
        let largest = |topic: &str| format!("partitions of the largest consumed topic, {topic}");
        assert_eq!(find(None, &[("A", 3), ("B", 8), ("C", 4)]), Some((8, largest("B"))));
        assert_eq!(find(None, &[("C", 1)]), Some((1, largest("C"))), "others do not exist yet");
        assert_eq!(find(None, &[("OUT", 64), ("OTHER", 32)]), None, "these are not consumed");
        assert_eq!(find(None, &[]), None);
    }

    #[test]
    fn the_topic_that_exists_holds_and_the_repartition_topic_comes_first() {
        let of = |topic: &str| format!("partitions of {topic}");
        assert_eq!(find(None, &[("A", 8), (REPARTITION, 3), (CHANGELOG, 4)]), Some((3, of(REPARTITION))));
        assert_eq!(find(None, &[("A", 8), (CHANGELOG, 4)]), Some((4, of(CHANGELOG))));
    }

    #[test]
    fn a_configured_number_is_compared_with_the_topics() {
        assert_eq!(find(Some(4), &[("A", 8), (REPARTITION, 3)]), Some((4, "--shards".into())));
        assert_eq!(find(Some(4), &[]), Some((4, "--shards".into())));
    }
}
