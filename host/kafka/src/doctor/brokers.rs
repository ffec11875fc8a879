//! What the brokers are set to.

use std::collections::{BTreeMap, HashMap};

use rdkafka::admin::{AdminOptions, ResourceSpecifier};

use super::super::topics::wait_for;
use super::{Cluster, REQUEST};

/// A broker's configuration, by its id; not of those that do not let us read it.
pub(super) type Configs = BTreeMap<i32, HashMap<String, String>>;

/// `None`: this client may not read any.
pub(super) fn configs(cluster: &Cluster<'_>) -> Option<Configs> {
    let mut configs = Configs::new();
    for broker in cluster.metadata.brokers() {
        let resource = [ResourceSpecifier::Broker(broker.id())];
        let options = AdminOptions::new().request_timeout(Some(REQUEST));
        match wait_for(cluster.admin.describe_configs(&resource, &options)).map(|mut results| results.pop()) {
            // rdkafka gives no entries where the broker gives an error.
            Ok(Some(Ok(config))) if !config.entries.is_empty() => {
                let entries = config.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?)));
                configs.insert(broker.id(), entries.collect());
            }
            result => tracing::debug!("the configuration of broker {}: {result:?}", broker.id()),
        }
    }
    (!configs.is_empty()).then_some(configs)
}
