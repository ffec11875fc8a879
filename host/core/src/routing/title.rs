//! How texts for people name a release.

use std::fmt;

use super::digest::Digest;
use super::manifest::Manifest;
use super::resolve::Release;

/// The name of a release in texts for people: `messenger 0.2.0 (0a1b2c3d4e5f)`, that is the plugin's name, its version and
/// the short digest.
#[derive(Debug, Clone, Copy)]
pub struct ReleaseTitle<'a> {
    manifest: &'a Manifest,
    digest: &'a Digest,
}

impl fmt::Display for ReleaseTitle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.manifest.name, self.manifest.version, self.digest.short())
    }
}

impl Manifest {
    /// The title of the release with this digest, which has this manifest.
    pub fn title<'a>(&'a self, digest: &'a Digest) -> ReleaseTitle<'a> {
        ReleaseTitle { manifest: self, digest }
    }
}

impl Release {
    /// The release's title, for people.
    pub fn title(&self) -> ReleaseTitle<'_> {
        self.manifest.title(&self.digest)
    }
}
