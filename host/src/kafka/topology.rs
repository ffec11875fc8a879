use std::collections::BTreeMap;
use std::sync::Arc;

use switchboard_core::worker::Partition;

/// Names of topics on the broker.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Consumed topics, in the order of `Rules::sources`.
    pub sources: Vec<TopicName>,
    /// Topics that may be produced to.
    pub outputs: Vec<TopicName>,
    pub shards: String,
    pub changelog: String,
    pub dead_letters: String,
    /// Releases and routes.
    pub control: String,
    /// Number of partitions of the shard topic and of the changelog.
    pub shard_count: u32,
}

/// A topic's token and what the broker calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicName {
    pub token: Arc<str>,
    pub name: String,
}

/// Names that contradict each other.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error(
        "the tokens {0} and {1} both name the topic {2:?}: a consumed topic must have one token. Set {1} to another topic"
    )]
    SameSource(Arc<str>, Arc<str>, String),
    #[error(
        "{token} names the topic {name:?}, which is Switchboard's own. Set {token} to another topic, or change --app"
    )]
    Internal { token: Arc<str>, name: String },
}

impl Topology {
    /// Finds the broker's name of each token: the environment variable of that name, else the configured one, else the
    /// token itself.
    ///
    /// # Errors
    /// When two tokens consume the same topic, or a token names an internal one.
    pub fn resolve(
        app: &str,
        consumes: &[Arc<str>],
        produces: &[Arc<str>],
        configured: &BTreeMap<String, String>,
        environment: impl Fn(&str) -> Option<String>,
        shard_count: u32,
    ) -> Result<Self, TopologyError> {
        let resolve = |token: &Arc<str>| {
            let variable = environment(token).filter(|name| !name.is_empty());
            let name = variable.or_else(|| configured.get(&**token).cloned()).unwrap_or_else(|| token.to_string());
            TopicName { token: Arc::clone(token), name }
        };
        let topology = Self {
            sources: consumes.iter().map(resolve).collect(),
            outputs: produces.iter().map(resolve).collect(),
            shards: format!("{app}-shards"),
            changelog: format!("{app}-state"),
            dead_letters: format!("{app}-dead-letters"),
            control: format!("{app}-control"),
            shard_count,
        };
        for (place, topic) in topology.sources.iter().enumerate() {
            if let Some(other) = topology.sources[..place].iter().find(|other| other.name == topic.name) {
                let (first, second) = (Arc::clone(&other.token), Arc::clone(&topic.token));
                return Err(TopologyError::SameSource(first, second, topic.name.clone()));
            }
        }
        let internal = [&topology.shards, &topology.changelog, &topology.dead_letters, &topology.control];
        if let Some(topic) = topology.sources.iter().chain(&topology.outputs).find(|t| internal.contains(&&t.name)) {
            return Err(TopologyError::Internal { token: Arc::clone(&topic.token), name: topic.name.clone() });
        }
        Ok(topology)
    }

    /// The topics that the group subscribes to.
    pub fn consumed(&self) -> Vec<&str> {
        self.sources.iter().map(|topic| topic.name.as_str()).chain([self.shards.as_str()]).collect()
    }

    /// A consumed partition by the broker's names; `None` for a topic that is not consumed.
    pub(super) fn partition(&self, topic: &str, index: i32) -> Option<Partition> {
        if topic == self.shards {
            return Some(Partition::Shard(index));
        }
        let topic = self.sources.iter().position(|source| source.name == topic)?;
        Some(Partition::Source { topic, index })
    }

    /// The inverse of `partition`.
    pub(super) fn name(&self, partition: Partition) -> (&str, i32) {
        match partition {
            Partition::Source { topic, index } => (&self.sources[topic].name, index),
            Partition::Shard(index) => (&self.shards, index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(environment: &[(&str, &str)], configured: &[(&str, &str)]) -> Result<Topology, TopologyError> {
        let configured = configured.iter().map(|(token, name)| ((*token).into(), (*name).into())).collect();
        let variable =
            |token: &str| environment.iter().find(|(name, _)| *name == token).map(|(_, value)| (*value).into());
        Topology::resolve("app", &["A".into(), "B".into()], &["C".into()], &configured, variable, 4)
    }

    #[test]
    fn environment_comes_before_config_and_config_before_the_token() {
        let topology = resolve(&[("A", "env-a"), ("C", "")], &[("A", "config-a"), ("B", "config-b")]).unwrap();
        assert_eq!(topology.consumed(), ["env-a", "config-b", "app-shards"]);
        assert_eq!(topology.outputs[0].name, "C", "an empty variable is none");
        for partition in [Partition::Source { topic: 1, index: 3 }, Partition::Shard(2)] {
            let (name, index) = topology.name(partition);
            assert_eq!(topology.partition(name, index), Some(partition));
        }
    }

    #[test]
    fn contradicting_names_are_refused() {
        assert!(matches!(resolve(&[("A", "same"), ("B", "same")], &[]), Err(TopologyError::SameSource(..))));
        assert!(matches!(resolve(&[], &[("C", "app-state")]), Err(TopologyError::Internal { .. })));
    }
}
