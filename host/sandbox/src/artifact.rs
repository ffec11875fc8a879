//! Loads an artifact: checks the bytes, compiles and links them, and asks the plugin for its manifest.
//!
//! `Artifact::load` is the only way to an `Artifact`, so whoever holds one holds a plugin that this host can run. A plugin
//! sees no message and no state here: `describe` and `migrates-from` run in instances of their own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use switchboard_core::record::{DeadLetter, TenantId};
use switchboard_core::routing::{Digest, Manifest, Release};
use switchboard_core::worker::Outcome;
use wasmtime::Store;

use crate::compiler::Compiler;
use crate::guest::{Guest, new_store};
use crate::guest_log::LogBudget;
use crate::limits::Limits;
use crate::linked::{Exports, HANDLER_EXPORT, Linked, Mismatch};
use crate::trap::{OutOfMemory, one_line, outcome_of};

/// The packages that a component may import from, with their versions.
const GRANTED_PACKAGES: [(&str, &str); 7] = [
    ("switchboard:plugin/", "0.1."),
    ("wasi:cli/", "0.2."),
    ("wasi:clocks/", "0.2."),
    ("wasi:filesystem/", "0.2."),
    ("wasi:io/", "0.2."),
    ("wasi:random/", "0.2."),
    ("wasi:sockets/", "0.2."),
];

/// A plugin that this host can run: compiled, linked, with its manifest.
pub struct Artifact {
    release: Arc<Release>,
    size: u64,
    imports: Vec<String>,
    linked: Linked,
    title: Arc<str>,
}

/// Why bytes are not a plugin that this host runs. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The file's content is refused.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Box<LoadError>,
    },
    /// The artifact exceeds `Limits::artifact_bytes`.
    #[error(
        "{size} bytes, at most {max} are allowed for a plugin: build it with --release, strip it, or raise --max-artifact-bytes"
    )]
    TooLarge {
        /// Bytes of the artifact.
        size: u64,
        /// Bytes that are allowed.
        max: u64,
    },
    /// The bytes do not start as WebAssembly does.
    #[error("not WebAssembly: give the .wasm file that `cargo build --release --target wasm32-wasip2` makes")]
    NotWasm,
    /// The bytes are a core module.
    #[error("a WebAssembly module, not a component: build it with `cargo build --release --target wasm32-wasip2`")]
    CoreModule,
    /// wasmtime does not accept the component.
    #[error("not a component that this host can run: {0}")]
    Invalid(String),
    /// The component lacks the contract's export.
    #[error("not a plugin: it does not export {HANDLER_EXPORT} (world `plugin` of wit/plugin.wit)")]
    NoHandler,
    /// The component imports something outside of the contract and WASI 0.2.
    #[error("it imports {}, which the host does not grant to plugins", imports.join(", "))]
    NotGranted {
        /// The imports that are refused.
        imports: Vec<String>,
    },
    /// The manifest lists topics that the operator does not allow.
    #[error(
        "it produces to {}, which this host does not allow: add that to allow-topics, or take it out of the plugin's manifest",
        aliases.join(", ")
    )]
    NotAllowed {
        /// The topic aliases that are refused.
        aliases: Vec<String>,
    },
    /// An import or export has another type than the contract's.
    #[error("its imports or exports differ from wit/plugin.wit, build it against this host's version: {0}")]
    Mismatch(String),
    /// A function that describes the plugin trapped or exceeded a limit.
    #[error("it fails when asked what it is ({function}): {letter}")]
    Describe {
        /// The function.
        function: &'static str,
        /// How it failed.
        letter: DeadLetter,
    },
    /// The manifest is not usable.
    #[error("its manifest (describe) {0}")]
    Manifest(ManifestError),
    /// The list of `migrates-from` is not usable.
    #[error("its list of state versions that it takes over (migrates-from) {0}")]
    Migrates(MigratesError),
}

/// What is wrong with a manifest. The text completes "its manifest ...".
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A name is empty. The field: which one.
    #[error("has an empty {0}")]
    Empty(String),
    /// A name contains control characters.
    #[error("has control characters in the {what} {name:?}")]
    ControlCharacters {
        /// Which name.
        what: String,
        /// Its text.
        name: String,
    },
    /// A list contains a name twice.
    #[error("lists {name:?} twice in {list}")]
    Duplicate {
        /// The name.
        name: String,
        /// The list.
        list: &'static str,
    },
    /// The plugin consumes nothing.
    #[error("consumes no topic: no message would ever reach the plugin")]
    ConsumesNothing,
}

/// What is wrong with the list of `migrates-from`. The text completes "its list ...".
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MigratesError {
    /// The list contains the plugin's own state version.
    #[error("has its own state version, {0}")]
    Own(u32),
    /// The list contains a version twice.
    #[error("has version {0} twice")]
    Duplicate(u32),
}

/// What an operator allows plugins.
pub(crate) struct Policy {
    pub(crate) limits: Limits,
    /// Topic aliases that plugins may produce to. `None`: all.
    pub(crate) allowed_topics: Option<Vec<String>>,
}

impl Policy {
    /// Those of `aliases` that plugins may not produce to.
    fn disallowed(&self, aliases: &[String]) -> Vec<String> {
        match &self.allowed_topics {
            Some(allowed) => aliases.iter().filter(|alias| !allowed.contains(alias)).cloned().collect(),
            None => Vec::new(),
        }
    }
}

impl Artifact {
    /// The plugin's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.release.manifest
    }

    /// The artifact as workers know it.
    pub fn release(&self) -> &Arc<Release> {
        &self.release
    }

    /// SHA-256 of the bytes.
    pub fn digest(&self) -> Digest {
        self.release.digest
    }

    /// Number of bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Names of the imported interfaces.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// Name and version, for log lines.
    pub(crate) fn title(&self) -> &Arc<str> {
        &self.title
    }

    pub(crate) fn linked(&self) -> &Linked {
        &self.linked
    }

    pub(crate) fn load(compiler: &Compiler, policy: &Policy, bytes: &[u8]) -> Result<Self, LoadError> {
        let size = bytes.len() as u64;
        let max = policy.limits.artifact_bytes;
        if size > max {
            return Err(LoadError::TooLarge { size, max });
        }
        check_kind(bytes)?;
        let digest = Digest::new(Sha256::digest(bytes).into());
        let component = compiler.compile(&digest, bytes).map_err(|error| LoadError::Invalid(one_line(&error)))?;
        let ty = component.component_type();
        let imports: Vec<_> = ty.imports(compiler.engine()).map(|(name, _)| name.to_owned()).collect();
        if component.get_export_index(None, HANDLER_EXPORT).is_none() {
            return Err(LoadError::NoHandler);
        }
        let refused: Vec<_> = imports.iter().filter(|import| !is_granted(import)).cloned().collect();
        if !refused.is_empty() {
            return Err(LoadError::NotGranted { imports: refused });
        }
        let linked = compiler.link(&component).map_err(|error| LoadError::Mismatch(one_line(&error)))?;
        let introspection = Introspection { linked: &linked, limits: policy.limits };
        let manifest = introspection.manifest()?;
        let refused = policy.disallowed(&manifest.produces);
        if !refused.is_empty() {
            return Err(LoadError::NotAllowed { aliases: refused });
        }
        let migrates = introspection.migrates_from()?;
        check_migrates(&migrates, manifest.state_version).map_err(LoadError::Migrates)?;
        let title = format!("{} {}", manifest.name, manifest.version).into();
        let release = Arc::new(Release { migrates, ..Release::new(digest, manifest) });
        Ok(Self { release, size, imports, linked, title })
    }
}

/// Reads a file of at most `max` bytes.
pub(crate) fn read_file(path: &Path, max: u64) -> Result<Vec<u8>, LoadError> {
    let read = || -> io::Result<_> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut bytes = Vec::new();
        // One byte more than allowed proves that the file is too large. A pipe has no size to check before.
        file.take(max + 1).read_to_end(&mut bytes)?;
        Ok((bytes, fs::metadata(path)?.len()))
    };
    let (bytes, size) = read().map_err(|error| LoadError::Read { path: path.to_owned(), error })?;
    if bytes.len() as u64 > max {
        return Err(LoadError::File { path: path.to_owned(), error: LoadError::TooLarge { size, max }.into() });
    }
    Ok(bytes)
}

/// A component differs from a core module in the last four of its first eight bytes.
fn check_kind(bytes: &[u8]) -> Result<(), LoadError> {
    match bytes.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => Err(LoadError::CoreModule),
        Some([0, b'a', b's', b'm', ..]) => Ok(()),
        _ => Err(LoadError::NotWasm),
    }
}

fn is_granted(import: &str) -> bool {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    GRANTED_PACKAGES.iter().any(|(package, prefix)| name.starts_with(package) && version.starts_with(prefix))
}

/// Asks a plugin what it is. Each call runs in an instance of its own, with the limits of a message, and without message
/// and state.
struct Introspection<'a> {
    linked: &'a Linked,
    limits: Limits,
}

impl Introspection<'_> {
    fn manifest(&self) -> Result<Manifest, LoadError> {
        let described = self.call("describe", |exports, store| exports.handler.call_describe(store))?;
        let manifest = Manifest {
            name: described.name,
            version: described.version,
            consumes: described.consumes,
            produces: described.produces,
            lookups: described.lookups,
            state_version: described.state_version,
        };
        check_manifest(&manifest).map_err(LoadError::Manifest)?;
        Ok(manifest)
    }

    fn migrates_from(&self) -> Result<Vec<u32>, LoadError> {
        self.call("migrates-from", |exports, store| match &exports.migration {
            Some(migration) => migration.call_migrates_from(store),
            None => Ok(Vec::new()),
        })
    }

    fn call<T>(
        &self,
        function: &'static str,
        call: impl FnOnce(&Exports, &mut Store<Guest>) -> wasmtime::Result<T>,
    ) -> Result<T, LoadError> {
        let limits = self.limits;
        let budget = LogBudget::new(limits.log_lines_per_second);
        let guest = Guest::new(function.into(), TenantId::new(""), limits, budget);
        let mut store = new_store(self.linked.engine(), guest);
        let answer = self.linked.instantiate(&mut store).and_then(|exports| call(&exports, &mut store));
        store.data_mut().end_call();
        answer.map_err(|error| {
            if let Some(mismatch) = error.downcast_ref::<Mismatch>() {
                return LoadError::Mismatch(mismatch.to_string());
            }
            match outcome_of(&error, limits.fuel, store.data().stderr_tail()) {
                Ok(Outcome::Failed(letter)) | Err(OutOfMemory(letter)) => LoadError::Describe { function, letter },
                // Unreachable: a lookup traps.
                Ok(other) => LoadError::Mismatch(format!("{other:?}")),
            }
        })
    }
}

/// Checks the manifest's names: they become parts of log lines, metrics, dead letters and topic names.
fn check_manifest(manifest: &Manifest) -> Result<(), ManifestError> {
    let check_name = |what: &str, name: &str| {
        if name.is_empty() {
            Err(ManifestError::Empty(what.to_owned()))
        } else if name.chars().any(char::is_control) {
            Err(ManifestError::ControlCharacters { what: what.to_owned(), name: name.to_owned() })
        } else {
            Ok(())
        }
    };
    check_name("name", &manifest.name)?;
    check_name("version", &manifest.version)?;
    for (list, what, names) in [
        ("consumes", "topic alias", &manifest.consumes),
        ("produces", "topic alias", &manifest.produces),
        ("lookups", "lookup source", &manifest.lookups),
    ] {
        let mut seen = BTreeSet::new();
        for name in names {
            check_name(&format!("{what} in {list}"), name)?;
            if !seen.insert(name) {
                return Err(ManifestError::Duplicate { name: name.clone(), list });
            }
        }
    }
    if manifest.consumes.is_empty() {
        return Err(ManifestError::ConsumesNothing);
    }
    Ok(())
}

fn check_migrates(versions: &[u32], own: u32) -> Result<(), MigratesError> {
    let mut seen = BTreeSet::new();
    for version in versions {
        if *version == own {
            return Err(MigratesError::Own(own));
        }
        if !seen.insert(version) {
            return Err(MigratesError::Duplicate(*version));
        }
    }
    Ok(())
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
    fn names_of_a_manifest_are_present_printable_and_unique() {
        assert_eq!(check_manifest(&manifest()), Ok(()));
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
            let error = check_manifest(&manifest).unwrap_err().to_string();
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
