//! How an artifact gets from the control topic, or from a file, to a release that this host can run.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use switchboard_core::registry::RegistryState;
use switchboard_core::routing::Digest;
use switchboard_core::routing::aliases;
use switchboard_kafka::control_topic::{ArtifactReader, FetchError};
use switchboard_kafka::{Topology, TopologyError};
use switchboard_sandbox::{Artifact, LoadError, Sandbox};

use super::trust::{TrustError, TrustedKeys};

/// How long a host waits for each chunk of an artifact.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that loading and checking a release needs.
pub struct Loader {
    /// Compiles artifacts.
    pub sandbox: Arc<Sandbox>,
    /// The keys that may sign artifacts.
    pub trusted: TrustedKeys,
    /// The topics that a release's aliases name.
    pub topology: Topology,
    /// Fetches artifacts from the control topic.
    pub artifacts: ArtifactReader,
    /// Names of the lookup sources that are configured.
    pub lookups: Vec<String>,
}

/// Why this host cannot run a release.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnavailableError {
    #[error("its artifact is not in the control topic: deploy it again")]
    NoArtifact,
    #[error("its artifact has {size} bytes, but at most {limit} are allowed (--max-artifact-bytes)")]
    TooLarge { size: u64, limit: u64 },
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Untrusted(#[from] TrustError),
    #[error(transparent)]
    Invalid(#[from] LoadError),
    #[error(transparent)]
    Topics(#[from] TopologyError),
}

impl UnavailableError {
    /// Whether another attempt with the same records may succeed.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Fetch(FetchError::Slow { .. } | FetchError::Kafka { .. }))
    }
}

impl Loader {
    /// Loads a release from the control topic.
    pub(super) fn load(&self, release: &Digest, registry: &RegistryState) -> Result<Artifact, UnavailableError> {
        let (Some(record), Some(chunks)) = (registry.release(release), registry.chunks(release)) else {
            return Err(UnavailableError::NoArtifact);
        };
        let limit = self.sandbox.limits().artifact_bytes;
        if record.size > limit {
            return Err(UnavailableError::TooLarge { size: record.size, limit });
        }
        let bytes = self.artifacts.fetch(release, &chunks, CHUNK_TIMEOUT)?;
        self.trusted.verify(&bytes, record.signature.as_deref())?;
        let artifact = self.sandbox.load(&bytes)?;
        self.check(&artifact)?;
        Ok(artifact)
    }

    /// Loads a plugin from a file.
    ///
    /// # Errors
    /// Why the plugin cannot be run.
    pub fn load_file(&self, path: &Path) -> anyhow::Result<Artifact> {
        let artifact = load_file(&self.sandbox, &self.trusted, path)?;
        self.check(&artifact).with_context(|| path.display().to_string())?;
        Ok(artifact)
    }

    /// Checks the release's topics, and logs the lookup sources that are not configured.
    fn check(&self, artifact: &Artifact) -> Result<(), TopologyError> {
        let lookups = &artifact.manifest().lookups;
        for source in lookups.iter().filter(|source| !self.lookups.contains(source)) {
            tracing::info!(
                release = %artifact.release().title(),
                source,
                "lookup source is not configured: every answer is \"not found\""
            );
        }
        let consumes = aliases(&artifact.manifest().consumes);
        self.topology.with(&consumes, &artifact.release().produces).map(drop)
    }
}

/// Loads a plugin from a file. Where keys are trusted, one of them must have signed the file.
///
/// # Errors
/// Why the plugin cannot be run.
pub fn load_file(sandbox: &Sandbox, trusted: &TrustedKeys, path: &Path) -> anyhow::Result<Artifact> {
    let bytes = sandbox.read_file(path)?;
    let file = || path.display().to_string();
    trusted.verify_file(path, &bytes).with_context(file)?;
    sandbox.load(&bytes).with_context(file)
}
