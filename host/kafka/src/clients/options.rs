//! The librdkafka properties of all clients of a process, and which of them a user may set.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use serde::{Deserialize, Serialize};

/// Properties that a user may not set, and why or what to use: exactly-once depends on them, or they have a setting of their own.
/// An entry that ends in `*` stands for all properties with this prefix.
const RESERVED_PROPERTIES: &[(&str, &str)] = &[
    ("bootstrap.servers", "set it with --bootstrap-servers"),
    ("metadata.broker.list", "set the brokers with --bootstrap-servers"),
    ("group.id", "it is the application's name (--app)"),
    ("group.instance.id", "it follows from --instance"),
    ("group.protocol", "set it with --group-protocol"),
    ("group.remote.assignor", "it is fixed by the group protocol"),
    ("partition.assignment.strategy", "it is fixed by the group protocol"),
    ("session.timeout.ms", "set it with --session-timeout-ms"),
    ("heartbeat.interval.ms", "it follows from --session-timeout-ms"),
    ("max.poll.interval.ms", "exactly-once depends on it"),
    ("transaction*", "exactly-once depends on it"),
    ("enable.idempotence", "exactly-once depends on it"),
    ("enable.gapless.guarantee", "exactly-once depends on it"),
    ("acks", "exactly-once depends on it"),
    ("request.required.acks", "exactly-once depends on it"),
    ("max.in.flight*", "exactly-once depends on it"),
    ("retries", "exactly-once depends on it"),
    ("message.send.max.retries", "exactly-once depends on it"),
    ("message.timeout.ms", "exactly-once depends on it"),
    ("delivery.timeout.ms", "exactly-once depends on it"),
    ("isolation.level", "exactly-once depends on it"),
    ("enable.auto.commit", "exactly-once depends on it"),
    ("auto.commit*", "exactly-once depends on it"),
    ("enable.auto.offset.store", "exactly-once depends on it"),
    ("auto.offset.reset", "a lost offset is never reset silently; see --start-from"),
    ("offset.store*", "exactly-once depends on it"),
    ("enable.partition.eof", "restores depend on it"),
    ("delivery.report.only.error", "Switchboard reads delivery reports"),
    ("partitioner", "outputs are partitioned as by Java clients"),
    ("log_level", "exactly-once depends on librdkafka's log of lost connections"),
    ("log.connection.close", "exactly-once depends on librdkafka's log of lost connections"),
    ("log.queue", "exactly-once depends on librdkafka's log of lost connections"),
    ("plugin.library.paths", "librdkafka's plugins are not loaded"),
    ("test.mock*", "use `switchboard demo` for an embedded broker"),
];

/// The protocol of group membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GroupProtocol {
    /// JoinGroup and SyncGroup with the cooperative-sticky assignor. Switchboard sets its times: a member is given up after the
    /// session time-out, a hand-over takes about a second, and a host with a stable instance id continues at once after a restart.
    Classic,
    /// KIP-848, for brokers from 4.0. The broker sets its times: by default a session time-out of 45 s and heartbeats of 5 s.
    Consumer,
}

/// A librdkafka property that is refused at start.
#[derive(Debug, thiserror::Error)]
pub enum PropertyError {
    /// A property that a user may not set, and why.
    #[error("the librdkafka property {0:?} cannot be set: {1}")]
    Reserved(String, &'static str),
    /// librdkafka does not know a property, or not its value.
    #[error("librdkafka does not take these properties: {0}")]
    Invalid(#[source] KafkaError),
}

/// The settings of all Kafka clients of a process.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The brokers: `HOST:PORT,HOST:PORT`.
    pub bootstrap_servers: String,
    /// The application. It is also the name of the consumer group.
    pub app: String,
    /// The id of the process instance: part of the transactional id of each worker.
    pub instance: String,
    /// Whether workers are static members of the group.
    pub static_members: bool,
    /// The protocol of group membership.
    pub group_protocol: GroupProtocol,
    /// The session time-out of the classic protocol. With KIP-848 the broker sets it.
    pub session_timeout_ms: u32,
    /// librdkafka's properties that the user set.
    pub properties: BTreeMap<String, String>,
}

impl ClientOptions {
    /// Checks the properties that the user set.
    ///
    /// # Errors
    /// When a property is reserved for Switchboard, or unknown to librdkafka.
    pub fn check(&self) -> Result<(), PropertyError> {
        for name in self.properties.keys() {
            let reserved = RESERVED_PROPERTIES.iter().find(|(reserved, _)| match reserved.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == reserved,
            });
            if let Some((_, reason)) = reserved {
                return Err(PropertyError::Reserved(name.clone(), reason));
            }
        }
        let native = self.producer(0).create_native_config();
        native.map(drop).map_err(PropertyError::Invalid)
    }

    /// For clients that only make requests.
    pub fn plain(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("client.id", format!("{}-{}", self.app, self.instance))
            // A request is never held back to be merged with the next one.
            .set("socket.nagle.disable", "true")
            // Every client needs two connections: with the first it learns who the brokers are. The second one is opened half of
            // this time after the first. The time doubles up to its maximum.
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "1000")
            // The default is 5 minutes. `SourceTopics` finds new source topics and partitions by requests of its own.
            .set("topic.metadata.refresh.interval.ms", "10000")
            // librdkafka logs FAIL and REQTMOUT at this level, and `Producer::producer_is_suspect` depends on them.
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

    /// The consumer of a worker's source partitions. They are assigned by hand: it joins no group and commits nothing.
    ///
    /// librdkafka requires a group id for an assignment and asks for the group's coordinator. The application's own group needs no
    /// further permission.
    pub(crate) fn source_consumer(&self) -> ClientConfig {
        let mut config = self.consumer(&self.app);
        // A lost offset is an error; the worker decides where to start: see the core's `assignment`.
        config.set("auto.offset.reset", "error");
        config
    }

    /// The group consumer of a worker.
    pub(crate) fn group_consumer(&self, worker: usize) -> ClientConfig {
        let mut config = self.source_consumer();
        // librdkafka waits this long for the answer to a JoinGroup, also on a connection that died silently. The default of
        // 5 minutes would be the outage of a shard. A worker polls its consumer again after a few calls of 10 s at most.
        config.set("max.poll.interval.ms", self.session_timeout_ms.max(60_000).to_string());
        match self.group_protocol {
            GroupProtocol::Classic => {
                config
                    .set("group.protocol", "classic")
                    .set("partition.assignment.strategy", "cooperative-sticky")
                    .set("session.timeout.ms", self.session_timeout_ms.to_string())
                    .set("heartbeat.interval.ms", self.heartbeat_interval_ms().to_string());
            }
            GroupProtocol::Consumer => {
                // This assignor spreads the partitions of a topic evenly over the members.
                config.set("group.protocol", "consumer").set("group.remote.assignor", "range");
            }
        }
        if self.static_members {
            config.set("group.instance.id", format!("{}-{worker}", self.instance));
        }
        config
    }

    /// How often a member of a classic group sends a heartbeat: 0.2 s by default, and at least once a second.
    ///
    /// The answer to a heartbeat announces that others join or leave, and they wait for all members. So a long session time-out
    /// must not delay rebalances.
    fn heartbeat_interval_ms(&self) -> u32 {
        (self.session_timeout_ms / 50).clamp(1, 1000)
    }

    /// The consumer that restores shards from the changelog. Its partitions are assigned by hand; it joins no group.
    pub(crate) fn restore_consumer(&self) -> ClientConfig {
        // librdkafka requires a group id for an assignment. Nothing joins this group or commits to it, so no broker knows it.
        let mut config = self.consumer(&format!("{}-switchboard-restore", self.app));
        config
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            // A shard that is added waits for the fetch under way, which has nothing more to bring.
            .set("fetch.wait.max.ms", "10");
        config
    }

    /// The consumer that follows the changelog for checkpoints. It is in no hurry, and a deleted offset ends a checkpoint.
    pub(crate) fn tail_consumer(&self) -> ClientConfig {
        let mut config = self.restore_consumer();
        config.set("fetch.wait.max.ms", "500");
        config
    }

    /// The consumers of the control topic. Their partition is assigned by hand. A changed route has to be known at once.
    pub(crate) fn control_consumer(&self) -> ClientConfig {
        let mut config = self.restore_consumer();
        // A fetch is answered as soon as there is a record, so a long wait costs no latency.
        config.set("fetch.wait.max.ms", "500");
        config
    }

    /// The producer of changes in the control topic. All hosts and commands of an application share this transactional id.
    pub(crate) fn control_producer(&self) -> ClientConfig {
        let mut config = self.producer(0);
        config.set("transactional.id", format!("{}-switchboard-control", self.app));
        config
    }

    /// The producer of a host's status in the control topic, without transactions.
    pub(crate) fn status_producer(&self) -> ClientConfig {
        let mut config = self.producer(0);
        config.remove("transactional.id");
        config.remove("transaction.timeout.ms");
        // A status is sent at once. An old one is useless.
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
        // What librdkafka reads ahead bounds memory, and how long a record waits behind a backlog of other partitions. The
        // limit counts bytes of values. The one fetch under way with each broker may bring as much again (`fetch.max.bytes`
        // follows from it), however many partitions there are.
        default("queued.max.messages.kbytes", "4096");
        // Keys and headers do not count above, so records are limited too (default: 100,000).
        default("queued.min.messages", "10000");
        // With the default, librdkafka waits up to 1 s before it fetches again after the read-ahead queue was full.
        default("fetch.queue.backoff.ms", "5");
        config
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false");
        config
    }

    /// The transactional producer of a worker.
    pub(crate) fn producer(&self, worker: usize) -> ClientConfig {
        let mut config = self.plain();
        let mut default = |name: &str, value: &str| {
            if !self.properties.contains_key(name) {
                config.set(name, value);
            }
        };
        // A commit flushes at once. Until then batches may fill.
        default("linger.ms", "50");
        // Right after a commit the next transaction gets CONCURRENT_TRANSACTIONS until the markers are written. The default of
        // 100 ms would be the latency of every second transaction.
        default("retry.backoff.ms", "2");
        // How long a topic may be unknown before a record to it is refused. The transaction stays open meanwhile.
        default("topic.metadata.propagation.max.ms", "3000");
        default("message.max.bytes", MAX_RECORD_BYTES);
        // A transaction may write more than this. It continues as the broker takes records.
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

/// After this time brokers abort a transaction that its producer left open.
pub(crate) const TRANSACTION_TIMEOUT_MS: i64 = 10_000;

/// The largest record of internal topics and producers. A legal record (1 MiB by default) and Switchboard's headers always fit.
pub(crate) const MAX_RECORD_BYTES: &str = "4194304";

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
    fn reserved_properties_are_refused_with_what_to_do() {
        for name in ["isolation.level", "transactional.id", "transaction.timeout.ms", "acks", "max.in.flight"] {
            let error = options(name, "1").check().unwrap_err();
            assert!(matches!(error, PropertyError::Reserved(..)), "{error}");
        }
        let error = options("group.id", "x").check().unwrap_err().to_string();
        assert!(error.contains("--app"), "{error}");
    }

    #[test]
    fn librdkafka_properties_pass_and_unknown_ones_are_refused() {
        options("compression.codec", "zstd").check().unwrap();
        options("sasl.mechanisms", "SCRAM-SHA-512").check().unwrap();
        options("linger.ms", "5").check().unwrap();
        assert_eq!(options("linger.ms", "5").producer(0).get("linger.ms"), Some("5"));
        assert!(matches!(options("no.such.thing", "1").check(), Err(PropertyError::Invalid(_))));
    }

    #[test]
    fn a_long_session_timeout_does_not_delay_heartbeats() {
        for (session, heartbeat) in [(10, "1"), (10_000, "200"), (50_000, "1000"), (1_200_000, "1000")] {
            let options = ClientOptions {
                group_protocol: GroupProtocol::Classic,
                session_timeout_ms: session,
                ..options("linger.ms", "5")
            };
            assert_eq!(options.group_consumer(0).get("heartbeat.interval.ms"), Some(heartbeat), "{session}");
        }
    }
}
