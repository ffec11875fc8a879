//! The consumer of a worker's source partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode as Code;
use switchboard_core::record::Offset;
use switchboard_core::worker::{Consumed, Partition, Start};

use super::context::PlainContext;
use super::topic_names::TopicNames;
use super::wake_up::WakeUp;
use super::{convert, new_client};
use crate::sys::QueuedConsumer;

/// How often the queue is polled though it is empty, as librdkafka's documentation of `poll` demands.
const EMPTY_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Reads source partitions, read_committed. They are assigned by hand: this consumer joins no group and commits nothing.
///
/// It is a client of its own. On the group's consumer, `incremental_assign` outside of a rebalance clears librdkafka's flag that
/// the assignment is lost, and can answer a rebalance that the worker has not seen.
pub(super) struct SourceReader {
    consumer: QueuedConsumer<PlainContext>,
    /// The offset of the next record of each partition that is read.
    reading: BTreeMap<Partition, Offset>,
    /// The same of partitions that are paused. They are not assigned: librdkafka's own resume does not wake the thread that fetches,
    /// so a partition could wait for a second.
    paused: BTreeMap<Partition, Offset>,
    /// The number of partitions of each topic whose leaders were asked for.
    asked: BTreeMap<usize, u32>,
    polled: Instant,
}

impl SourceReader {
    /// A reader of nothing.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub(super) fn new(config: &ClientConfig, wake_up: WakeUp) -> KafkaResult<Self> {
        let consumer: BaseConsumer<_> = new_client(config)?;
        Ok(Self {
            consumer: QueuedConsumer::new(consumer, move || wake_up.wake_for_consumer()),
            reading: BTreeMap::new(),
            paused: BTreeMap::new(),
            asked: BTreeMap::new(),
            polled: Instant::now(),
        })
    }

    /// The topics of the partitions that are read, for people.
    pub(super) fn topics(&self, names: &TopicNames) -> String {
        let topics: BTreeSet<_> = self.reading.keys().map(|partition| names.topic_partition(*partition).0).collect();
        topics.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Asks for the leaders of a topic with this many partitions, unless that was done. Does not wait: the answer reaches librdkafka
    /// later. Without the request an assignment waits for the leaders in steps of 500 ms.
    pub(super) fn find_leaders(&mut self, topic: usize, name: &str, partitions: u32) {
        if self.asked.get(&topic).is_some_and(|asked| *asked >= partitions) {
            return;
        }
        // A wait for the answer could take long: a broker answers the requests of a connection in order, and this client fetches.
        match self.consumer.fetch_metadata(Some(name), Duration::ZERO) {
            // Nothing was sent: there is no connection yet.
            Err(KafkaError::MetadataFetch(Code::BrokerTransportFailure)) => {}
            _ => drop(self.asked.insert(topic, partitions)),
        }
    }

    /// Starts to read partitions, some of them paused.
    pub(super) fn start(&mut self, starts: &[Start], names: &TopicNames) -> KafkaResult<()> {
        let (paused, read): (Vec<_>, Vec<_>) = starts.iter().copied().partition(|start| start.paused);
        let offset = |start: Start| (start.partition, start.offset);
        self.paused.extend(paused.into_iter().map(offset));
        self.assign(read.into_iter().map(offset).collect(), names)
    }

    fn assign(&mut self, offsets: Vec<(Partition, Offset)>, names: &TopicNames) -> KafkaResult<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let absolute = offsets.iter().map(|(partition, offset)| (*partition, convert::to_absolute(*offset)));
        self.consumer.incremental_assign(&names.offset_list(absolute))?;
        self.reading.extend(offsets);
        Ok(())
    }

    /// Stops reading partitions.
    pub(super) fn stop(&mut self, partitions: &[Partition], names: &TopicNames) -> KafkaResult<()> {
        let stopped = self.unassign(partitions, names);
        for partition in partitions {
            self.paused.remove(partition);
        }
        stopped.map(drop)
    }

    /// Gives up those of the partitions that are read, and returns the offsets of their next records. No record arrives afterwards:
    /// librdkafka drops what it has read ahead.
    fn unassign(&mut self, partitions: &[Partition], names: &TopicNames) -> KafkaResult<Vec<(Partition, Offset)>> {
        let next = |partition: &Partition| Some((*partition, self.reading.remove(partition)?));
        let given_up: Vec<_> = partitions.iter().filter_map(next).collect();
        if !given_up.is_empty() {
            let list = names.partition_list(given_up.iter().map(|(partition, _)| *partition));
            self.consumer.incremental_unassign(&list)?;
        }
        Ok(given_up)
    }

    /// Holds back the records of partitions, also those that were read ahead.
    pub(super) fn pause(&mut self, partitions: &[Partition], names: &TopicNames) -> KafkaResult<()> {
        let given_up = self.unassign(partitions, names)?;
        self.paused.extend(given_up);
        Ok(())
    }

    /// Goes on with those of the partitions that are paused.
    pub(super) fn resume(&mut self, partitions: &[Partition], names: &TopicNames) -> KafkaResult<()> {
        let next = |partition: &Partition| Some((*partition, self.paused.remove(partition)?));
        let offsets = partitions.iter().filter_map(next).collect();
        self.assign(offsets, names)
    }

    /// Moves a paused partition.
    pub(super) fn seek(&mut self, partition: Partition, offset: Offset) {
        if let Some(next) = self.paused.get_mut(&partition) {
            *next = offset;
        }
    }

    /// The next record or error. Does not wait.
    pub(super) fn poll(&mut self, now: Instant, names: &TopicNames) -> Option<Result<Consumed, KafkaError>> {
        let due = now.saturating_duration_since(self.polled) >= EMPTY_POLL_INTERVAL;
        if !due && self.consumer.is_empty() {
            return None;
        }
        self.polled = now;
        let message = match self.consumer.poll(Duration::ZERO)? {
            Ok(message) => message,
            Err(error) => return Some(Err(error)),
        };
        // The worker starts again at a record of a partition that it does not read. librdkafka returns none; should it ever do, the
        // record is not ours to handle.
        let consumed = names.consumed(&message)?;
        *self.reading.get_mut(&consumed.partition)? = consumed.offset.next();
        Some(Ok(consumed))
    }

    /// Whether a poll would find nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.consumer.is_empty()
    }
}

impl Drop for SourceReader {
    fn drop(&mut self) {
        // A close with partitions may report a rebalance, and a second call that answers one can wait for ever.
        if let Err(error) = self.consumer.unassign() {
            tracing::debug!(%error, "unassigning source partitions");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rdkafka::message::Message as _;

    use super::super::mock::Mock;
    use super::*;
    use crate::topics::Topology;

    const TIMEOUT: Duration = Duration::from_mins(1);

    /// The only partition of one of the topics `one` and `other`.
    fn partition(topic: usize) -> Partition {
        Partition::Source { topic, index: 0.into() }
    }

    fn start(topic: usize, offset: Offset) -> Start {
        Start { partition: partition(topic), offset, paused: false }
    }

    fn reader(mock: &Mock) -> (SourceReader, TopicNames) {
        let topology = Topology::new("app", BTreeMap::new(), |_| None);
        let mut names = TopicNames::new(&topology);
        names.set_aliases(&["one".into(), "other".into()], &topology);
        let options = mock.options(&[("fetch.wait.max.ms", "10")]);
        (SourceReader::new(&options.source_consumer(), WakeUp::default()).unwrap(), names)
    }

    fn next(reader: &mut SourceReader, names: &TopicNames) -> Consumed {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            if let Some(polled) = reader.poll(Instant::now(), names) {
                return polled.unwrap();
            }
        }
        panic!("no record");
    }

    #[test]
    fn no_record_of_a_stopped_partition_arrives() {
        let mock = Mock::with_topics(&["one", "other"]);
        let (mut reader, names) = reader(&mock);
        mock.produce("one", 1000);
        reader.start(&[start(0, Offset::ZERO), start(1, Offset::ZERO)], &names).unwrap();
        assert_eq!(next(&mut reader, &names).offset, Offset::ZERO);
        assert!(!reader.is_empty(), "further records were read ahead");
        reader.stop(&[partition(0)], &names).unwrap();
        mock.produce("other", 1);
        // Not by `SourceReader::poll`, which would hide such a record.
        let deadline = Instant::now() + TIMEOUT;
        loop {
            assert!(Instant::now() < deadline, "no record");
            if let Some(polled) = reader.consumer.poll(Duration::from_millis(100)) {
                break assert_eq!(polled.unwrap().topic(), "other");
            }
        }
    }

    #[test]
    fn a_partition_that_was_paused_and_stopped_is_read_again() {
        let mock = Mock::with_topics(&["one", "other"]);
        let (mut reader, names) = reader(&mock);
        mock.produce("one", 10);
        reader.start(&[start(0, Offset::ZERO)], &names).unwrap();
        next(&mut reader, &names);
        reader.pause(&[partition(0)], &names).unwrap();
        reader.stop(&[partition(0)], &names).unwrap();
        let offset = Offset::new(5).unwrap();
        reader.start(&[start(0, offset)], &names).unwrap();
        assert_eq!(next(&mut reader, &names).offset, offset);
    }

    #[test]
    fn a_paused_partition_goes_on_at_its_next_record_or_where_it_was_moved_to() {
        let mock = Mock::with_topics(&["one", "other"]);
        let (mut reader, names) = reader(&mock);
        mock.produce("one", 10);
        let start = Start { paused: true, ..start(0, Offset::ZERO) };
        reader.start(&[start], &names).unwrap();
        for moved_to in [None, None, Some(7)] {
            let expected = match moved_to.and_then(Offset::new) {
                Some(offset) => {
                    reader.seek(partition(0), offset);
                    offset
                }
                None => reader.paused[&partition(0)],
            };
            reader.resume(&[partition(0)], &names).unwrap();
            assert_eq!(next(&mut reader, &names).offset, expected);
            reader.pause(&[partition(0)], &names).unwrap();
            assert_eq!(reader.paused[&partition(0)], expected.next());
        }
    }

    #[test]
    fn a_partition_that_was_never_started_can_be_stopped() {
        let mock = Mock::with_topics(&["one", "other"]);
        let (mut reader, names) = reader(&mock);
        reader.stop(&[partition(0)], &names).unwrap();
    }
}
