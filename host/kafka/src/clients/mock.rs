//! librdkafka's mock cluster for the tests of clients. It shows a client's side only: no evidence about brokers rests on it.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::options::{ClientOptions, GroupProtocol};

/// A mock cluster and a producer.
pub(crate) struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Mock {
    /// A cluster of one broker with these topics of one partition each.
    pub(crate) fn with_topics(topics: &[&str]) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        // All records that one call of `produce` writes are one batch: a fetch of the mock brings one batch of a partition.
        let producer =
            ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).set("linger.ms", "50").create();
        let producer = producer.unwrap();
        let mock = Self { cluster, producer };
        for topic in topics {
            mock.create_topic(topic, 1);
        }
        mock
    }

    pub(crate) fn create_topic(&self, topic: &str, partitions: i32) {
        self.cluster.create_topic(topic, partitions, 1).unwrap();
    }

    /// Options of clients of this cluster, with these properties. KIP-848: here a member gets its partitions sooner.
    pub(crate) fn options(&self, properties: &[(&str, &str)]) -> ClientOptions {
        let property = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        ClientOptions {
            bootstrap_servers: self.cluster.bootstrap_servers(),
            app: "app".into(),
            instance: "i".into(),
            static_members: false,
            group_protocol: GroupProtocol::Consumer,
            session_timeout_ms: 10_000,
            properties: properties.iter().map(property).collect(),
        }
    }

    /// Answers the next requests to commit offsets in a transaction with this error.
    pub(crate) fn refuse_offsets(&self, error: RDKafkaRespErr) {
        self.cluster.request_errors(RDKafkaApiKey::TxnOffsetCommit, &[error]);
    }

    /// Writes this many records, and waits until the broker has them.
    pub(crate) fn produce(&self, topic: &str, records: usize) {
        for _ in 0..records {
            self.producer.send(BaseRecord::<[u8], [u8]>::to(topic).payload(b"record").partition(0)).unwrap();
        }
        self.producer.flush(Duration::from_mins(1)).unwrap();
    }
}
