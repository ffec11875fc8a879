//! The cluster as a whole: its release, transactions, and how long it keeps offsets.

use std::collections::HashMap;
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::producer::{BaseProducer, Producer as _};

use super::brokers::BrokerConfigs;
use super::connection_log::{ConnectionLog, LOG_POLL};
use super::{Cluster, DOCTOR_REQUEST_TIMEOUT};
use crate::clients::options::TRANSACTION_TIMEOUT_MS;
use crate::clients::producer::OFFSET_METADATA_BYTES;
use crate::finding::Finding;
use crate::topics::lag::humanized;

pub(super) fn check(cluster: &Cluster<'_>, configs: Option<&BrokerConfigs>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let brokers = cluster.metadata.brokers().len();
    match configs {
        Some(configs) => {
            for config in configs.values() {
                for finding in check_broker(config, brokers, cluster.asked.offset_renewal) {
                    // Brokers mostly have the same configuration.
                    if !findings.contains(&finding) {
                        findings.push(finding);
                    }
                }
            }
        }
        None => findings.push(Finding::warning(
            "the brokers",
            "their configuration cannot be read, so release, time-outs and replication of Kafka's own topics are not checked",
            "Allow this client DESCRIBE_CONFIGS on the cluster, at least for `doctor`",
        )),
    }
    findings.push(transaction(cluster));
    findings
}

/// What the configuration of one broker means for an application.
fn check_broker(config: &HashMap<String, String>, brokers: usize, offset_renewal: Duration) -> Vec<Finding> {
    let number = |name: &str| config.get(name).and_then(|value| value.parse::<i64>().ok());
    let mut findings = vec![release(config)];
    if let Some(most) = number("transaction.max.timeout.ms")
        && most < TRANSACTION_TIMEOUT_MS
    {
        findings.push(Finding::problem(
            "transactions",
            format!("the brokers have transaction.max.timeout.ms={most}: Switchboard's producers are refused"),
            format!("Set transaction.max.timeout.ms of the brokers to {TRANSACTION_TIMEOUT_MS} or more"),
        ));
    }
    if let Some(most) = number("offset.metadata.max.bytes")
        && most < OFFSET_METADATA_BYTES
    {
        findings.push(Finding::problem(
            "committed offsets",
            format!("the brokers have offset.metadata.max.bytes={most}: they refuse offsets with longer metadata"),
            format!("Set offset.metadata.max.bytes of the brokers to {OFFSET_METADATA_BYTES}, its default, or more"),
        ));
    }
    for (subject, replication, in_sync) in [
        ("transactions", "transaction.state.log.replication.factor", Some("transaction.state.log.min.isr")),
        ("committed offsets", "offsets.topic.replication.factor", None),
    ] {
        if let Some(factor) = number(replication)
            && brokers > 1
            && factor == 1
        {
            findings.push(Finding::warning(
                subject,
                format!("the brokers have {replication}=1: the loss of a broker loses the partitions on it"),
                format!("Set {replication} of the brokers to 3, and raise that of the topic with kafka-reassign-partitions.sh"),
            ));
        }
        if let Some(in_sync) = in_sync
            && let Some(fewest) = number(in_sync).and_then(|fewest| usize::try_from(fewest).ok())
            && brokers < fewest
        {
            findings.push(Finding::problem(
                subject,
                format!(
                    "the brokers have {in_sync}={fewest}, but there are {brokers} brokers: no transaction can begin"
                ),
                format!("Start {fewest} brokers, or set {in_sync} to {brokers}"),
            ));
        }
    }
    findings.extend(number("offsets.retention.minutes").map(|minutes| offsets_retention(minutes, offset_renewal)));
    findings
}

/// How many renewals of an idle source partition's offset must fit into the time that brokers keep it.
const RENEWALS_IN_RETENTION: u32 = 10;
/// A stop of a week must not lose the offsets.
const LONG_STOP_MINUTES: i64 = 7 * 1440;

fn offsets_retention(minutes: i64, offset_renewal: Duration) -> Finding {
    let subject = "committed offsets";
    let needed = offset_renewal.saturating_mul(RENEWALS_IN_RETENTION);
    let retention = Duration::from_secs(u64::try_from(minutes).unwrap_or(0).saturating_mul(60));
    let setting = format!("offsets.retention.minutes={minutes}");
    if retention < needed {
        let longest = (retention / RENEWALS_IN_RETENTION).as_millis().max(1);
        return Finding::warning(
            subject,
            format!(
                "the brokers have {setting}, which is shorter than {RENEWALS_IN_RETENTION} times --offset-renewal-ms ({}): \
                 the offset of a source partition without new records could expire while hosts run, and the partition would \
                 be read again from --start-from",
                offset_renewal.as_millis()
            ),
            format!(
                "Set offsets.retention.minutes of the brokers to {} or more, better {LONG_STOP_MINUTES}; or set \
                 --offset-renewal-ms {longest} or less",
                needed.as_secs().div_ceil(60)
            ),
        );
    }
    let text = format!("kept for {} after their last commit ({setting})", humanized(retention));
    if minutes >= LONG_STOP_MINUTES {
        return Finding::ok(subject, text);
    }
    Finding::warning(
        subject,
        format!("{text}: after a longer stop the offsets to continue from are lost"),
        format!("Set offsets.retention.minutes of the brokers to {LONG_STOP_MINUTES} or more"),
    )
}

/// No request returns the release. Before 4.0 one of the settings contains it. Later releases have a setting that earlier ones lack.
fn release(config: &HashMap<String, String>) -> Finding {
    let subject = "the brokers' release";
    match config.get("inter.broker.protocol.version") {
        Some(version) => {
            let numbers = version.split(['-', '.']).map_while(|part| part.parse::<u32>().ok()).collect::<Vec<_>>();
            if numbers >= vec![2, 5] {
                return Finding::ok(subject, format!("Kafka {version} or later"));
            }
            let text = format!(
                "the brokers speak {version} with each other; offsets in transactions are not fenced before 2.5"
            );
            Finding::problem(subject, text, "Use Kafka 2.5 or later, and its inter.broker.protocol.version")
        }
        None if config.contains_key("group.coordinator.rebalance.protocols") => {
            Finding::ok(subject, "Kafka 4.0 or later")
        }
        None => Finding::warning(subject, "unknown", "Switchboard needs Kafka 2.5 or later, and is tested on 4.2"),
    }
}

/// Begins and aborts a real transaction, under an id that no host has: the ids of hosts end in a number.
fn transaction(cluster: &Cluster<'_>) -> Finding {
    let app = &cluster.asked.options.app;
    let (mut config, log) = (cluster.asked.options.producer(0), ConnectionLog::default());
    config.set("transactional.id", format!("{app}-switchboard-doctor"));
    let result = BaseProducer::from_config_and_context(&config, log.clone()).and_then(
        |producer: BaseProducer<ConnectionLog>| {
            let result = producer.init_transactions(DOCTOR_REQUEST_TIMEOUT).and_then(|()| {
                producer.begin_transaction()?;
                producer.abort_transaction(DOCTOR_REQUEST_TIMEOUT)
            });
            // The reason of a failure arrives as a log line, by polling.
            producer.poll(LOG_POLL);
            result
        },
    );
    match result {
        Ok(()) => Finding::ok("transactions", format!("can begin under the id {app}-switchboard-doctor")),
        Err(error) => Finding::problem(
            "transactions",
            format!("cannot begin under the id {app}-switchboard-doctor: {}", log.explain(&error)),
            format!(
                "Allow this client WRITE on transactional ids with the prefix {app}-switchboard-. After a time-out, see the brokers' \
                 log on __transaction_state: it needs as many brokers as its replication factor, and a leader"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    fn levels(config: &[(&str, &str)], brokers: usize) -> Vec<Level> {
        let healthy = [
            ("group.coordinator.rebalance.protocols", "classic,consumer"),
            ("transaction.max.timeout.ms", "900000"),
            ("transaction.state.log.replication.factor", "3"),
            ("transaction.state.log.min.isr", "2"),
            ("offsets.topic.replication.factor", "3"),
            ("offsets.retention.minutes", "10080"),
            ("offset.metadata.max.bytes", "4096"),
        ];
        let config = healthy.iter().chain(config).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let hour = Duration::from_hours(1);
        let findings = check_broker(&config.collect(), brokers, hour);
        let mut levels: Vec<_> = findings.iter().map(|finding| finding.level).collect();
        levels.retain(|level| *level != Level::Ok);
        levels
    }

    #[test]
    fn what_a_cluster_lacks_is_reported() {
        assert_eq!(levels(&[], 3), []);
        assert_eq!(levels(&[("transaction.max.timeout.ms", "5000")], 3), [Level::Problem]);
        assert_eq!(levels(&[], 1), [Level::Problem], "min.isr is 2");
        assert_eq!(levels(&[("transaction.state.log.replication.factor", "1")], 3), [Level::Warning]);
        assert_eq!(levels(&[("offsets.retention.minutes", "60")], 3), [Level::Warning]);
        assert_eq!(levels(&[("offset.metadata.max.bytes", "4095")], 3), [Level::Problem]);
    }

    #[test]
    fn offsets_must_be_kept_for_ten_renewals_and_for_a_long_stop() {
        let said = |minutes, renewal_secs| {
            let finding = offsets_retention(minutes, Duration::from_secs(renewal_secs));
            (finding.level, finding.to_string())
        };
        let (level, text) = said(10_080, 3600);
        assert!(level == Level::Ok && text.contains("kept for 7 d 0 h after their last commit"), "{text}");
        let (level, text) = said(600, 3600);
        assert!(level == Level::Warning && text.contains("after a longer stop") && !text.contains("renewal"), "{text}");
        let (level, text) = said(599, 3600);
        assert!(level == Level::Warning && text.contains("10 times --offset-renewal-ms (3600000)"), "{text}");
        assert!(text.contains("minutes of the brokers to 600 or more") && text.contains("--offset-renewal-ms 3594000"));
        assert_eq!(said(10_080, 100_000).0, Level::Warning, "a long renewal needs a long retention");
        assert_eq!(said(1, 6).0, Level::Warning);
    }

    #[test]
    fn the_release_follows_from_the_settings() {
        let level = |name: &str, value: &str| release(&HashMap::from([(name.to_owned(), value.to_owned())])).level;
        assert_eq!(level("inter.broker.protocol.version", "2.4-IV1"), Level::Problem);
        assert_eq!(level("inter.broker.protocol.version", "2.5-IV0"), Level::Ok);
        assert_eq!(level("inter.broker.protocol.version", "3.9-IV0"), Level::Ok);
        assert_eq!(level("group.coordinator.rebalance.protocols", "classic,consumer"), Level::Ok);
        assert_eq!(level("something", "else"), Level::Warning);
    }
}
