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

/// So many entries are kept; beyond, those that were not used for longest go.
const MOST_ENTRIES: usize = 32;
/// No plugin's code is larger: what is, is not read.
const MOST_BYTES: u64 = 1 << 30;
/// What a writer that was killed has left is removed after so long.
const ABANDONED: Duration = Duration::from_hours(1);

const ENTRY: &str = "code";
const UNFINISHED: &str = ".unfinished-";
/// Of the entries' layout.
const FORMAT: &[u8] = b"switchboard code 1";
const CHECKSUM: usize = 32;

/// Compiled components on disk, by the digest of their artifact and the engine that compiled them. A cache: whatever is
/// wrong with an entry, the artifact is compiled again and the entry replaced.
///
/// An entry is a checksum and wasmtime's own bytes. It appears whole or not at all, so processes may share a directory.
#[derive(Debug)]
pub(super) struct CodeCache {
    directory: PathBuf,
    engine: u64,
}

/// An entry, or a directory, that is not to be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is damaged")]
    Damaged,
    #[error("it belongs to another user, or others may write to it: `chmod 700` it, or remove it")]
    Foreign,
}

impl CodeCache {
    /// Makes the directory when it is missing; only this user may look into it.
    pub(super) fn open(directory: &Path, engine: &Engine) -> Result<Self, Unusable> {
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

    /// The component of the artifact with this digest, which is compiled if there is no code of it.
    ///
    /// # Errors
    /// When it cannot be compiled.
    pub(super) fn component(
        &self,
        engine: &Engine,
        digest: &Digest,
        compile: impl FnOnce() -> wasmtime::Result<Component>,
    ) -> wasmtime::Result<Component> {
        let path = self.path(digest);
        match self.load(engine, digest, &path) {
            Ok(component) => {
                tracing::debug!("{}: its code was read from {}", digest.short(), path.display());
                return Ok(component);
            }
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                tracing::debug!("{}: there is no code of it in {}, it is compiled", digest.short(), path.display());
            }
            Err(error) => tracing::warn!("{} is not used, its plugin is compiled again: {error}", path.display()),
        }
        let component = compile()?;
        let stored = component.serialize().map_err(io::Error::other);
        if let Err(error) = stored.and_then(|payload| self.store(digest, &payload, &path)) {
            tracing::warn!("{} cannot be written, its plugin will be compiled again: {error}", path.display());
        }
        Ok(component)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{digest}-{:016x}.{ENTRY}", self.engine))
    }

    fn load(&self, engine: &Engine, digest: &Digest, path: &Path) -> Result<Component, Unusable> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        check_owner(&metadata)?;
        if !metadata.is_file() || metadata.len() > MOST_BYTES {
            return Err(Unusable::Damaged);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (checksum, payload) = bytes.split_at_checked(CHECKSUM).ok_or(Unusable::Damaged)?;
        if checksum != self.checksum(digest, payload) {
            return Err(Unusable::Damaged);
        }
        // The least recently used one is that of the oldest time.
        let _ = file.set_modified(SystemTime::now());
        // SAFETY: wasmtime wants bytes that it has itself made for an engine like this one, since it runs them as they are.
        // The file is this user's and nobody else may write to it or to its directory; whoever can write as this user can
        // run code as this user anyhow. The checksum shows that since a process of this program wrote them, for this
        // artifact and this engine, no bit has changed. It is of the very bytes in memory that are handed on: the file may
        // change now.
        #[allow(unsafe_code)]
        let component = unsafe { Component::deserialize(engine, payload) };
        component.map_err(|error| io::Error::other(error).into())
    }

    fn store(&self, digest: &Digest, payload: &[u8], path: &Path) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.directory)?;
        file.write_all(&self.checksum(digest, payload))?;
        file.write_all(payload)?;
        file.persist(path)?;
        self.tidy()
    }

    /// Of all that an entry must be right about.
    fn checksum(&self, digest: &Digest, payload: &[u8]) -> [u8; CHECKSUM] {
        let mut hash = Sha256::new();
        for part in [FORMAT, &digest.bytes()[..], &self.engine.to_le_bytes(), payload] {
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// Removes what is too much or was abandoned.
    fn tidy(&self) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // Err: another process has removed it.
            let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) else { continue };
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == ENTRY) {
                entries.push((modified, path));
            } else if entry.file_name().to_string_lossy().starts_with(UNFINISHED)
                && modified.elapsed().is_ok_and(|age| age > ABANDONED)
            {
                remove(&path)?;
            }
        }
        entries.sort();
        let beyond = entries.len().saturating_sub(MOST_ENTRIES);
        entries[..beyond].iter().try_for_each(|(_, path)| remove(path))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // By another process.
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
    fn another_engines_code_is_not_used_even_under_this_ones_name() {
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
        // Were the checksum right, wasmtime would still look.
        let foreign = CodeCache { directory: directory.path().to_owned(), engine: caches[0].engine };
        assert!(matches!(foreign.load(&engines[1], &digest, &paths[0]), Err(Unusable::Io(_))));
    }
}
