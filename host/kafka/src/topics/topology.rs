//! What the broker calls the topics of an application.
//!
//! Consumed and produced topics have an alias, which plugins use, and a name on the broker. Internal topics have fixed names that
//! begin with `<app>-switchboard-`, so that no user's topic has one of them by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The topics of an application, by their names on the broker.
#[derive(Debug, Clone)]
pub struct Topology {
    names: Names,
    /// Consumed topics.
    pub consumed: Vec<TopicName>,
    /// Topics that may be produced to.
    pub produced: Vec<TopicName>,
    /// The repartition topic: source records on their way to their tenant's shard.
    pub repartition: String,
    /// The changelog: tenants' state.
    pub changelog: String,
    /// Messages that could not be handled.
    pub dead_letters: String,
    /// The control topic: releases, routes, the status of hosts.
    pub control: String,
}

/// Looks up an environment variable.
type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Finds the broker's name of an alias. The first of these counts:
///
/// 1. the environment variable that has the alias as its name, unless it is empty,
/// 2. the configured name: `--topic ALIAS=NAME`, else `[topics]` in the config file,
/// 3. the alias itself.
///
/// Settings otherwise come from flags before the environment. Aliases are an exception on purpose: they are the environment
/// variables by which a service that Switchboard replaces is deployed (`COMMAND_TOPIC_MESSENGER`). Such a deployment keeps its
/// environment, and a name in a config file or on the command line is only the default for it.
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

/// A topic's alias and its name on the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicName {
    /// The name that plugins use.
    pub alias: Arc<str>,
    /// The name on the broker.
    pub name: String,
}

/// Names of topics that contradict each other.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// Two aliases of consumed topics name one topic.
    #[error(
        "the aliases {0} and {1} both name the topic {2:?}: a consumed topic must have one alias. Set {1} to another topic"
    )]
    SameTopic(Arc<str>, Arc<str>, String),
    /// An alias names an internal topic.
    #[error(
        "{alias} names the topic {name:?}, which is Switchboard's own. Set {alias} to another topic, or change --app"
    )]
    Internal {
        /// The alias.
        alias: Arc<str>,
        /// The topic.
        name: String,
    },
}

impl Topology {
    /// An application's internal topics. It consumes and produces no topics yet.
    ///
    /// `configured` and `environment` give names to aliases; the environment comes first. See [`Topology::with`].
    pub fn new(
        app: &str,
        configured: BTreeMap<String, String>,
        environment: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            names: Names { configured, environment: Arc::new(environment) },
            consumed: Vec::new(),
            produced: Vec::new(),
            repartition: format!("{app}-switchboard-repartition"),
            changelog: format!("{app}-switchboard-changelog"),
            dead_letters: format!("{app}-switchboard-dead-letters"),
            control: format!("{app}-switchboard-control"),
        }
    }

    /// The same application with these aliases of consumed and produced topics.
    ///
    /// An alias names the topic in the environment variable of the same name, else the configured topic (`--topic`, then the config
    /// file), else the topic with the alias as its name. The environment comes before flags, unlike for other settings, so that the
    /// environment of a replaced service names the topics.
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
            consumed: resolve(consumes.into_iter().collect()),
            produced: resolve(produces.into_iter().collect()),
            ..self.clone()
        };
        for (index, topic) in topology.consumed.iter().enumerate() {
            if let Some(other) = topology.consumed[..index].iter().find(|other| other.name == topic.name) {
                let (first, second) = (Arc::clone(&other.alias), Arc::clone(&topic.alias));
                return Err(TopologyError::SameTopic(first, second, topic.name.clone()));
            }
        }
        let internal = [&topology.repartition, &topology.changelog, &topology.dead_letters, &topology.control];
        if let Some(topic) = topology.consumed.iter().chain(&topology.produced).find(|t| internal.contains(&&t.name)) {
            return Err(TopologyError::Internal { alias: Arc::clone(&topic.alias), name: topic.name.clone() });
        }
        Ok(topology)
    }

    /// The broker's name of an alias's topic.
    pub(crate) fn name(&self, alias: &Arc<str>) -> String {
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
        let topology = Topology::new("app", owned(configured), move |name| variables.get(name).cloned());
        topology.with(&["A".into(), "B".into()], &["C".into()])
    }

    #[test]
    fn the_environment_comes_before_the_config_and_the_config_before_the_alias() {
        let topology = resolve(&[("A", "env-a"), ("C", "")], &[("A", "config-a"), ("B", "config-b")]).unwrap();
        let names: Vec<_> = topology.consumed.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(names, ["env-a", "config-b"]);
        assert_eq!(topology.produced[0].name, "C", "an empty variable counts as unset");
    }

    #[test]
    fn contradicting_names_are_refused() {
        assert!(matches!(resolve(&[("A", "same"), ("B", "same")], &[]), Err(TopologyError::SameTopic(..))));
        assert!(matches!(resolve(&[], &[("C", "app-switchboard-changelog")]), Err(TopologyError::Internal { .. })));
    }
}
