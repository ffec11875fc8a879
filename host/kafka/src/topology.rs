use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Names of topics on the broker.
#[derive(Debug, Clone)]
pub struct Topology {
    names: Names,
    /// Consumed topics.
    pub sources: Vec<TopicName>,
    /// Topics that may be produced to.
    pub outputs: Vec<TopicName>,
    pub shards: String,
    pub changelog: String,
    pub dead_letters: String,
    /// Releases and routes.
    pub control: String,
    /// Number of partitions of the repartition topic and of the changelog.
    pub shard_count: u32,
}

/// The value of a variable.
type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Finds the broker's name of an alias: the environment variable of that name, else the configured one, else the alias itself.
#[derive(Clone)]
struct Names {
    configured: BTreeMap<String, String>,
    environment: Environment,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.configured.fmt(f)
    }
}

impl Names {
    fn resolve(&self, alias: &Arc<str>) -> TopicName {
        let variable = (self.environment)(alias).filter(|name| !name.is_empty());
        let name = variable.or_else(|| self.configured.get(&**alias).cloned()).unwrap_or_else(|| alias.to_string());
        TopicName { alias: Arc::clone(alias), name }
    }
}

/// A topic's alias and what the broker calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicName {
    pub alias: Arc<str>,
    pub name: String,
}

/// Names that contradict each other.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error(
        "the aliases {0} and {1} both name the topic {2:?}: a consumed topic must have one alias. Set {1} to another topic"
    )]
    SameSource(Arc<str>, Arc<str>, String),
    #[error(
        "{alias} names the topic {name:?}, which is Switchboard's own. Set {alias} to another topic, or change --app"
    )]
    Internal { alias: Arc<str>, name: String },
}

impl Topology {
    /// An application's own topics; it consumes and produces none yet.
    pub fn new(
        app: &str,
        configured: BTreeMap<String, String>,
        environment: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
        shard_count: u32,
    ) -> Self {
        Self {
            names: Names { configured, environment: Arc::new(environment) },
            sources: Vec::new(),
            outputs: Vec::new(),
            shards: format!("{app}-switchboard-repartition"),
            changelog: format!("{app}-switchboard-changelog"),
            dead_letters: format!("{app}-switchboard-dead-letters"),
            control: format!("{app}-switchboard-control"),
            shard_count,
        }
    }

    /// The same application with these aliases; each is the environment variable's of its name, else the configured name, else
    /// the alias itself.
    ///
    /// # Errors
    /// When two aliases consume the same topic, or an alias names an internal one.
    pub fn with<'a>(
        &self,
        consumes: impl IntoIterator<Item = &'a Arc<str>>,
        produces: impl IntoIterator<Item = &'a Arc<str>>,
    ) -> Result<Self, TopologyError> {
        let resolve =
            |aliases: BTreeSet<&Arc<str>>| aliases.into_iter().map(|alias| self.names.resolve(alias)).collect();
        let topology = Self {
            sources: resolve(consumes.into_iter().collect()),
            outputs: resolve(produces.into_iter().collect()),
            ..self.clone()
        };
        for (place, topic) in topology.sources.iter().enumerate() {
            if let Some(other) = topology.sources[..place].iter().find(|other| other.name == topic.name) {
                let (first, second) = (Arc::clone(&other.alias), Arc::clone(&topic.alias));
                return Err(TopologyError::SameSource(first, second, topic.name.clone()));
            }
        }
        let internal = [&topology.shards, &topology.changelog, &topology.dead_letters, &topology.control];
        if let Some(topic) = topology.sources.iter().chain(&topology.outputs).find(|t| internal.contains(&&t.name)) {
            return Err(TopologyError::Internal { alias: Arc::clone(&topic.alias), name: topic.name.clone() });
        }
        Ok(topology)
    }

    /// What the broker calls an alias's topic.
    pub(super) fn name(&self, alias: &Arc<str>) -> String {
        self.names.resolve(alias).name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(environment: &[(&str, &str)], configured: &[(&str, &str)]) -> Result<Topology, TopologyError> {
        let owned = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(alias, name)| ((*alias).into(), (*name).into())).collect()
        };
        let variables = owned(environment);
        let topology = Topology::new("app", owned(configured), move |name| variables.get(name).cloned(), 4);
        topology.with(&["A".into(), "B".into()], &["C".into()])
    }

    #[test]
    fn environment_comes_before_config_and_config_before_the_token() {
        let topology = resolve(&[("A", "env-a"), ("C", "")], &[("A", "config-a"), ("B", "config-b")]).unwrap();
        let names: Vec<_> = topology.sources.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(names, ["env-a", "config-b"]);
        assert_eq!(topology.outputs[0].name, "C", "an empty variable is none");
    }

    #[test]
    fn contradicting_names_are_refused() {
        assert!(matches!(resolve(&[("A", "same"), ("B", "same")], &[]), Err(TopologyError::SameSource(..))));
        assert!(matches!(resolve(&[], &[("C", "app-switchboard-changelog")]), Err(TopologyError::Internal { .. })));
    }
}
