//! The plugin file of the configuration, where `watch` is set: it is loaded again whenever it changes.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A plugin file, and the version of it that was loaded last.
pub struct WatchedFile {
    path: PathBuf,
    /// The version that was loaded last, whether or not it could be run.
    loaded: Option<FileVersion>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileVersion {
    modified: SystemTime,
    size: u64,
}

impl WatchedFile {
    /// Watches a file that has just been loaded.
    pub fn new(path: PathBuf) -> Self {
        let loaded = FileVersion::read(&path);
        Self { path, loaded }
    }

    /// The file's path, if the file has changed since the last call. A file that is missing has not changed.
    pub(super) fn take_change(&mut self) -> Option<&Path> {
        let current = FileVersion::read(&self.path)?;
        if self.loaded == Some(current) {
            return None;
        }
        self.loaded = Some(current);
        Some(&self.path)
    }
}

impl FileVersion {
    fn read(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self { modified: metadata.modified().ok()?, size: metadata.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_reported_once_and_a_missing_file_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin.wasm");
        std::fs::write(&path, b"one").unwrap();
        let mut watched = WatchedFile::new(path.clone());
        assert_eq!(watched.take_change(), None);
        std::fs::write(&path, b"longer").unwrap();
        assert_eq!(watched.take_change(), Some(&*path));
        assert_eq!(watched.take_change(), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(watched.take_change(), None);
    }
}
