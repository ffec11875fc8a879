use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::process::setpriority_process;
use switchboard_core::routing::Digest;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine};

use super::artifact::{Artifact, LoadError, told};
use super::code_cache::CodeCache;
use super::guest::Guest;
use super::limits::Limits;
use super::{guest, wasi};

/// How often running guests are asked for their CPU time.
const EPOCH: Duration = Duration::from_millis(10);

/// The nice value of threads that compile: messages go first where processors are scarce. Of 0, 4 and 10 on two busy cores,
/// 0 made the pause of a deployment 33 ms longer, 10 the deployment a third.
const COMPILERS: i32 = 4;

/// Functions that a trap names.
const FRAMES: usize = 3;

/// Wasmtime cannot run here.
#[derive(Debug, thiserror::Error)]
#[error("cannot run WebAssembly on this machine: {0}")]
pub struct SandboxError(String);

/// Loads artifacts. One for a process is enough.
pub struct Sandbox {
    pub(super) engine: Engine,
    pub(super) linker: Linker<Guest>,
    pub(super) limits: Limits,
    compilers: ThreadPool,
    cache: Option<CodeCache>,
    allowed: Option<Vec<String>>,
}

impl Sandbox {
    /// # Errors
    /// When the machine lacks what wasmtime needs.
    pub fn new(limits: Limits) -> Result<Self, SandboxError> {
        Self::start(limits).map_err(|error| SandboxError(told(&error)))
    }

    fn start(limits: Limits) -> wasmtime::Result<Self> {
        let engine = Engine::new(&config())?;
        let mut linker = Linker::new(&engine);
        guest::add_to_linker(&mut linker)?;
        wasi::add_to_linker(&mut linker)?;
        start_epochs(&engine)?;
        Ok(Self { engine, linker, limits, compilers: compilers()?, cache: None, allowed: None })
    }

    /// Keeps compiled code in this directory, which is made when it is missing, so that an artifact is compiled once. What
    /// is wrong with the directory or in it is a warning, and costs time only.
    #[must_use]
    pub fn with_cache(mut self, directory: &Path) -> Self {
        self.cache = CodeCache::open(directory, &self.engine)
            .inspect_err(|error| tracing::warn!("compiled code is not kept in {}: {error}", directory.display()))
            .ok();
        self
    }

    /// Refuses artifacts that produce to a topic whose alias is none of these.
    #[must_use]
    pub fn with_allowed_topics(mut self, aliases: Vec<String>) -> Self {
        self.allowed = Some(aliases);
        self
    }

    /// Of these aliases, those that may not be produced to.
    pub(super) fn not_allowed(&self, aliases: &[String]) -> Vec<String> {
        let is_allowed = |alias: &String| self.allowed.as_ref().is_none_or(|allowed| allowed.contains(alias));
        aliases.iter().filter(|alias| !is_allowed(alias)).cloned().collect()
    }

    pub(super) fn compile(&self, digest: &Digest, bytes: &[u8]) -> wasmtime::Result<Component> {
        let compile = || self.compilers.install(|| Component::new(&self.engine, bytes));
        match &self.cache {
            Some(cache) => cache.component(&self.engine, digest, compile),
            None => compile(),
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Compiles a plugin and asks it what it is.
    ///
    /// # Errors
    /// Why it is no plugin that this host runs.
    pub fn load(&self, bytes: &[u8]) -> Result<Artifact, LoadError> {
        Artifact::load(self, bytes)
    }

    /// The same for a file.
    ///
    /// # Errors
    /// As `load` and `read_file`.
    pub fn load_file(&self, path: &Path) -> Result<Artifact, LoadError> {
        let bytes = self.read_file(path)?;
        self.load(&bytes).map_err(|error| LoadError::File { path: path.to_owned(), error: error.into() })
    }

    /// Reads an artifact's file, if it is not too large for one.
    ///
    /// # Errors
    /// When it is, or cannot be read.
    pub fn read_file(&self, path: &Path) -> Result<Vec<u8>, LoadError> {
        Artifact::read(path, self.limits.artifact)
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        // Deterministic on every machine: no NaN payloads, no processor's own idea of relaxed SIMD. Threads are not
        // compiled in.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        // A 64-bit memory would need bounds checks, and there are 64 MiB at most.
        .wasm_memory64(false)
        .memory_init_cow(true)
        // A trap names its innermost functions; offsets within them say nothing to anybody.
        .wasm_backtrace_max_frames(NonZeroUsize::new(FRAMES))
        .generate_address_map(false);
    // Memories keep their default reservation of 4 GiB of addresses, which spares the guest's code its bounds checks.
    // Addresses are no memory; 16,000 instances (see `Limits::warm_instances`) take half of the 128 TiB there are.
    config
}

/// Wasmtime compiles on the threads of the rayon pool that it is called in.
fn compilers() -> wasmtime::Result<ThreadPool> {
    let builder = ThreadPoolBuilder::new().thread_name(|number| format!("compile-{number}"));
    // On Linux a nice value is a thread's own; elsewhere it would be the whole process's.
    let builder = builder.start_handler(|_| {
        if cfg!(target_os = "linux")
            && let Err(error) = setpriority_process(None, COMPILERS)
        {
            tracing::debug!("compiling goes on as if it were urgent: {error}");
        }
    });
    Ok(builder.build()?)
}

/// Starts the thread that advances the epoch. It ends soon after the last of the engine is dropped.
fn start_epochs(engine: &Engine) -> wasmtime::Result<()> {
    let engine = engine.weak();
    thread::Builder::new().name("epochs".into()).spawn(move || {
        loop {
            thread::sleep(EPOCH);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    })?;
    Ok(())
}
