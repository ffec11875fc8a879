//! Reads what is committed while it comes: how far all inputs are settled, and at once whether one is settled twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

/// How long a poll waits.
const POLL: Duration = Duration::from_millis(100);
/// The mark of a dead letter, beside those of a line's parts.
const LETTER: u8 = 1 << 7;

/// A reader of the ledger's lines and of the dead letters, on a thread of its own.
pub struct Witness {
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
}

#[derive(Default)]
struct Seen {
    marks: Mutex<Marks>,
    more: Condvar,
}

/// What was seen of each id.
#[derive(Default)]
struct Marks {
    by_id: Vec<u8>,
    /// All ids below are settled.
    settled: usize,
    twice: Vec<String>,
}

impl Marks {
    /// Takes in a line (with its part) or a dead letter (without).
    fn mark(&mut self, id: usize, part: Option<u8>) {
        let bit = part.map_or(LETTER, |part| 1 << part.min(6));
        if self.by_id.len() <= id {
            self.by_id.resize(id + 1, 0);
        }
        let marks = &mut self.by_id[id];
        if *marks & bit != 0 || (*marks != 0 && (*marks | bit) & LETTER != 0) {
            let what = part.map_or("a dead letter".to_owned(), |part| format!("part {part} of its line"));
            self.twice.push(format!("input {id} is settled twice: {what} came after marks {marks:#010b}"));
        }
        *marks |= bit;
        while self.by_id.get(self.settled).is_some_and(|marks| *marks != 0) {
            self.settled += 1;
        }
    }
}

impl Witness {
    /// Reads these topics, which exist, from their beginning, and `further` ones of one partition each. Every record is
    /// shown to `each` before it counts.
    pub fn start(
        bootstrap: &str,
        (lines, partitions): (&str, i32),
        letters: &str,
        further: &[&str],
        mut each: impl FnMut(&BorrowedMessage<'_>) + Send + 'static,
    ) -> Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "never used")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("reconnect.backoff.max.ms", "500")
            .create()?;
        let mut assigned = TopicPartitionList::new();
        for partition in 0..partitions {
            assigned.add_partition_offset(lines, partition, Offset::Beginning)?;
        }
        for topic in [letters].iter().chain(further) {
            assigned.add_partition_offset(topic, 0, Offset::Beginning)?;
        }
        consumer.assign(&assigned)?;
        let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let (kept, asked) = (Arc::clone(&seen), Arc::clone(&stop));
        let (lines, letters) = (lines.to_owned(), letters.to_owned());
        thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                // Err: librdkafka goes on after an error.
                let Some(Ok(message)) = consumer.poll(POLL) else { continue };
                each(&message);
                let is_line = message.topic() == lines;
                if !is_line && message.topic() != letters {
                    continue;
                }
                let text = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
                let words: Vec<_> = text.split(' ').collect();
                let id = words[0].parse().unwrap_or(usize::MAX);
                let part = is_line.then(|| words.get(3).and_then(|part| part.parse().ok()));
                if id < usize::MAX {
                    kept.lock().mark(id, part.map(Option::unwrap_or_default));
                    kept.more.notify_all();
                }
            }
        });
        Ok(Self { seen, stop })
    }

    /// Waits until all ids below `id` are settled; false: not `within` that time.
    pub fn wait_for(&self, id: u64, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut marks = self.seen.lock();
        while (marks.settled as u64) < id {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            marks = self.seen.more.wait_timeout(marks, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Ids below `id` that are not settled.
    pub fn missing(&self, id: u64) -> Vec<u64> {
        let marks = self.seen.lock();
        (0..id)
            .filter(|id| marks.by_id.get(usize::try_from(*id).unwrap_or(0)).is_none_or(|marks| *marks == 0))
            .collect()
    }

    /// What was settled twice.
    pub fn twice(&self) -> Vec<String> {
        self.seen.lock().twice.clone()
    }
}

impl Seen {
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
    fn inputs_count_as_settled_up_to_the_first_that_is_not() {
        let mut marks = Marks::default();
        marks.mark(2, Some(0));
        marks.mark(0, None);
        assert_eq!(marks.settled, 1);
        marks.mark(1, Some(1));
        marks.mark(1, Some(0));
        assert_eq!(marks.settled, 3);
        assert_eq!(marks.twice, [""; 0]);
    }

    #[test]
    fn what_is_settled_twice_is_noticed() {
        for [first, second] in [[Some(0), Some(0)], [Some(0), None], [None, Some(1)], [None, None]] {
            let mut marks = Marks::default();
            marks.mark(0, first);
            marks.mark(0, second);
            assert_eq!(marks.twice.len(), 1, "{first:?} {second:?}");
        }
    }
}
