//! Reads committed records while the test runs: which inputs are settled, and whether an input is settled twice.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

/// How long a poll waits for a record.
const CONSUMER_POLL: Duration = Duration::from_millis(100);
/// The bit of a dead letter. The other bits are those of a line's parts.
const DEAD_LETTER_MARK: u8 = 1 << 7;

/// The topics that a [`Witness`] reads. All of them must exist.
#[derive(Debug, Clone, Copy)]
pub struct WitnessedTopics<'a> {
    /// The topic of the ledger's lines.
    pub lines: &'a str,
    /// The number of partitions of `lines`. The other topics have one partition each.
    pub line_partitions: i32,
    /// The topic of dead letters.
    pub dead_letters: &'a str,
    /// Further topics, whose records settle nothing.
    pub further: &'a [&'a str],
}

/// A reader of the ledger's lines and dead letters, on its own thread.
pub struct Witness {
    settled: Settled,
    stop: Arc<AtomicBool>,
}

/// The inputs that a [`Witness`] has seen settled so far. All clones share them.
#[derive(Clone, Default)]
pub struct Settled(Arc<SharedMarks>);

#[derive(Default)]
struct SharedMarks {
    marks: Mutex<Marks>,
    more: Condvar,
}

/// The outputs that were seen of each id.
#[derive(Default)]
struct Marks {
    by_id: Vec<u8>,
    /// All ids below are settled.
    settled: usize,
    /// The number of settled ids.
    count: u64,
    twice: Vec<String>,
}

impl Marks {
    /// Records a line (with its part) or a dead letter (without a part).
    fn mark(&mut self, id: usize, part: Option<u8>) {
        let bit = part.map_or(DEAD_LETTER_MARK, |part| 1 << part.min(6));
        if self.by_id.len() <= id {
            self.by_id.resize(id + 1, 0);
        }
        let marks = &mut self.by_id[id];
        if *marks & bit != 0 || (*marks != 0 && (*marks | bit) & DEAD_LETTER_MARK != 0) {
            let what = part.map_or("a dead letter".to_owned(), |part| format!("part {part} of its line"));
            self.twice.push(format!("input {id} is settled twice: {what} came after marks {marks:#010b}"));
        }
        self.count += u64::from(*marks == 0);
        *marks |= bit;
        while self.by_id.get(self.settled).is_some_and(|marks| *marks != 0) {
            self.settled += 1;
        }
    }

    /// Ids below `id` that are not settled.
    fn missing(&self, id: u64) -> impl Iterator<Item = u64> {
        let is_missing =
            |id: &u64| usize::try_from(*id).is_ok_and(|id| self.by_id.get(id).is_none_or(|marks| *marks == 0));
        (self.settled as u64..id).filter(is_missing)
    }
}

impl Witness {
    /// Reads these topics from their beginning. Passes every record to `each` before it counts.
    pub fn start(
        bootstrap: &str,
        topics: WitnessedTopics<'_>,
        mut each: impl FnMut(&BorrowedMessage<'_>) + Send + 'static,
    ) -> Result<Self> {
        let WitnessedTopics { lines, line_partitions, dead_letters, further } = topics;
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "never used")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("reconnect.backoff.max.ms", "500")
            .create()?;
        let mut assigned = TopicPartitionList::new();
        for partition in 0..line_partitions {
            assigned.add_partition_offset(lines, partition, Offset::Beginning)?;
        }
        for topic in [dead_letters].iter().chain(further) {
            assigned.add_partition_offset(topic, 0, Offset::Beginning)?;
        }
        consumer.assign(&assigned)?;
        let settled = Settled::default();
        let stop = Arc::new(AtomicBool::new(false));
        let shared = settled.clone();
        let is_stopped = Arc::clone(&stop);
        let lines = lines.to_owned();
        let dead_letters = dead_letters.to_owned();
        thread::spawn(move || {
            while !is_stopped.load(Ordering::Relaxed) {
                // Err: librdkafka continues after an error.
                let Some(Ok(message)) = consumer.poll(CONSUMER_POLL) else { continue };
                each(&message);
                let is_line = message.topic() == lines;
                if !is_line && message.topic() != dead_letters {
                    continue;
                }
                let text = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
                let words: Vec<_> = text.split(' ').collect();
                let id = words[0].parse().unwrap_or(usize::MAX);
                let part = is_line.then(|| words.get(3).and_then(|part| part.parse().ok()));
                if id < usize::MAX {
                    shared.0.lock().mark(id, part.map(Option::unwrap_or_default));
                    shared.0.more.notify_all();
                }
            }
        });
        Ok(Self { settled, stop })
    }
}

impl Witness {
    /// A handle on the inputs that this witness sees settled.
    pub fn settled(&self) -> Settled {
        self.settled.clone()
    }
}

impl Deref for Witness {
    type Target = Settled;

    fn deref(&self) -> &Settled {
        &self.settled
    }
}

impl Settled {
    /// The number of settled ids.
    pub fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// Waits up to `within` until all ids below `id` are settled, and returns whether they are.
    pub fn wait_for(&self, id: u64, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut marks = self.0.lock();
        while (marks.settled as u64) < id {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            marks = self.0.more.wait_timeout(marks, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Ids below `id` that are not settled.
    pub fn missing(&self, id: u64) -> Vec<u64> {
        let marks = self.0.lock();
        marks.missing(id).collect()
    }

    /// The number of ids below `id` that are not settled.
    pub fn unsettled(&self, id: u64) -> usize {
        self.0.lock().missing(id).count()
    }

    /// A description of each input that was settled twice.
    pub fn twice(&self) -> Vec<String> {
        self.0.lock().twice.clone()
    }
}

#[cfg(test)]
impl Settled {
    /// As if a line of this id had been read.
    pub(crate) fn settle(&self, id: usize) {
        self.0.lock().mark(id, Some(0));
    }
}

impl SharedMarks {
    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_count_as_settled_up_to_the_first_unsettled_one() {
        let mut marks = Marks::default();
        marks.mark(2, Some(0));
        marks.mark(0, None);
        assert_eq!((marks.settled, marks.count), (1, 2));
        assert_eq!(marks.missing(5).collect::<Vec<_>>(), [1, 3, 4]);
        marks.mark(1, Some(1));
        marks.mark(1, Some(0));
        assert_eq!((marks.settled, marks.count), (3, 3));
        assert_eq!(marks.twice, [""; 0]);
    }

    #[test]
    fn an_input_that_is_settled_twice_is_found() {
        for [first, second] in [[Some(0), Some(0)], [Some(0), None], [None, Some(1)], [None, None]] {
            let mut marks = Marks::default();
            marks.mark(0, first);
            marks.mark(0, second);
            assert_eq!(marks.twice.len(), 1, "{first:?} {second:?}");
        }
    }
}
