//! All that a read_committed reader finds of the outputs and of the control topic, taken down as it comes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use switchboard_core::record::Timestamp;

use super::load;
use super::versions::Versions;
use crate::witness::Witness;

/// A line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Of its input.
    pub id: u64,
    /// How many inputs its tenant has had, by the tenant's state.
    pub number: u64,
    /// Over the ids of all of them.
    pub hash: u64,
    /// The number of the release that made it.
    pub release: usize,
    /// When the broker took it.
    pub timestamp: Timestamp,
    /// When it was read.
    pub at: Instant,
}

/// What was read so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// Each tenant's, in order.
    pub outputs: Vec<Vec<Output>>,
    pub versions: Versions,
    /// Dead letters, and whatever else is not as it must be.
    pub wrong: Vec<String>,
}

/// A reader on a thread of its own.
pub struct Watch {
    pub witness: Witness,
    seen: Arc<Mutex<Seen>>,
}

/// Where it reads.
#[derive(Debug, Clone)]
pub struct Topics {
    /// The alias LINES, whose records have the broker's time.
    pub lines: String,
    pub partitions: i32,
    pub letters: String,
    pub control: String,
}

impl Watch {
    /// Reads these topics, which exist, from their beginning.
    pub fn start(bootstrap: &str, topics: &Topics) -> Result<Self> {
        let seen = Seen { outputs: vec![Vec::new(); load::TENANTS], ..Seen::default() };
        let seen = Arc::new(Mutex::new(seen));
        let (filled, Topics { lines, partitions, letters, control }) = (Arc::clone(&seen), topics.clone());
        let further = [control.as_str()];
        let (own, of_control) = (lines.clone(), control.clone());
        let witness = Witness::start(bootstrap, (&lines, partitions), &letters, &further, move |message| {
            let mut seen = lock(&filled);
            let taken = match message.topic() {
                topic if topic == own => seen.line(message),
                topic if topic == of_control => seen.control(message),
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

    /// What was read so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }
}

impl Seen {
    fn line(&mut self, message: &BorrowedMessage<'_>) -> Result<()> {
        let header = |name: &str| {
            let headers = message.headers().context("no headers")?;
            let found = headers.iter().find(|header| header.key == name).and_then(|header| header.value);
            anyhow::Ok(std::str::from_utf8(found.with_context(|| format!("no header {name}"))?)?)
        };
        let tenant = load::tenant(header("TENANT")?).context("no tenant of ours")?;
        let text = std::str::from_utf8(message.payload().context("a tombstone")?)?;
        let mut words = text.split(' ');
        let mut word = || words.next().context("no line of the ledger");
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
