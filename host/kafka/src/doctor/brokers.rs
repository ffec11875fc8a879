//! The configuration of the brokers.

use std::collections::{BTreeMap, HashMap};

use rdkafka::admin::{AdminOptions, ResourceSpecifier};

use super::{Cluster, DOCTOR_REQUEST_TIMEOUT};
use crate::topics::block_on;

/// Broker id -> its configuration, for the brokers whose configuration this client may read.
pub(super) type BrokerConfigs = BTreeMap<i32, HashMap<String, String>>;

/// `None`: this client may not read the configuration of any broker.
pub(super) fn configs(cluster: &Cluster<'_>) -> Option<BrokerConfigs> {
    let mut configs = BrokerConfigs::new();
    for broker in cluster.metadata.brokers() {
        let resource = [ResourceSpecifier::Broker(broker.id())];
        let options = AdminOptions::new().request_timeout(Some(DOCTOR_REQUEST_TIMEOUT));
        match block_on(cluster.admin.describe_configs(&resource, &options)).map(|mut results| results.pop()) {
            // rdkafka returns no entries if the broker returned an error.
            Ok(Some(Ok(config))) if !config.entries.is_empty() => {
                let entries = config.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
                configs.insert(broker.id(), entries.collect());
            }
            result => tracing::debug!(broker = broker.id(), ?result, "the configuration of a broker cannot be read"),
        }
    }
    (!configs.is_empty()).then_some(configs)
}
