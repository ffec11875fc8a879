//! Artifacts for swaps: the ledger's component with other versions in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ledger::{MARK, VERSION_BYTES};
use sha2::{Digest as _, Sha256};
use switchboard_core::routing::Digest;

use crate::host::ledger;

/// Makes releases. The n-th has the version `n`, counted from 0.
#[derive(Debug)]
pub struct Artifacts {
    directory: PathBuf,
    component: Vec<u8>,
    /// The position of the version in the component.
    version_at: usize,
    /// The digest of each release made.
    digests: Vec<Digest>,
}

impl Artifacts {
    /// The files of the releases go into this directory.
    pub fn new(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let component = fs::read(ledger()?)?;
        let mut marks = (0..component.len()).filter(|at| component[*at..].starts_with(MARK));
        let mark = marks.next().context("the ledger's component has no mark: rebuild it with `make build`")?;
        ensure!(marks.next().is_none(), "the ledger's component has two marks, so its version cannot be changed");
        let version_at = mark + MARK.len();
        Ok(Self { directory: directory.to_owned(), component, version_at, digests: Vec::new() })
    }

    /// Makes one more release, and returns its number.
    pub fn make(&mut self) -> Result<usize> {
        let number = self.digests.len();
        let version = format!("{number:<VERSION_BYTES$}");
        self.component[self.version_at..self.version_at + VERSION_BYTES].copy_from_slice(version.as_bytes());
        fs::write(self.path(number), &self.component)?;
        self.digests.push(Digest::new(Sha256::digest(&self.component).into()));
        Ok(number)
    }

    /// The file of a release.
    pub fn path(&self, number: usize) -> PathBuf {
        self.directory.join(format!("ledger-{number}.wasm"))
    }

    /// The digests of all releases, by number.
    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }

    /// The size of each artifact, in bytes.
    pub fn size(&self) -> usize {
        self.component.len()
    }
}
