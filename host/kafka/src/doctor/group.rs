//! The consumer group: whether it takes members of this host, what the death of a member costs, who is in it, and its lag.

use std::collections::HashMap;

use rdkafka::types::RDKafkaErrorCode as Code;

use super::brokers::BrokerConfigs;
use super::topics::count_partitions;
use super::{Cluster, DOCTOR_REQUEST_TIMEOUT, Doctor};
use crate::Shutdown;
use crate::clients::{ClientOptions, GroupProtocol};
use crate::finding::Finding;
use crate::sys::describe::describe_group;
use crate::topics::CommittedOffsets;
use crate::topics::committed_offsets::find_lost_offsets;
use crate::topics::group_members::foreign_members;
use crate::topics::lag::{LagReader, TopicLag, grouped, humanized};

pub(super) fn check(cluster: &Cluster<'_>, configs: Option<&BrokerConfigs>) -> Vec<Finding> {
    let options = cluster.asked.options;
    let mut findings = Vec::new();
    for config in configs.into_iter().flat_map(BrokerConfigs::values) {
        let finding = match options.group_protocol {
            GroupProtocol::Classic => classic(options, config),
            GroupProtocol::Consumer => consumer(config),
        };
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings.extend(members(cluster));
    findings.extend(lost_offsets(cluster));
    findings
}

/// How long a dead member blocks its partitions.
const GIVEN_UP_AFTER: &str = "a killed host is given up after";

fn classic(options: &ClientOptions, config: &HashMap<String, String>) -> Finding {
    let bound = |name: &str| config.get(name).and_then(|value| value.parse::<u32>().ok());
    let (subject, ours) = ("the session time-out", options.session_timeout_ms);
    let (least, most) = (bound("group.min.session.timeout.ms"), bound("group.max.session.timeout.ms"));
    for (ok, name, bound) in [
        (least.is_none_or(|least| ours >= least), "group.min.session.timeout.ms", least),
        (most.is_none_or(|most| ours <= most), "group.max.session.timeout.ms", most),
    ] {
        if !ok {
            let bound = bound.unwrap_or_default();
            return Finding::problem(
                subject,
                format!("--session-timeout-ms is {ours}, but the brokers have {name}={bound}: they refuse members"),
                format!("Set --session-timeout-ms {bound}, or {name} of the brokers to {ours}"),
            );
        }
    }
    let restart = if options.static_members {
        "a host that is started again under its --instance continues at once"
    } else {
        "give each host an --instance, so that it continues at once when it is started again"
    };
    Finding::ok(subject, format!("{GIVEN_UP_AFTER} {:.1} s; {restart}", f64::from(ours) / 1000.0))
}

fn consumer(config: &HashMap<String, String>) -> Finding {
    let subject = "the group protocol consumer (KIP-848)";
    let protocols = config.get("group.coordinator.rebalance.protocols").map_or("", String::as_str);
    if !protocols.split(',').any(|protocol| protocol.trim() == "consumer") {
        return Finding::problem(
            subject,
            "the brokers do not support it",
            "Use --group-protocol classic, or Kafka 4.0 or later with `consumer` in group.coordinator.rebalance.protocols",
        );
    }
    let session = config.get("group.consumer.session.timeout.ms").and_then(|value| value.parse::<f64>().ok());
    let session = session.map_or("the brokers' session time-out".to_owned(), |ms| format!("{:.1} s", ms / 1000.0));
    Finding::ok(subject, format!("{GIVEN_UP_AFTER} {session}, even if it is started again at once"))
}

fn members(cluster: &Cluster<'_>) -> Option<Finding> {
    let options = cluster.asked.options;
    let subject = format!("the group {}", options.app);
    Some(match describe_group(cluster.client(), &options.app, DOCTOR_REQUEST_TIMEOUT) {
        // The check of permissions reports it.
        Err(error) if error.code == Code::GroupAuthorizationFailed => return None,
        Ok(group) if group.members.is_empty() => Finding::ok(subject, "no members: no host is running"),
        Ok(group) => {
            if let Some(problem) = foreign_members(&options.app, &cluster.asked.topology.repartition, &group) {
                return Some(problem);
            }
            let ours = match options.group_protocol {
                GroupProtocol::Classic => "Classic",
                GroupProtocol::Consumer => "Consumer",
            };
            let members = group.members.len();
            let fixed = group.members.iter().filter(|member| member.is_static).count();
            let text = format!("{}, {members} members ({fixed} static), protocol {}", group.state, group.protocol);
            if group.protocol.eq_ignore_ascii_case(ours) {
                Finding::ok(subject, text)
            } else {
                let fix =
                    "All hosts of an application must have the same --group-protocol: change it while none is running";
                Finding::warning(subject, format!("{text}, but --group-protocol says {}", ours.to_lowercase()), fix)
            }
        }
        Err(error) => Finding::problem(
            subject,
            format!("cannot be described: {error}"),
            "After a time-out, see the brokers' log on __consumer_offsets: it may have no leader, or could not be created",
        ),
    })
}

/// Whether the group lost its committed offsets.
fn lost_offsets(cluster: &Cluster<'_>) -> Option<Finding> {
    let Doctor { options, topology, .. } = cluster.asked;
    match CommittedOffsets::new(options).and_then(|committed| find_lost_offsets(options, topology, &committed)) {
        Ok(problem) => problem,
        Err(error) => {
            tracing::debug!(%error, "the offsets of the group cannot be fetched");
            None
        }
    }
}

/// One finding per topic.
pub(super) fn lag(cluster: &Cluster<'_>) -> Vec<Finding> {
    let asked = cluster.asked;
    let lag = CommittedOffsets::new(asked.options).and_then(|committed| {
        LagReader::new(&committed, asked.options, asked.start_from)?.read(asked.topology, &Shutdown::default())
    });
    let finding = |topic: &TopicLag| {
        let oldest = topic.oldest.map(|oldest| format!(", the oldest for {}", humanized(oldest))).unwrap_or_default();
        let partitions = count_partitions(topic.partitions);
        let text = match topic.records {
            0 => format!("nothing waits in its {partitions}"),
            1 => format!("1 record waits in its {partitions}{oldest}"),
            records => format!("{} records wait in its {partitions}{oldest}", grouped(records)),
        };
        Finding::ok(format!("the topic {}", topic.topic), text)
    };
    match lag {
        Ok(lag) if lag.repartition.partitions == 0 && lag.source_topics.is_empty() => {
            vec![Finding::ok("the lag", "none of the topics exists yet")]
        }
        Ok(lag) => lag
            .source_topics
            .iter()
            .chain([&lag.repartition])
            .filter(|topic| topic.partitions > 0)
            .map(finding)
            .collect(),
        Err(error) => vec![Finding::warning(
            "the lag",
            format!("cannot be determined: {error}"),
            "See the findings on topics and permissions above",
        )],
    }
}
