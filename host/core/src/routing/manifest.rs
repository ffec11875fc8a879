//! What a plugin says of itself.

use serde::{Deserialize, Serialize};

/// What a plugin is and what it needs, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    pub name: String,
    pub version: String,
    /// Aliases of the topics that it consumes.
    pub consumes: Vec<String>,
    /// Aliases of the topics that it may produce to.
    pub produces: Vec<String>,
    /// Lookup sources that it may ask.
    pub lookups: Vec<String>,
    /// The version of the layout of its state.
    pub state_version: u32,
}
