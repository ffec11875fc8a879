//! Checkpoints: what a shard's changelog says, kept on disk, so that a restart reads what came since and not all there is.
//!
//! A checkpoint is a cache. It holds what a read_committed reader of the changelog has seen up to an offset, and nothing
//! else: so whoever writes it needs no proof of owning the shard, and no worker's transaction knows of it. One thread a
//! process tails the changelogs of the shards that the process owns and writes them down (`checkpointer`), a file a shard
//! (`store`). A checkpoint that does not fit the changelog is not used, with one log line: the changelog is the truth.
//! This room knows no Kafka client, and workers only through [`Checkpoints`].
#![deny(unsafe_code)]

mod checkpoint;
mod checkpointer;
mod store;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use switchboard_core::record::{Offset, ShardId};

use self::checkpointer::{Checkpointer, Command};
pub use self::store::{CheckpointMeta, Entries, Snapshot, StoreError, Topic};

/// A state directory that cannot be used, with what to do.
#[derive(Debug, thiserror::Error)]
#[error(
    "checkpoints cannot be kept in {directory}: {error}. Give --state-dir a directory that this user may write to, or leave it \
     out: then all state is read from the changelog at every start"
)]
pub struct DirectoryError {
    directory: PathBuf,
    error: std::io::Error,
}

/// Why the changelog cannot be described or read now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangelogError {
    /// A call of the brokers failed.
    #[error("{what}: {source}")]
    Call { what: String, source: Arc<dyn std::error::Error + Send + Sync> },
    /// The topic is not one that checkpoints can be kept of; the text says why.
    #[error("{0}")]
    Unfit(String),
}

impl ChangelogError {
    pub fn call(what: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Call { what: what.into(), source: Arc::new(source) }
    }
}

/// The changelog as the checkpointer reads it: a consumer of its own, read_committed, assigned by hand.
pub trait Changelog {
    /// What the topic is now.
    ///
    /// # Errors
    /// What cannot be had, and what to do.
    fn describe(&mut self) -> Result<Topic, ChangelogError>;

    /// A shard's first offset and its stable end.
    ///
    /// # Errors
    /// When the broker does not answer.
    fn bounds(&mut self, shard: ShardId) -> Result<Range<Offset>, ChangelogError>;

    /// Starts to read a shard from this offset.
    ///
    /// # Errors
    /// When the consumer cannot.
    fn start(&mut self, shard: ShardId, offset: Offset) -> Result<(), ChangelogError>;

    /// Ends the reading of a shard.
    fn stop(&mut self, shard: ShardId);

    /// The offset to go on from in a shard that is read: all that is committed below it has been given out.
    fn position(&mut self, shard: ShardId) -> Option<Offset>;

    /// The next record; does not wait.
    fn poll(&mut self) -> Polled;
}

/// What the changelog has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Polled {
    Record {
        shard: ShardId,
        offset: Offset,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    /// The log's end has been reached, for now.
    End {
        shard: ShardId,
    },
    /// Records that were to be read are not there any more.
    Gone(String),
    Nothing,
}

/// Whose checkpoints these are.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointOwner<'a> {
    pub app: &'a str,
    /// The id of the process instance.
    pub instance: &'a str,
}

/// What workers say to the checkpointer. Clones are for the workers of one process; when the last one is dropped, the
/// checkpointer writes what it has and ends.
#[derive(Debug, Clone)]
pub struct Checkpoints(Sender<Command>);

impl Checkpoints {
    /// Starts the checkpointer of a process, whose files are `<state_dir>/<app>/<instance>/shard-<n>.redb`.
    ///
    /// # Errors
    /// When the directory cannot be made or written to.
    pub fn start(
        state_dir: &Path,
        of: CheckpointOwner<'_>,
        shards: u32,
        changelog: impl Changelog + Send + 'static,
    ) -> Result<(Self, JoinHandle<()>), DirectoryError> {
        let directory = state_dir.join(segment(of.app)).join(segment(of.instance));
        let failed = |error| DirectoryError { directory: directory.clone(), error };
        std::fs::create_dir_all(&directory).map_err(failed)?;
        let probe = directory.join("writable");
        std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe)).map_err(failed)?;
        let (asks, heard) = mpsc::channel();
        let checkpointer = Checkpointer::new(directory.clone(), shards, changelog);
        let thread = std::thread::Builder::new().name("checkpoints".into());
        let thread = thread.spawn(move || checkpointer.run(&heard)).map_err(failed)?;
        Ok((Self(asks), thread))
    }

    /// A shard is about to be restored from the changelog between these bounds. The answer, soon: a checkpoint to begin with,
    /// or none. No answer, when the checkpointer is gone, is none too.
    pub fn open(&self, shard: ShardId, bounds: Range<Offset>) -> Receiver<Option<Snapshot>> {
        let (answer, answered) = mpsc::channel();
        self.tell(Command::Open { shard, bounds, answer });
        answered
    }

    /// From now on the shard's checkpoint is kept: this worker owns it and has restored it.
    pub fn follow(&self, shard: ShardId, worker: usize) {
        self.tell(Command::Follow { shard, worker });
    }

    /// The worker does not own the shard any more.
    pub fn release(&self, shard: ShardId, worker: usize) {
        self.tell(Command::Release { shard, worker });
    }

    /// The shard's file cannot be read after all.
    pub fn condemn(&self, shard: ShardId) {
        self.tell(Command::Condemn { shard });
    }

    fn tell(&self, ask: Command) {
        // Err: it panicked. The host goes on without.
        let _ = self.0.send(ask);
    }
}

/// A name as one segment of a path: a word, whatever it was.
fn segment(name: &str) -> String {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
    let escaped = utf8_percent_encode(name, ESCAPED).to_string();
    if escaped.starts_with('.') { escaped.replacen('.', "%2E", 1) } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_leave_the_directory() {
        assert_eq!(segment("node-1.example_x"), "node-1.example_x");
        assert_eq!(segment(".."), "%2E.");
        assert_eq!(segment("../a/b"), "%2E.%2Fa%2Fb");
    }
}
