//! A record of everything that a read_committed reader finds in the outputs and the control topic, while the test runs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use switchboard_core::record::Timestamp;

use super::load;
use super::versions::Versions;
use crate::witness::{Witness, WitnessedTopics};

/// A line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// The id of its input.
    pub id: u64,
    /// The number of inputs of its tenant so far, from the tenant's state.
    pub number: u64,
    /// The hash over the ids of these inputs.
    pub hash: u64,
    /// The number of the release that made it.
    pub release: usize,
    /// The broker's timestamp.
    pub timestamp: Timestamp,
    /// When the reader got it.
    pub at: Instant,
}

/// The records that were read so far.
#[derive(Debug, Default)]
pub struct WatchedRecords {
    /// The outputs of each tenant, in order.
    pub outputs: Vec<Vec<Output>>,
    pub versions: Versions,
    /// Dead letters and other records that must not exist.
    pub wrong: Vec<String>,
}

/// A reader on its own thread.
pub struct TopicWatch {
    pub witness: Witness,
    seen: Arc<Mutex<WatchedRecords>>,
}

/// The topics that it reads.
#[derive(Debug, Clone)]
pub struct WatchedTopics {
    /// The topic of the alias LINES, whose records have the broker's timestamp.
    pub lines: String,
    pub partitions: i32,
    pub dead_letters: String,
    pub control: String,
}

impl TopicWatch {
    /// Reads these topics from their beginning. All of them must exist.
    pub fn start(bootstrap: &str, topics: &WatchedTopics) -> Result<Self> {
        let seen = WatchedRecords { outputs: vec![Vec::new(); load::TENANTS], ..WatchedRecords::default() };
        let seen = Arc::new(Mutex::new(seen));
        let shared = Arc::clone(&seen);
        let WatchedTopics { lines, partitions, dead_letters, control } = topics.clone();
        let witnessed = WitnessedTopics {
            lines: &lines,
            line_partitions: partitions,
            dead_letters: &dead_letters,
            further: &[&control],
        };
        let topics = topics.clone();
        let witness = Witness::start(bootstrap, witnessed, move |message| {
            let mut seen = lock(&shared);
            let taken = match message.topic() {
                topic if topic == topics.lines => seen.line(message),
                topic if topic == topics.control => seen.control(message),
                _ => Err(anyhow::anyhow!("a dead letter")),
            };
            if let Err(error) = taken {
                let value = String::from_utf8_lossy(message.payload().unwrap_or_default())
                    .chars()
                    .take(100)
                    .collect::<String>();
                seen.wrong.push(format!("{error:#} at {}[{}]: {value:?}", message.topic(), message.offset()));
            }
        })?;
        Ok(Self { witness, seen })
    }

    /// The records that were read so far.
    pub fn seen(&self) -> MutexGuard<'_, WatchedRecords> {
        lock(&self.seen)
    }
}

impl WatchedRecords {
    fn line(&mut self, message: &BorrowedMessage<'_>) -> Result<()> {
        let header = |name: &str| {
            let headers = message.headers().context("no headers")?;
            let found = headers.iter().find(|header| header.key == name).and_then(|header| header.value);
            anyhow::Ok(std::str::from_utf8(found.with_context(|| format!("no header {name}"))?)?)
        };
        let tenant = load::tenant(header("TENANT")?).context("not a tenant of this test")?;
        let text = std::str::from_utf8(message.payload().context("a tombstone")?)?;
        let mut words = text.split(' ');
        let mut word = || words.next().context("not a line of the ledger");
        self.outputs[tenant].push(Output {
            id: word()?.parse()?,
            number: word()?.parse()?,
            hash: word()?.parse()?,
            release: header("release")?.parse()?,
            timestamp: Timestamp::from_millis(message.timestamp().to_millis().context("no timestamp")?),
            at: Instant::now(),
        });
        Ok(())
    }

    fn control(&mut self, message: &BorrowedMessage<'_>) -> Result<()> {
        let timestamp = Timestamp::from_millis(message.timestamp().to_millis().context("no timestamp")?);
        self.versions.apply(
            message.offset().try_into()?,
            timestamp,
            message.key().unwrap_or_default(),
            message.payload(),
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
