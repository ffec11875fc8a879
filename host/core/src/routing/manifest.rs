//! The manifest of a plugin.

use serde::{Deserialize, Serialize};

/// What a plugin is and what it needs, as the plugin itself declares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// The name of the plugin, for people and metrics.
    pub name: String,
    /// The version of the plugin.
    pub version: String,
    /// The aliases of the topics that it consumes.
    pub consumes: Vec<String>,
    /// The aliases of the topics that it may produce to.
    pub produces: Vec<String>,
    /// The lookup sources that it may query.
    pub lookups: Vec<String>,
    /// The version of its state's layout.
    pub state_version: u32,
}
