//! A cache of compiled components on disk.
//!
//! An entry's name is the artifact's digest and the identity of the engine that compiled it. An entry is a checksum, then
//! wasmtime's own bytes. It is written to another file and renamed, so it appears whole or not at all, and processes can
//! share a directory.
//!
//! This is only a cache: if anything is wrong with an entry, the artifact is compiled again and the entry replaced.
//! Compiled code runs as it is, so the files must belong to this user, and nobody else may write to them.

use std::fs::{self, DirBuilder, File};
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::geteuid;
use sha2::{Digest as _, Sha256};
use siphasher::sip::SipHasher13;
use switchboard_core::routing::Digest;
use wasmtime::Engine;
use wasmtime::component::Component;

/// How many entries are kept. Beyond this number, the least recently used ones are removed.
const MAX_ENTRIES: usize = 32;
/// A larger file is not read: no plugin compiles to as much.
const MAX_ENTRY_BYTES: u64 = 1 << 30;
/// After this time, an unfinished file belongs to a writer that was killed, and is removed.
const UNFINISHED_MAX_AGE: Duration = Duration::from_hours(1);

const ENTRY_EXTENSION: &str = "code";
const UNFINISHED_PREFIX: &str = ".unfinished-";
/// The version of an entry's layout. Part of the checksum.
const ENTRY_FORMAT: &[u8] = b"switchboard code 1";
const CHECKSUM_BYTES: usize = 32;

/// The cache of one engine.
#[derive(Debug)]
pub(crate) struct CodeCache {
    directory: PathBuf,
    engine: u64,
}

/// Why an entry or the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is damaged")]
    Damaged,
    #[error("it belongs to another user, or others may write to it: `chmod 700` it, or remove it")]
    Foreign,
}

impl CodeCache {
    /// Opens the directory. If it does not exist, creates it, readable for this user only.
    pub(crate) fn open(directory: &Path, engine: &Engine) -> Result<Self, Unusable> {
        if let Some(parent) = directory.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let metadata = fs::symlink_metadata(directory)?;
        if !metadata.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory).into());
        }
        check_owner(&metadata)?;
        Ok(Self { directory: directory.to_owned(), engine: identity(engine) })
    }

    /// The component of the artifact with this digest: from its entry, or else compiled and stored.
    ///
    /// # Errors
    /// When the artifact cannot be compiled. Failures of the cache are only logged.
    pub(crate) fn component(
        &self,
        engine: &Engine,
        digest: &Digest,
        compile: impl FnOnce() -> wasmtime::Result<Component>,
    ) -> wasmtime::Result<Component> {
        let path = self.path(digest);
        let file = path.display();
        match self.load(engine, digest, &path) {
            Ok(component) => {
                tracing::debug!(release = %digest.short(), %file, "compiled code was read from the cache");
                return Ok(component);
            }
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                tracing::debug!(release = %digest.short(), %file, "compiling the plugin: the cache has no code of it");
            }
            Err(error) => tracing::warn!(%file, %error, "compiling the plugin again: its cached code cannot be used"),
        }
        let component = compile()?;
        let stored = component.serialize().map_err(io::Error::other);
        if let Err(error) = stored.and_then(|payload| self.store(digest, &payload, &path)) {
            tracing::warn!(%file, %error, "compiled code cannot be cached: the next start compiles the plugin again");
        }
        Ok(component)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{digest}-{:016x}.{ENTRY_EXTENSION}", self.engine))
    }

    fn load(&self, engine: &Engine, digest: &Digest, path: &Path) -> Result<Component, Unusable> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        check_owner(&metadata)?;
        if !metadata.is_file() || metadata.len() > MAX_ENTRY_BYTES {
            return Err(Unusable::Damaged);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (checksum, payload) = bytes.split_at_checked(CHECKSUM_BYTES).ok_or(Unusable::Damaged)?;
        if checksum != self.checksum(digest, payload) {
            return Err(Unusable::Damaged);
        }
        // The modification time says when the entry was used last. A failure only makes its removal more likely.
        let _ = file.set_modified(SystemTime::now());
        // SAFETY: wasmtime requires bytes that it serialized itself for an engine like this one, because it runs them
        // unchecked.
        // * This user owns the file, and nobody else may write to it or to its directory. Whoever can write as this user
        //   can run code as this user anyway.
        // * The checksum proves that this program wrote the bytes, for this artifact and this engine, and that no bit has
        //   changed since. It covers the bytes in memory that are passed on, so the file may change now.
        #[allow(unsafe_code)]
        let component = unsafe { Component::deserialize(engine, payload) };
        component.map_err(|error| io::Error::other(error).into())
    }

    fn store(&self, digest: &Digest, payload: &[u8], path: &Path) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(UNFINISHED_PREFIX).tempfile_in(&self.directory)?;
        file.write_all(&self.checksum(digest, payload))?;
        file.write_all(payload)?;
        file.persist(path)?;
        self.remove_old_files()
    }

    /// The checksum covers everything that makes an entry the right one.
    fn checksum(&self, digest: &Digest, payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let mut hash = Sha256::new();
        for part in [ENTRY_FORMAT, &digest.bytes()[..], &self.engine.to_le_bytes(), payload] {
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// Removes surplus entries and abandoned unfinished files.
    fn remove_old_files(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // Another process has removed the file.
            let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == ENTRY_EXTENSION) {
                entries.push((modified, path));
            } else if entry.file_name().to_string_lossy().starts_with(UNFINISHED_PREFIX)
                && modified.elapsed().is_ok_and(|age| age > UNFINISHED_MAX_AGE)
            {
                remove(&path)?;
            }
        }
        entries.sort();
        let surplus = entries.len().saturating_sub(MAX_ENTRIES);
        entries[..surplus].iter().try_for_each(|(_, path)| remove(path))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // Another process has removed the file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn check_owner(metadata: &fs::Metadata) -> Result<(), Unusable> {
    let others_may_write = metadata.mode() & 0o022 != 0;
    if metadata.uid() != geteuid().as_raw() || others_may_write { Err(Unusable::Foreign) } else { Ok(()) }
}

/// Identifies the engine by everything that compiled code depends on, except the artifact: wasmtime's exact version, the
/// processor and the settings. A patch version counts, because it may correct the compiler; when it loads code, wasmtime
/// compares only the major version.
fn identity(engine: &Engine) -> u64 {
    let mut hasher = SipHasher13::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use wasmtime::Config;

    use super::*;

    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn code_of_another_engine_is_not_used_even_under_the_right_name() {
        let directory = tempfile::tempdir().unwrap();
        let engines = [false, true].map(|fuel| Engine::new(Config::new().consume_fuel(fuel)).unwrap());
        let caches = [0, 1].map(|n| CodeCache::open(directory.path(), &engines[n]).unwrap());
        let digest = Digest::new([1; 32]);
        let paths = [0, 1].map(|n: usize| {
            caches[n].component(&engines[n], &digest, || Component::new(&engines[n], COMPONENT)).unwrap();
            caches[n].path(&digest)
        });
        assert_ne!(paths[0], paths[1]);
        assert!(caches[1].load(&engines[1], &digest, &paths[1]).is_ok());
        fs::copy(&paths[0], &paths[1]).unwrap();
        assert!(matches!(caches[1].load(&engines[1], &digest, &paths[1]), Err(Unusable::Damaged)));
        // With a correct checksum, wasmtime still compares the engines.
        let foreign = CodeCache { directory: directory.path().to_owned(), engine: caches[0].engine };
        assert!(matches!(foreign.load(&engines[1], &digest, &paths[0]), Err(Unusable::Io(_))));
    }
}
