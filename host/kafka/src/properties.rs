use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use serde::{Deserialize, Serialize};

/// Properties that carry the rules of a transaction, or that a setting of its own stands for: what to use instead.
/// An entry ending in `*` stands for all that begin so.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set it with --bootstrap-servers"),
    ("metadata.broker.list", "set the brokers with --bootstrap-servers"),
    ("group.id", "it is the application's name (--app)"),
    ("group.instance.id", "it follows from --instance"),
    ("group.protocol", "set it with --group-protocol"),
    ("group.remote.assignor", "the group protocol is Switchboard's"),
    ("partition.assignment.strategy", "the group protocol is Switchboard's"),
    ("session.timeout.ms", "set it with --session-timeout-ms"),
    ("heartbeat.interval.ms", "it follows from --session-timeout-ms"),
    ("max.poll.interval.ms", "exactly-once rests on it"),
    ("transaction*", "exactly-once rests on it"),
    ("enable.idempotence", "exactly-once rests on it"),
    ("enable.gapless.guarantee", "exactly-once rests on it"),
    ("acks", "exactly-once rests on it"),
    ("request.required.acks", "exactly-once rests on it"),
    ("max.in.flight*", "exactly-once rests on it"),
    ("retries", "exactly-once rests on it"),
    ("message.send.max.retries", "exactly-once rests on it"),
    ("message.timeout.ms", "exactly-once rests on it"),
    ("delivery.timeout.ms", "exactly-once rests on it"),
    ("isolation.level", "exactly-once rests on it"),
    ("enable.auto.commit", "exactly-once rests on it"),
    ("auto.commit*", "exactly-once rests on it"),
    ("enable.auto.offset.store", "exactly-once rests on it"),
    ("auto.offset.reset", "an offset that is gone is never reset silently; see --start-from"),
    ("offset.store*", "exactly-once rests on it"),
    ("enable.partition.eof", "restores rest on it"),
    ("delivery.report.only.error", "Switchboard reads delivery reports"),
    ("partitioner", "outputs are placed as Java clients place them"),
    ("log_level", "exactly-once rests on librdkafka's log of lost connections"),
    ("log.connection.close", "exactly-once rests on librdkafka's log of lost connections"),
    ("log.queue", "exactly-once rests on librdkafka's log of lost connections"),
    ("plugin.library.paths", "plugins of librdkafka are not loaded"),
    ("test.mock*", "use `switchboard demo` for an embedded broker"),
];

/// Which of Kafka's two protocols makes us a member of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// JoinGroup and SyncGroup, cooperative-sticky. Its times are ours: a member that is missed for the session time-out
    /// is given up, a hand-over takes about a second, and with a stable instance id a restarted host goes on at once.
    Classic,
    /// KIP-848, brokers from 4.0. Its times are the broker's: 45 s and 5 s by default.
    Consumer,
}

/// A librdkafka property that cannot be passed through.
#[derive(Debug, thiserror::Error)]
pub enum PropertyError {
    #[error("the librdkafka property {0:?} cannot be set: {1}")]
    Reserved(String, &'static str),
    #[error("librdkafka does not take these properties: {0}")]
    Invalid(String),
}

/// What all Kafka clients of a process are made from.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    pub bootstrap_servers: String,
    /// The group.
    pub app: String,
    /// Makes up the transactional id of each worker.
    pub instance: String,
    /// Whether workers are static members of the group.
    pub static_members: bool,
    pub group_protocol: GroupProtocol,
    /// Of the classic protocol, in milliseconds: KIP-848 leaves it to the broker.
    pub session_timeout_ms: u32,
    /// librdkafka's own, passed through.
    pub properties: BTreeMap<String, String>,
}

impl ClientOptions {
    /// # Errors
    /// When a property is one of Switchboard's own, or none of librdkafka's.
    pub fn check(&self) -> Result<(), PropertyError> {
        for name in self.properties.keys() {
            let reserved = RESERVED.iter().find(|(reserved, _)| match reserved.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == reserved,
            });
            if let Some((_, instead)) = reserved {
                return Err(PropertyError::Reserved(name.clone(), instead));
            }
        }
        let native = self.producer(0).create_native_config();
        native.map(drop).map_err(|error| PropertyError::Invalid(error.to_string()))
    }

    /// For clients that only ask questions.
    pub fn plain(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("client.id", format!("{}-{}", self.app, self.instance))
            // A request is never held back to be merged with the next.
            .set("socket.nagle.disable", "true")
            // A client's second connection comes half of this time after its first, and every client needs two: the first
            // one learns who the brokers are. The wait is doubled up to its maximum.
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "1000")
            // A source topic that is created, or gets more partitions, is noticed after this time (default: 5 minutes).
            .set("topic.metadata.refresh.interval.ms", "10000")
            // FAIL and REQTMOUT are logged up to this level: `Broker::producer_is_suspect` reads them.
            .set_log_level(RDKafkaLogLevel::Info);
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        if config.get("debug").is_some() {
            config.set_log_level(RDKafkaLogLevel::Debug);
        }
        config.set("bootstrap.servers", &self.bootstrap_servers);
        config
    }

    /// The group consumer of a worker.
    pub(super) fn group_consumer(&self, worker: usize) -> ClientConfig {
        let mut config = self.consumer(&self.app);
        // An offset that is gone is an error, not a place to start: see `Assignment`.
        config.set("auto.offset.reset", "error");
        // So long is the answer to a JoinGroup awaited, also on a connection that is dead without a word; the default of
        // 5 minutes would be a shard's outage. A worker comes back to its consumer after at most a few calls of 10 s.
        config.set("max.poll.interval.ms", self.session_timeout_ms.max(60_000).to_string());
        match self.group_protocol {
            GroupProtocol::Classic => {
                config
                    .set("group.protocol", "classic")
                    .set("partition.assignment.strategy", "cooperative-sticky")
                    .set("session.timeout.ms", self.session_timeout_ms.to_string())
                    // A heartbeat's answer tells that others join or leave, and these wait for everybody: 0.2 s by default.
                    .set("heartbeat.interval.ms", (self.session_timeout_ms / 50).max(1).to_string());
            }
            GroupProtocol::Consumer => {
                // Partitions of each topic are spread over the members: the uniform assignor fills member after member,
                // so that one would have all sources and another all shards.
                config.set("group.protocol", "consumer").set("group.remote.assignor", "range");
            }
        }
        if self.static_members {
            config.set("group.instance.id", format!("{}-{worker}", self.instance));
        }
        config
    }

    /// The consumer that reads changelogs: assigned by hand, a member of no group.
    pub(super) fn restore_consumer(&self) -> ClientConfig {
        // librdkafka wants a group id for assignments, though nothing joins that group or commits to it.
        let mut config = self.consumer(&format!("{}-restore", self.app));
        config
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            // A shard that is added waits until the fetch under way comes back, which has no more to bring.
            .set("fetch.wait.max.ms", "10");
        config
    }

    /// The consumer that tails changelogs for checkpoints: it is in no hurry, and an offset that is gone ends a checkpoint.
    pub(super) fn tail_consumer(&self) -> ClientConfig {
        let mut config = self.restore_consumer();
        config.set("fetch.wait.max.ms", "500");
        config
    }

    /// The consumers of the control topic, assigned by hand: a route that is changed is to be known at once.
    pub(super) fn control_consumer(&self) -> ClientConfig {
        let mut config = self.restore_consumer();
        // An idle fetch is answered as soon as there is anything, so a long one costs no latency.
        config.set("fetch.wait.max.ms", "500");
        config
    }

    /// The producer of changes of the control topic; all hosts and commands of an application have this id.
    pub(super) fn control_producer(&self) -> ClientConfig {
        let mut config = self.producer(0);
        config.set("transactional.id", format!("{}-switchboard-control", self.app));
        config
    }

    /// The producer of a host's own record in the control topic, without transactions.
    pub(super) fn status_producer(&self) -> ClientConfig {
        let mut config = self.producer(0);
        config.remove("transactional.id");
        config.remove("transaction.timeout.ms");
        // It is sent at once; what is old is of no use.
        config.set("linger.ms", "0").set("message.timeout.ms", "10000");
        config
    }

    fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.plain();
        let mut default = |name: &str, value: &str| {
            if !self.properties.contains_key(name) {
                config.set(name, value);
            }
        };
        // What librdkafka reads ahead bounds how long a record waits behind a backlog of other partitions, and memory:
        // values of so many bytes, and as many again (`fetch.max.bytes` follows from it) in the one fetch under way with
        // each broker, however many partitions there are.
        default("queued.max.messages.kbytes", "4096");
        // Keys and headers do not count there, so records do. By default it would be 100,000.
        default("queued.min.messages", "10000");
        // The default waits up to 1 s before it fetches again once the read-ahead is full.
        default("fetch.queue.backoff.ms", "5");
        config
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false");
        config
    }

    /// The transactional producer of a worker.
    pub(super) fn producer(&self, worker: usize) -> ClientConfig {
        let mut config = self.plain();
        let mut default = |name: &str, value: &str| {
            if !self.properties.contains_key(name) {
                config.set(name, value);
            }
        };
        // A commit flushes at once; until then batches may fill.
        default("linger.ms", "50");
        // Right after a commit the next one is told CONCURRENT_TRANSACTIONS until the markers are written: the default
        // of 100 ms would be the latency of every second transaction.
        default("retry.backoff.ms", "2");
        // How long a topic may be unknown before a record to it is refused; a transaction is open meanwhile.
        default("topic.metadata.propagation.max.ms", "3000");
        default("message.max.bytes", MAX_RECORD_BYTES);
        // A transaction may write more: it goes on as the broker takes it.
        default("queue.buffering.max.kbytes", "32768");
        config
            .set("transactional.id", format!("{}-switchboard-{}-{worker}", self.app, self.instance))
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS.to_string())
            .set("enable.idempotence", "true")
            .set("delivery.report.only.error", "true")
            .set("partitioner", "murmur2_random");
        config
    }
}

/// When brokers abort a transaction that its producer has left open.
pub(super) const TRANSACTION_TIMEOUT_MS: i64 = 10_000;

/// What internal topics and producers take: a legal record (1 MiB by default) and our headers always fit.
pub(super) const MAX_RECORD_BYTES: &str = "4194304";

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str, value: &str) -> ClientOptions {
        ClientOptions {
            bootstrap_servers: "localhost:9092".into(),
            app: "app".into(),
            instance: "i".into(),
            static_members: false,
            group_protocol: GroupProtocol::Consumer,
            session_timeout_ms: 10_000,
            properties: [(name.to_owned(), value.to_owned())].into(),
        }
    }

    #[test]
    fn properties_that_carry_the_rules_are_refused_with_what_to_do() {
        for name in ["isolation.level", "transactional.id", "transaction.timeout.ms", "acks", "max.in.flight"] {
            let error = options(name, "1").check().unwrap_err();
            assert!(matches!(error, PropertyError::Reserved(..)), "{error}");
        }
        let error = options("group.id", "x").check().unwrap_err().to_string();
        assert!(error.contains("--app"), "{error}");
    }

    #[test]
    fn properties_of_librdkafka_pass_and_unknown_ones_are_refused() {
        options("compression.codec", "zstd").check().unwrap();
        options("sasl.mechanisms", "SCRAM-SHA-512").check().unwrap();
        options("linger.ms", "5").check().unwrap();
        assert_eq!(options("linger.ms", "5").producer(0).get("linger.ms"), Some("5"));
        assert!(matches!(options("no.such.thing", "1").check(), Err(PropertyError::Invalid(_))));
    }
}
