//! How many partitions the consumed topics have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode as Code;

use super::TOPIC_REQUEST_TIMEOUT;
use crate::ThrottledWarn;
use crate::clients::context::PlainContext;
use crate::clients::{ClientOptions, new_client};
use crate::lock::lock;

/// Between two rounds of requests while the partitions of a topic are not known. Hosts often start before their topics are
/// created, and nothing of such a topic is read until it is found.
const UNKNOWN_TOPIC_INTERVAL: Duration = Duration::from_secs(1);
/// Between two rounds otherwise. Partitions are added rarely, and each round costs a request per topic. Producers
/// notice new partitions later still: by default their metadata is up to 5 minutes old.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// One poll of the client's log.
const LOG_POLL: Duration = Duration::from_millis(1);

/// The number of partitions of each consumed topic, for all workers of a process.
///
/// One thread asks the brokers, so that no worker waits for an answer. It creates no topic. The thread ends when this value is
/// dropped.
pub struct SourceTopics {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is a new topic, or the thread has to end.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What each worker consumes.
    consumed: BTreeMap<usize, BTreeSet<String>>,
    /// The partitions of the topics that were found. A count never shrinks: a broker that answers may be behind others.
    counts: BTreeMap<String, u32>,
    /// A topic without a count was added since the last round.
    has_new: bool,
    is_stopping: bool,
}

impl State {
    /// Replaces the topics of a worker. Returns whether one of them is new.
    fn consume(&mut self, worker: usize, topics: BTreeSet<String>) -> bool {
        let is_consumed = |topic: &String| self.consumed.values().any(|consumed| consumed.contains(topic));
        let has_new = topics.iter().any(|topic| !self.counts.contains_key(topic) && !is_consumed(topic));
        self.has_new |= has_new;
        self.consumed.insert(worker, topics);
        has_new
    }

    fn found(&mut self, topic: &str, partitions: u32) {
        let count = self.counts.entry(topic.to_owned()).or_default();
        *count = partitions.max(*count);
    }

    fn topics(&self) -> BTreeSet<String> {
        self.consumed.values().flatten().cloned().collect()
    }
}

impl SourceTopics {
    /// Starts the thread. Nothing is consumed yet.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration, or no thread can be started.
    pub fn start(options: &ClientOptions) -> KafkaResult<Self> {
        let mut config = options.plain();
        config.set("allow.auto.create.topics", "false");
        let client: BaseConsumer<PlainContext> = new_client(&config)?;
        let shared = Arc::new(Shared::default());
        let requests = Requests { client, shared: Arc::clone(&shared), reported: BTreeSet::new() };
        let thread = std::thread::Builder::new().name("source-topics".into()).spawn(move || requests.run());
        let thread = thread.map_err(|error| KafkaError::ClientCreation(format!("cannot start a thread: {error}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Replaces the topics that a worker consumes. A new one is asked for at once.
    pub(crate) fn consume(&self, worker: usize, topics: impl IntoIterator<Item = String>) {
        if lock(&self.shared.state).consume(worker, topics.into_iter().collect()) {
            self.shared.changed.notify_all();
        }
    }

    /// The last known number of partitions of a topic. 0: it is not known. Does not wait.
    pub(crate) fn partition_count(&self, topic: &str) -> u32 {
        lock(&self.shared.state).counts.get(topic).copied().unwrap_or(0)
    }
}

impl Drop for SourceTopics {
    fn drop(&mut self) {
        lock(&self.shared.state).is_stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // Err: the thread panicked, and its panic has been printed.
            let _ = thread.join();
        }
    }
}

/// The thread's part.
struct Requests {
    client: BaseConsumer<PlainContext>,
    shared: Arc<Shared>,
    /// Topics of which a warning says that their partitions are not known.
    reported: BTreeSet<String>,
}

impl Requests {
    fn run(mut self) {
        let mut trouble = ThrottledWarn::default();
        let mut interval = REFRESH_INTERVAL;
        while let Some(topics) = self.wait(interval) {
            interval = match self.refresh(&topics) {
                Ok(true) => REFRESH_INTERVAL,
                Ok(false) => UNKNOWN_TOPIC_INTERVAL,
                Err(error) => {
                    trouble.report(error.to_string(), || {
                        tracing::warn!(%error, "the partitions of the source topics cannot be fetched; retrying");
                    });
                    UNKNOWN_TOPIC_INTERVAL
                }
            };
            // librdkafka's log lines and errors wait in the client's queue.
            while self.client.poll(LOG_POLL).is_some() {}
        }
    }

    /// Waits until the next round of requests is due. `None`: the thread has to end.
    fn wait(&self, interval: Duration) -> Option<BTreeSet<String>> {
        let state = lock(&self.shared.state);
        let waits = |state: &mut State| !state.is_stopping && !state.has_new;
        let waited = self.shared.changed.wait_timeout_while(state, interval, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.has_new = false;
        (!state.is_stopping).then(|| state.topics())
    }

    /// Asks for the partitions of the topics. Returns whether all are known.
    fn refresh(&mut self, topics: &BTreeSet<String>) -> KafkaResult<bool> {
        self.reported.retain(|topic| topics.contains(topic));
        let mut all_known = true;
        for topic in topics {
            // A stop waits for one request at most.
            if lock(&self.shared.state).is_stopping {
                return Ok(true);
            }
            let metadata = self.client.fetch_metadata(Some(topic), TOPIC_REQUEST_TIMEOUT)?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let answer = match found.map(|found| (found, found.error())) {
                Some((found, None)) => Ok(u32::try_from(found.partitions().len()).unwrap_or(u32::MAX)),
                Some((_, Some(error))) => Err(Code::from(error)),
                None => Err(Code::UnknownTopicOrPartition),
            };
            match answer {
                Ok(partitions) => {
                    lock(&self.shared.state).found(topic, partitions);
                    self.reported.remove(topic);
                }
                Err(code) => {
                    all_known = false;
                    self.report(topic, code);
                }
            }
        }
        Ok(all_known)
    }

    /// Warns once of a topic whose partitions are not known.
    fn report(&mut self, topic: &str, code: Code) {
        match code {
            // A new topic has this for a moment.
            Code::LeaderNotAvailable => return,
            _ if self.reported.contains(topic) => return,
            Code::UnknownTopicOrPartition | Code::UnknownTopic => {
                tracing::warn!(%topic, "a source topic does not exist yet; waiting for it");
            }
            Code::TopicAuthorizationFailed => {
                tracing::warn!(%topic, "not allowed: this client needs READ on the source topic; retrying");
            }
            code => tracing::warn!(%topic, error = %code, "the partitions of a source topic are not known; retrying"),
        }
        self.reported.insert(topic.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::clients::mock::Mock;

    fn topics(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_a_topic_that_no_worker_has_consumed_is_new() {
        let mut state = State::default();
        assert!(state.consume(0, topics(&["a"])));
        assert!(!state.consume(1, topics(&["a"])));
        assert!(state.consume(1, topics(&["a", "b"])));
        state.found("a", 3);
        state.consume(0, topics(&[]));
        assert_eq!(state.topics(), topics(&["a", "b"]));
        state.consume(1, topics(&[]));
        assert!(!state.consume(1, topics(&["a"])), "its partitions are known");
    }

    #[test]
    fn a_count_never_shrinks() {
        let mut state = State::default();
        for (answer, count) in [(3, 3), (2, 3), (4, 4)] {
            state.found("a", answer);
            assert_eq!(state.counts["a"], count);
        }
    }

    #[test]
    fn a_topic_is_found_after_it_was_created() {
        let mock = Mock::with_topics(&[]);
        let source_topics = SourceTopics::start(&mock.options(&[])).unwrap();
        let until = |topic: &str, count: u32| {
            let deadline = Instant::now() + Duration::from_mins(1);
            while source_topics.partition_count(topic) != count {
                assert!(Instant::now() < deadline, "{topic}");
                std::thread::yield_now();
            }
        };
        mock.create_topic("first", 3);
        source_topics.consume(0, ["first".to_owned(), "second".to_owned()]);
        until("first", 3);
        assert_eq!(source_topics.partition_count("second"), 0, "asking for a topic does not create it");
        mock.create_topic("second", 5);
        until("second", 5);
        assert_eq!(source_topics.partition_count("first"), 3);
    }
}
