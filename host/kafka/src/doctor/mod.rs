//! What on a cluster does not suit an application, and what should the operator do?
//!
//! [`Doctor`] examines everything that `run` depends on, and reports one finding each.
//!
//! It creates, joins and changes nothing. It only registers a transactional id of its own, and writes no record under it. What it
//! cannot see for lack of permission is a warning.

mod brokers;
mod cluster;
mod connection_log;
mod connectivity;
mod group;
mod permissions;
mod topics;

use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::metadata::Metadata;
use serde::Serialize;
use switchboard_core::record::OutputLimits;
use switchboard_core::worker::StartFrom;

use crate::clients::context::PlainContext;
use crate::clients::{ClientOptions, new_client};
use crate::finding::Finding;
use crate::topics::{TopicSettings, Topology};

/// One request of the doctor.
const DOCTOR_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What to examine.
pub struct Doctor<'a> {
    /// The clients' settings.
    pub options: &'a ClientOptions,
    /// The application's topics.
    pub topology: &'a Topology,
    /// The configured number of shards, and the wanted number of replicas of internal topics.
    pub topics: TopicSettings,
    /// How often the offsets of idle source partitions are committed again.
    pub offset_renewal: Duration,
    /// Where source partitions without a committed offset start.
    pub start_from: StartFrom,
    /// The limits of outputs.
    pub outputs: OutputLimits,
}

/// The findings on one subject.
#[derive(Debug, Serialize)]
pub struct Section {
    /// The subject.
    pub title: &'static str,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// A cluster that answers.
struct Cluster<'a> {
    asked: &'a Doctor<'a>,
    client: BaseConsumer<PlainContext>,
    admin: AdminClient<PlainContext>,
    metadata: Metadata,
}

impl Doctor<'_> {
    /// Reports section by section, each as soon as it is complete. If no broker answers, the first section is the only one.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn examine(&self, mut report: impl FnMut(Section)) -> KafkaResult<()> {
        let (findings, metadata) = connectivity::brokers(self.options)?;
        report(Section { title: "Brokers", findings });
        let Some(metadata) = metadata else { return Ok(()) };
        let config = self.options.plain();
        let cluster = Cluster { asked: self, client: new_client(&config)?, admin: new_client(&config)?, metadata };
        let configs = brokers::configs(&cluster);
        report(Section { title: "Cluster", findings: cluster::check(&cluster, configs.as_ref()) });
        report(Section { title: "Group", findings: group::check(&cluster, configs.as_ref()) });
        report(Section { title: "Topics", findings: topics::check(&cluster) });
        report(Section { title: "Permissions", findings: permissions::check(&cluster) });
        report(Section { title: "Lag", findings: group::lag(&cluster) });
        Ok(())
    }
}

impl Cluster<'_> {
    fn client(&self) -> &rdkafka::client::Client<PlainContext> {
        self.client.client()
    }
}
