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
    /// Number of partitions of the shard topic and of the changelog.
    pub shard_count: u32,
}

/// The value of a variable.
type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Finds the broker's name of a token: the environment variable of that name, else the configured one, else the token itself.
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
    fn resolve(&self, token: &Arc<str>) -> TopicName {
        let variable = (self.environment)(token).filter(|name| !name.is_empty());
        let name = variable.or_else(|| self.configured.get(&**token).cloned()).unwrap_or_else(|| token.to_string());
        TopicName { token: Arc::clone(token), name }
    }
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
            shards: format!("{app}-shards"),
            changelog: format!("{app}-state"),
            dead_letters: format!("{app}-dead-letters"),
            control: format!("{app}-control"),
            shard_count,
        }
    }

    /// The same application with these tokens; each is the environment variable's of its name, else the configured name, else
    /// the token itself.
    ///
    /// # Errors
    /// When two tokens consume the same topic, or a token names an internal one.
    pub fn with<'a>(
        &self,
        consumes: impl IntoIterator<Item = &'a Arc<str>>,
        produces: impl IntoIterator<Item = &'a Arc<str>>,
    ) -> Result<Self, TopologyError> {
        let resolve = |tokens: BTreeSet<&Arc<str>>| tokens.into_iter().map(|token| self.names.resolve(token)).collect();
        let topology = Self {
            sources: resolve(consumes.into_iter().collect()),
            outputs: resolve(produces.into_iter().collect()),
            ..self.clone()
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

    /// What the broker calls a token's topic.
    pub(super) fn name(&self, token: &Arc<str>) -> String {
        self.names.resolve(token).name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(environment: &[(&str, &str)], configured: &[(&str, &str)]) -> Result<Topology, TopologyError> {
        let owned = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(token, name)| ((*token).into(), (*name).into())).collect()
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
        assert!(matches!(resolve(&[], &[("C", "app-state")]), Err(TopologyError::Internal { .. })));
    }
}
