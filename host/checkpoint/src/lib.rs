//! Checkpoints: the state of a shard on local disk, so that a restart reads only what the changelog got since.
//!
//! A checkpoint is a cache. It holds what a read_committed reader of the changelog has seen up to an offset, and nothing else.
//! So its writer needs no proof that it owns the shard, and no worker's transaction depends on it. The changelog is the truth:
//! a checkpoint that does not fit the changelog is not used, and one log line says why.
//!
//! One thread per process, the checkpointer, reads the changelogs of the shards that the process owns and writes them to one file
//! per shard. The files are `<state_dir>/<app>/<instance>/shard-<n>.redb`; only their owner can read them.
//!
//! This crate knows no Kafka client (see [`Changelog`]), and workers know it only through [`Checkpoints`].
//!
//! | type | what it is |
//! |---|---|
//! | [`Checkpoints`] | the handle of workers: open, follow, release and condemn the checkpoint of a shard |
//! | [`CheckpointOwner`] | the application and the process instance that the files belong to |
//! | [`Changelog`], [`ChangelogEvent`], [`ChangelogTopic`] | what the checkpointer needs of Kafka (see `switchboard-kafka`) |
//! | [`Snapshot`], [`Entries`], [`CheckpointMeta`] | what a restore starts with |
//! | [`ThrottledWarn`] | reports trouble that lasts at most once per interval |
//!
//! # Errors
//!
//! Only [`Checkpoints::start`] returns an error to the host: [`DirectoryError`], when the directory cannot be used. All later
//! trouble costs time, never data. The checkpointer logs it, leaves the shard without a checkpoint and tries again after a minute.
//!
//! | error | meaning | consequence |
//! |---|---|---|
//! | [`StoreError::Unusable`] | the file is damaged or has another format | it is replaced |
//! | [`StoreError::Locked`] | another process has the file open | it is left alone |
//! | [`StoreError::Database`] | the disk failed | the file is closed; it is checked in full before it is used again |
//! | [`ChangelogError`] | the brokers do not answer, or the topic does not suit checkpoints | the changelog is read in full |
//!
//! A restore that finds an unreadable entry half-way gets a [`StoreError`] from [`Entries`]. It condemns the checkpoint and starts
//! again from the changelog.
#![deny(unsafe_code)]

mod checkpoint;
mod checkpointer;
mod store;
mod throttled_warn;

use std::fs::DirBuilder;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use switchboard_core::record::{Offset, ShardId};

use self::checkpointer::{Checkpointer, Command};
pub use self::store::{ChangelogTopic, CheckpointMeta, Entries, Snapshot, StoreError};
pub use self::throttled_warn::ThrottledWarn;

/// Permissions of the directories: state belongs to the user that the host runs as.
const DIRECTORY_MODE: u32 = 0o700;

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "checkpoints cannot be kept in {directory}: {source}. Give --state-dir a directory that this user may write to, or leave it \
     out: then all state is read from the changelog at every start"
)]
pub struct DirectoryError {
    directory: PathBuf,
    source: std::io::Error,
}

/// The changelog cannot be described or read now.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangelogError {
    /// A request to the brokers failed.
    #[error("{what}: {source}")]
    Call {
        /// What was requested.
        what: String,
        /// Why it failed.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The topic does not suit checkpoints; the text says why.
    #[error("{0}")]
    Unfit(String),
}

impl ChangelogError {
    /// A request to the brokers that failed.
    pub fn call(what: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Call { what: what.into(), source: Arc::new(source) }
    }
}

/// The changelog as the checkpointer reads it: with a consumer of its own, read_committed, with partitions assigned by hand.
pub trait Changelog {
    /// Describes the topic as it is now.
    ///
    /// # Errors
    /// When the brokers do not answer, or the topic does not suit checkpoints.
    fn describe(&mut self) -> Result<ChangelogTopic, ChangelogError>;

    /// A shard's first offset and its stable end.
    ///
    /// # Errors
    /// When the broker does not answer.
    fn bounds(&mut self, shard: ShardId) -> Result<Range<Offset>, ChangelogError>;

    /// Starts to read a shard from this offset.
    ///
    /// # Errors
    /// When the consumer refuses.
    fn start(&mut self, shard: ShardId, offset: Offset) -> Result<(), ChangelogError>;

    /// Stops reading a shard.
    fn stop(&mut self, shard: ShardId);

    /// The next offset of a shard that is being read. Every committed record below it was returned by `poll`.
    fn position(&mut self, shard: ShardId) -> Option<Offset>;

    /// The next event. Does not wait.
    fn poll(&mut self) -> ChangelogEvent;
}

/// What a reader of the changelog gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangelogEvent {
    /// A record.
    Record {
        /// The shard whose changelog it is.
        shard: ShardId,
        /// The record's offset.
        offset: Offset,
        /// The record's key; empty if it has none.
        key: Vec<u8>,
        /// The record's value; `None` is a tombstone.
        value: Option<Vec<u8>>,
    },
    /// The reader has reached the end of a shard's log, for now.
    End {
        /// The shard.
        shard: ShardId,
    },
    /// The next records were deleted before they were read. The text says from which topic.
    Gone(String),
    /// There is no event now.
    Nothing,
}

/// Whose checkpoints a process keeps.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointOwner<'a> {
    /// The application.
    pub app: &'a str,
    /// The id of the process instance.
    pub instance: &'a str,
}

/// Sends commands of workers to the checkpointer. All workers of a process hold clones.
///
/// When the last clone is dropped, the checkpointer writes what is pending and ends.
#[derive(Debug, Clone)]
pub struct Checkpoints(Sender<Command>);

impl Checkpoints {
    /// Starts the checkpointer of a process. Its files are `<state_dir>/<app>/<instance>/shard-<n>.redb`.
    ///
    /// # Errors
    /// When the directory cannot be created or written to.
    pub fn start(
        state_dir: &Path,
        owner: CheckpointOwner<'_>,
        shard_count: u32,
        changelog: impl Changelog + Send + 'static,
    ) -> Result<(Self, JoinHandle<()>), DirectoryError> {
        let directory = state_dir.join(path_segment(owner.app)).join(path_segment(owner.instance));
        let failed = |source| DirectoryError { directory: directory.clone(), source };
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&directory).map_err(failed)?;
        let probe = directory.join("writable");
        std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe)).map_err(failed)?;
        let (sender, commands) = mpsc::channel();
        let checkpointer = Checkpointer::new(directory.clone(), shard_count, changelog);
        let thread = std::thread::Builder::new().name("checkpoints".into());
        let thread = thread.spawn(move || checkpointer.run(&commands)).map_err(failed)?;
        Ok((Self(sender), thread))
    }

    /// Asks for the checkpoint of a shard that is about to be restored from the changelog between these bounds.
    ///
    /// The answer is a snapshot, or `None` if no checkpoint fits. A closed channel (the checkpointer has ended) means `None` too.
    pub fn open(&self, shard: ShardId, bounds: Range<Offset>) -> Receiver<Option<Snapshot>> {
        let (answer, answered) = mpsc::channel();
        self.send(Command::Open { shard, bounds, answer });
        answered
    }

    /// Keeps the shard's checkpoint from now on: this worker owns the shard and has restored it.
    pub fn follow(&self, shard: ShardId, worker: usize) {
        self.send(Command::Follow { shard, worker });
    }

    /// Stops keeping the shard's checkpoint, if this worker is still its owner.
    pub fn release(&self, shard: ShardId, worker: usize) {
        self.send(Command::Release { shard, worker });
    }

    /// Replaces the shard's file: a restore could not read it.
    pub fn condemn(&self, shard: ShardId) {
        self.send(Command::Condemn { shard });
    }

    fn send(&self, command: Command) {
        // Err: the checkpointer panicked. The host goes on without checkpoints.
        let _ = self.0.send(command);
    }
}

/// A name as exactly one segment of a path, whatever characters it has.
fn path_segment(name: &str) -> String {
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
    let escaped = utf8_percent_encode(name, ESCAPED).to_string();
    if escaped.starts_with('.') { escaped.replacen('.', "%2E", 1) } else { escaped }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn names_do_not_leave_the_directory() {
        assert_eq!(path_segment("node-1.example_x"), "node-1.example_x");
        assert_eq!(path_segment(".."), "%2E.");
        assert_eq!(path_segment("../a/b"), "%2E.%2Fa%2Fb");
    }

    struct NoChangelog;

    impl Changelog for NoChangelog {
        fn describe(&mut self) -> Result<ChangelogTopic, ChangelogError> {
            Err(ChangelogError::Unfit("there is none".into()))
        }

        fn bounds(&mut self, _: ShardId) -> Result<Range<Offset>, ChangelogError> {
            Err(ChangelogError::Unfit("there is none".into()))
        }

        fn start(&mut self, _: ShardId, _: Offset) -> Result<(), ChangelogError> {
            Err(ChangelogError::Unfit("there is none".into()))
        }

        fn stop(&mut self, _: ShardId) {}

        fn position(&mut self, _: ShardId) -> Option<Offset> {
            None
        }

        fn poll(&mut self) -> ChangelogEvent {
            ChangelogEvent::Nothing
        }
    }

    #[test]
    fn only_the_user_of_the_host_can_enter_the_directories_of_checkpoints() {
        let state_dir = tempfile::tempdir().unwrap();
        let owner = CheckpointOwner { app: "app", instance: "one" };
        let (checkpoints, thread) = Checkpoints::start(state_dir.path(), owner, 4, NoChangelog).unwrap();
        drop(checkpoints);
        thread.join().unwrap();
        for directory in ["app", "app/one"] {
            let mode = std::fs::metadata(state_dir.path().join(directory)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, DIRECTORY_MODE, "{directory}");
        }
    }
}
