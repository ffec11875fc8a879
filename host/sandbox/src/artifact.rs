use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use switchboard_core::record::{DeadLetter, TenantId};
use switchboard_core::routing::Manifest;
use switchboard_core::routing::{Digest, Release};
use switchboard_core::worker::Outcome;
use wasmtime::Store;

use super::engine::Sandbox;
use super::guest::Guest;
use super::guest_log::LogBudget;
use super::instances::new_store;
use super::linked::{Exports, HANDLER, Linked, Mismatch};
use super::trap::{OutOfMemory, judge};

/// Packages of which a component may import, and their versions.
const GRANTED: [(&str, &str); 7] = [
    ("switchboard:plugin/", "0.1."),
    ("wasi:cli/", "0.2."),
    ("wasi:clocks/", "0.2."),
    ("wasi:filesystem/", "0.2."),
    ("wasi:io/", "0.2."),
    ("wasi:random/", "0.2."),
    ("wasi:sockets/", "0.2."),
];

/// A plugin that this host can run: compiled, linked, asked what it is.
pub struct Artifact {
    release: Arc<Release>,
    size: u64,
    imports: Vec<String>,
    pub(super) linked: Linked,
    /// Name and version, for log lines.
    pub(super) title: Arc<str>,
}

/// Why bytes are no plugin that this host runs.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: Box<LoadError> },
    #[error(
        "{size} bytes, at most {most} are allowed for a plugin: build it with --release, strip it, or raise --max-artifact-bytes"
    )]
    TooLarge { size: u64, most: u64 },
    #[error("not WebAssembly: give the .wasm file that `cargo build --release --target wasm32-wasip2` makes")]
    NotWasm,
    #[error("a WebAssembly module, not a component: build it with `cargo build --release --target wasm32-wasip2`")]
    CoreModule,
    #[error("not a component that this host can run: {0}")]
    Invalid(String),
    #[error("not a plugin: it does not export {HANDLER} (world `plugin` of wit/plugin.wit)")]
    NoHandler,
    #[error("it imports {}, which the host does not grant to plugins", imports.join(", "))]
    NotGranted { imports: Vec<String> },
    #[error(
        "it produces to {}, which this host does not allow: add that to allow-topics, or take it out of the plugin's manifest",
        aliases.join(", ")
    )]
    NotAllowed { aliases: Vec<String> },
    #[error("its imports or exports differ from wit/plugin.wit, build it against this host's version: {0}")]
    Mismatch(String),
    #[error("it fails when asked what it is ({function}): {letter}")]
    Describe { function: &'static str, letter: DeadLetter },
    #[error("its manifest (describe) {0}")]
    Manifest(String),
    #[error("its list of state versions that it takes over (migrates-from) {0}")]
    Migrates(String),
}

impl Artifact {
    /// What the plugin says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.release.manifest
    }

    /// What workers know of it.
    pub fn release(&self) -> &Arc<Release> {
        &self.release
    }

    /// SHA-256 of its bytes.
    pub fn digest(&self) -> Digest {
        self.release.digest
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Names of the interfaces that it imports.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, LoadError> {
        let read = || -> io::Result<_> {
            let file = File::open(path)?;
            if fs::metadata(path)?.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            let mut bytes = Vec::new();
            // One more than allowed shows that there is more; a file's size may not be known before.
            file.take(most + 1).read_to_end(&mut bytes)?;
            Ok((bytes, fs::metadata(path)?.len()))
        };
        let (bytes, size) = read().map_err(|error| LoadError::Read { path: path.to_owned(), error })?;
        if bytes.len() as u64 > most {
            return Err(LoadError::File { path: path.to_owned(), error: LoadError::TooLarge { size, most }.into() });
        }
        Ok(bytes)
    }

    pub(super) fn load(sandbox: &Sandbox, bytes: &[u8]) -> Result<Self, LoadError> {
        let (size, most) = (bytes.len() as u64, sandbox.limits.artifact);
        if size > most {
            return Err(LoadError::TooLarge { size, most });
        }
        check_kind(bytes)?;
        let digest = Digest::new(Sha256::digest(bytes).into());
        let component = sandbox.compile(&digest, bytes).map_err(|error| LoadError::Invalid(told(&error)))?;
        let ty = component.component_type();
        let imports: Vec<_> = ty.imports(&sandbox.engine).map(|(name, _)| name.to_owned()).collect();
        if component.get_export_index(None, HANDLER).is_none() {
            return Err(LoadError::NoHandler);
        }
        let refused: Vec<_> = imports.iter().filter(|import| !is_granted(import)).cloned().collect();
        if !refused.is_empty() {
            return Err(LoadError::NotGranted { imports: refused });
        }
        let mismatch = |error: wasmtime::Error| LoadError::Mismatch(told(&error));
        let linked = Linked::new(sandbox, &component).map_err(mismatch)?;
        let manifest = describe(sandbox, &linked)?;
        let refused = sandbox.not_allowed(&manifest.produces);
        if !refused.is_empty() {
            return Err(LoadError::NotAllowed { aliases: refused });
        }
        let migrates = migrates_from(sandbox, &linked)?;
        check_migrates(&migrates, manifest.state_version).map_err(LoadError::Migrates)?;
        let title = format!("{} {}", manifest.name, manifest.version).into();
        let release = Release::new(Digest::new(Sha256::digest(bytes).into()), manifest);
        Ok(Self { release: Arc::new(Release { migrates, ..release }), size, imports, linked, title })
    }
}

/// A component's first bytes differ from a module's in the last four.
fn check_kind(bytes: &[u8]) -> Result<(), LoadError> {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => Err(LoadError::CoreModule),
        Some([0, b'a', b's', b'm', ..]) => Ok(()),
        _ => Err(LoadError::NotWasm),
    }
}

fn is_granted(import: &str) -> bool {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    GRANTED.iter().any(|(package, line)| name.starts_with(package) && version.starts_with(line))
}

fn describe(sandbox: &Sandbox, linked: &Linked) -> Result<Manifest, LoadError> {
    let described = ask(sandbox, linked, "describe", |exports, store| exports.handler.call_describe(store))?;
    let manifest = Manifest {
        name: described.name,
        version: described.version,
        consumes: described.consumes,
        produces: described.produces,
        lookups: described.lookups,
        state_version: described.state_version,
    };
    check(&manifest).map_err(LoadError::Manifest)?;
    Ok(manifest)
}

fn migrates_from(sandbox: &Sandbox, linked: &Linked) -> Result<Vec<u32>, LoadError> {
    ask(sandbox, linked, "migrates-from", |exports, store| match &exports.migration {
        Some(migration) => migration.call_migrates_from(store),
        None => Ok(Vec::new()),
    })
}

/// Calls a function that has neither message nor state, in an instance of its own, with a message's limits.
fn ask<T>(
    sandbox: &Sandbox,
    linked: &Linked,
    function: &'static str,
    call: impl FnOnce(&Exports, &mut Store<Guest>) -> wasmtime::Result<T>,
) -> Result<T, LoadError> {
    let limits = sandbox.limits;
    let guest = Guest::new(function.into(), TenantId::new(""), limits, LogBudget::new(limits.log_lines));
    let mut store = new_store(&sandbox.engine, guest);
    let answer = linked.instantiate(&mut store).and_then(|exports| call(&exports, &mut store));
    store.data_mut().end();
    answer.map_err(|error| {
        if let Some(mismatch) = error.downcast_ref::<Mismatch>() {
            return LoadError::Mismatch(mismatch.to_string());
        }
        match judge(&error, limits.fuel, store.data().words()) {
            Ok(Outcome::Failed(letter)) | Err(OutOfMemory(letter)) => LoadError::Describe { function, letter },
            // Not reached: a lookup traps.
            Ok(other) => LoadError::Mismatch(format!("{other:?}")),
        }
    })
}

/// Names end up in log lines, metrics, dead letters and topic names.
fn check(manifest: &Manifest) -> Result<(), String> {
    let name = |what: &str, name: &str| {
        if name.is_empty() {
            Err(format!("has an empty {what}"))
        } else if name.chars().any(char::is_control) {
            Err(format!("has control characters in the {what} {name:?}"))
        } else {
            Ok(())
        }
    };
    name("name", &manifest.name)?;
    name("version", &manifest.version)?;
    for (list, what, names) in [
        ("consumes", "topic alias", &manifest.consumes),
        ("produces", "topic alias", &manifest.produces),
        ("lookups", "lookup source", &manifest.lookups),
    ] {
        let mut seen = BTreeSet::new();
        for alias in names {
            name(&format!("{what} in {list}"), alias)?;
            if !seen.insert(alias) {
                return Err(format!("lists {alias:?} twice in {list}"));
            }
        }
    }
    if manifest.consumes.is_empty() {
        return Err("consumes no topic: no message would ever reach the plugin".into());
    }
    Ok(())
}

fn check_migrates(versions: &[u32], own: u32) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for version in versions {
        if *version == own {
            return Err(format!("has its own state version, {own}"));
        }
        if !seen.insert(version) {
            return Err(format!("has version {version} twice"));
        }
    }
    Ok(())
}

/// An error of wasmtime as one line.
pub(super) fn told(error: &wasmtime::Error) -> String {
    let chain: Vec<_> = error.chain().map(|cause| cause.to_string().replace('\n', " ")).collect();
    chain.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Damage = fn(&mut Manifest);

    fn manifest() -> Manifest {
        Manifest {
            name: "n".into(),
            version: "1.0.0".into(),
            consumes: vec!["IN".into()],
            produces: vec!["OUT".into(), "IN".into()],
            lookups: vec![],
            state_version: 1,
        }
    }

    #[test]
    fn names_of_a_manifest_are_there_plain_and_unique() {
        assert_eq!(check(&manifest()), Ok(()));
        let broken: [(Damage, &str); 6] = [
            (|m| m.name.clear(), "empty name"),
            (|m| m.version.clear(), "empty version"),
            (|m| m.name = "a\nb".into(), "control characters in the name \"a\\nb\""),
            (|m| m.produces.push(String::new()), "empty topic alias in produces"),
            (|m| m.produces.push("OUT".into()), "\"OUT\" twice in produces"),
            (|m| m.consumes.clear(), "consumes no topic"),
        ];
        for (damage, expected) in broken {
            let mut manifest = manifest();
            damage(&mut manifest);
            let error = check(&manifest).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn imports_are_granted_by_package_and_version() {
        for import in ["switchboard:plugin/state@0.1.0", "wasi:io/streams@0.2.6", "wasi:sockets/tcp@0.2.0"] {
            assert!(is_granted(import), "{import}");
        }
        for import in ["switchboard:plugin/state@0.2.0", "wasi:io/streams@0.3.0", "wasi:http/types@0.2.0", "run", ""] {
            assert!(!is_granted(import), "{import}");
        }
    }
}
