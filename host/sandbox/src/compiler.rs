//! Compiles components: wasmtime's engine and linker, the threads that compile, and the cache of compiled code.
//!
//! This is the lower half of the sandbox. It knows bytes and components; `artifact` knows what a plugin is.

use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::process::setpriority_process;
use switchboard_core::routing::Digest;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine};

use crate::code_cache::CodeCache;
use crate::guest::{self, Guest};
use crate::linked::Linked;
use crate::wasi;

/// How often the host checks the CPU time of running guests.
const EPOCH_INTERVAL: Duration = Duration::from_millis(10);

/// The nice value of the threads that compile, so that messages come first where processors are scarce.
///
/// Measured with 0, 4 and 10 on two busy cores: 0 made the pause of a deployment 33 ms longer, 10 made the deployment a
/// third longer.
const COMPILER_NICE: i32 = 4;

/// How many functions the text of a trap names.
const BACKTRACE_FRAMES: usize = 3;

/// Compiles and links components. All of them share one engine.
pub(crate) struct Compiler {
    engine: Engine,
    /// With all granted imports.
    linker: Linker<Guest>,
    threads: ThreadPool,
    cache: Option<CodeCache>,
}

impl Compiler {
    /// # Errors
    /// When the machine lacks something that wasmtime needs.
    pub(crate) fn new() -> wasmtime::Result<Self> {
        let engine = Engine::new(&config())?;
        let mut linker = Linker::new(&engine);
        guest::add_to_linker(&mut linker)?;
        wasi::add_to_linker(&mut linker)?;
        start_epochs(&engine)?;
        Ok(Self { engine, linker, threads: compiler_threads()?, cache: None })
    }

    /// Keeps compiled code in this directory. If the directory cannot be used, logs a warning and keeps none.
    pub(crate) fn set_cache(&mut self, directory: &Path) {
        let warn = |error: &_| {
            tracing::warn!(directory = %directory.display(), %error, "compiled code is not kept: the directory cannot be used");
        };
        self.cache = CodeCache::open(directory, &self.engine).inspect_err(warn).ok();
    }

    /// The component of these bytes, from the cache or compiled.
    pub(crate) fn compile(&self, digest: &Digest, bytes: &[u8]) -> wasmtime::Result<Component> {
        // wasmtime compiles on the threads of the rayon pool that calls it.
        let compile = || self.threads.install(|| Component::new(&self.engine, bytes));
        match &self.cache {
            Some(cache) => cache.component(&self.engine, digest, compile),
            None => compile(),
        }
    }

    pub(crate) fn link(&self, component: &Component) -> wasmtime::Result<Linked> {
        Linked::new(&self.linker, component)
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(true)
        .epoch_interruption(true)
        // The same result on every machine: one form of NaN, no processor's own relaxed SIMD. Threads are not compiled in.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        // A 64-bit memory needs bounds checks, and an instance has 64 MiB by default.
        .wasm_memory64(false)
        .memory_init_cow(true)
        // A trap names its innermost functions. Offsets within them help nobody.
        .wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES))
        .generate_address_map(false);
    // Memories keep wasmtime's default reservation of 4 GiB of addresses each, which makes bounds checks unnecessary.
    // Addresses are not memory: 16,000 instances (see `Limits::warm_instances`) use half of the 128 TiB that exist.
    config
}

fn compiler_threads() -> wasmtime::Result<ThreadPool> {
    let builder = ThreadPoolBuilder::new().thread_name(|number| format!("compile-{number}"));
    let builder = builder.start_handler(|_| {
        // Linux has a nice value for each thread. Elsewhere this would change the whole process.
        if cfg!(target_os = "linux")
            && let Err(error) = setpriority_process(None, COMPILER_NICE)
        {
            tracing::debug!(%error, "compiling with normal priority: the nice value cannot be set");
        }
    });
    Ok(builder.build()?)
}

/// Starts the thread that advances the epoch. It ends soon after the last handle of the engine is dropped.
fn start_epochs(engine: &Engine) -> wasmtime::Result<()> {
    let engine = engine.weak();
    thread::Builder::new().name("epochs".into()).spawn(move || {
        loop {
            thread::sleep(EPOCH_INTERVAL);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    })?;
    Ok(())
}
