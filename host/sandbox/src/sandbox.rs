//! The crate's entry: loads artifacts, within limits and with a cache of compiled code.

use std::path::Path;

use crate::artifact::{Artifact, LoadError, Policy, read_file};
use crate::compiler::Compiler;
use crate::limits::Limits;
use crate::trap::one_line;

/// wasmtime cannot run on this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot run WebAssembly on this machine: {0}")]
pub struct SandboxError(String);

/// Loads artifacts. A process needs one.
pub struct Sandbox {
    compiler: Compiler,
    policy: Policy,
}

impl Sandbox {
    /// A sandbox without a cache that lets plugins produce to any topic.
    ///
    /// # Errors
    /// When the machine lacks something that wasmtime needs.
    pub fn new(limits: Limits) -> Result<Self, SandboxError> {
        let compiler = Compiler::new().map_err(|error| SandboxError(one_line(&error)))?;
        Ok(Self { compiler, policy: Policy { limits, allowed_topics: None } })
    }

    /// Keeps compiled code in this directory, so that an artifact is compiled once. The directory is created if it does
    /// not exist. A directory or an entry that cannot be used costs time only: the sandbox logs a warning and compiles.
    #[must_use]
    pub fn with_cache(mut self, directory: &Path) -> Self {
        self.compiler.set_cache(directory);
        self
    }

    /// Refuses artifacts that produce to any other topic alias.
    #[must_use]
    pub fn with_allowed_topics(mut self, aliases: Vec<String>) -> Self {
        self.policy.allowed_topics = Some(aliases);
        self
    }

    /// The limits of plugins that this sandbox loads.
    pub fn limits(&self) -> &Limits {
        &self.policy.limits
    }

    /// Compiles a plugin, links it and asks it for its manifest.
    ///
    /// # Errors
    /// Why these bytes are not a plugin that this host runs.
    pub fn load(&self, bytes: &[u8]) -> Result<Artifact, LoadError> {
        Artifact::load(&self.compiler, &self.policy, bytes)
    }

    /// Reads and loads a file.
    ///
    /// # Errors
    /// Those of `read_file` and `load`, with the path.
    pub fn load_file(&self, path: &Path) -> Result<Artifact, LoadError> {
        let bytes = self.read_file(path)?;
        self.load(&bytes).map_err(|error| LoadError::File { path: path.to_owned(), error: error.into() })
    }

    /// Reads an artifact's file.
    ///
    /// # Errors
    /// When the file cannot be read, or exceeds `Limits::artifact_bytes`.
    pub fn read_file(&self, path: &Path) -> Result<Vec<u8>, LoadError> {
        read_file(path, self.policy.limits.artifact_bytes)
    }
}
