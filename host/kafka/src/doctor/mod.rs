//! Examines a cluster for an application: everything that `run` rests on, one finding each, with what to do.
//!
//! It only asks: nothing is created, joined or changed, but that a transactional id of its own is registered and no
//! record is written under it. What cannot be known for want of permission is told as a warning.

mod brokers;
mod client;
mod cluster;
mod connectivity;
mod group;
mod permissions;
mod topics;

use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::metadata::Metadata;
use serde::Serialize;
use switchboard_core::record::OutputLimits;
use switchboard_core::worker::StartFrom;

use super::client::PlainContext;
use super::finding::Finding;
use super::properties::ClientOptions;
use super::topology::Topology;

/// One request.
const REQUEST: Duration = Duration::from_secs(10);

/// What is examined.
pub struct Doctor<'a> {
    pub options: &'a ClientOptions,
    pub topology: &'a Topology,
    pub replication_factor: Option<u16>,
    pub start_from: StartFrom,
    pub outputs: OutputLimits,
}

/// Findings of one kind.
#[derive(Debug, Serialize)]
pub struct Section {
    pub title: &'static str,
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
    /// Section by section, each as soon as it is known. Without an answer from the brokers the first is the only one.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn examine(&self, mut tell: impl FnMut(Section)) -> KafkaResult<()> {
        let (findings, metadata) = connectivity::brokers(self.options)?;
        tell(Section { title: "Brokers", findings });
        let Some(metadata) = metadata else { return Ok(()) };
        let config = self.options.plain();
        let cluster = Cluster {
            asked: self,
            client: BaseConsumer::from_config_and_context(&config, PlainContext::new(&config))?,
            admin: AdminClient::from_config_and_context(&config, PlainContext::new(&config))?,
            metadata,
        };
        let configs = brokers::configs(&cluster);
        tell(Section { title: "Cluster", findings: cluster::check(&cluster, configs.as_ref()) });
        tell(Section { title: "Group", findings: group::check(&cluster, configs.as_ref()) });
        tell(Section { title: "Topics", findings: topics::check(&cluster) });
        tell(Section { title: "Permissions", findings: permissions::check(&cluster) });
        tell(Section { title: "Lag", findings: group::lag(&cluster) });
        Ok(())
    }
}

impl Cluster<'_> {
    fn client(&self) -> &rdkafka::client::Client<PlainContext> {
        self.client.client()
    }
}
