//! The consumer group: whether it takes us as members, what a death costs, who is there, and how far behind it is.

use std::collections::HashMap;

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::super::committed_offsets::{Committed, lost_place};
use super::super::finding::Finding;
use super::super::lag::{LagReader, TopicLag, for_people, grouped};
use super::super::properties::{ClientOptions, GroupProtocol};
use super::super::sys::describe::describe_group;
use super::brokers::Configs;
use super::{Cluster, Doctor, REQUEST};
use crate::Shutdown;

pub(super) fn check(cluster: &Cluster<'_>, configs: Option<&Configs>) -> Vec<Finding> {
    let options = cluster.asked.options;
    let mut findings = Vec::new();
    for config in configs.into_iter().flat_map(Configs::values) {
        let finding = match options.group_protocol {
            GroupProtocol::Classic => classic(options, config),
            GroupProtocol::Consumer => consumer(config),
        };
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings.extend(members(cluster));
    findings.extend(place(cluster));
    findings
}

/// What the death of a member costs, in words.
const MISSED: &str = "a host that is killed is missed after";

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
                format!("--session-timeout-ms is {ours}, but the brokers have {name}={bound}: no member is taken"),
                format!("Set --session-timeout-ms {bound}, or {name} of the brokers to {ours}"),
            );
        }
    }
    let restart = if options.static_members {
        "one that is started again under its --instance goes on at once"
    } else {
        "give each host an --instance, and one that is started again goes on at once"
    };
    Finding::ok(subject, format!("{MISSED} {:.1} s; {restart}", f64::from(ours) / 1000.0))
}

fn consumer(config: &HashMap<String, String>) -> Finding {
    let subject = "the group protocol consumer (KIP-848)";
    let protocols = config.get("group.coordinator.rebalance.protocols").map_or("", String::as_str);
    if !protocols.split(',').any(|protocol| protocol.trim() == "consumer") {
        return Finding::problem(
            subject,
            "the brokers do not have it",
            "Use --group-protocol classic, or Kafka 4.0 or later with `consumer` in group.coordinator.rebalance.protocols",
        );
    }
    let session = config.get("group.consumer.session.timeout.ms").and_then(|value| value.parse::<f64>().ok());
    let session = session.map_or("the brokers' session time-out".to_owned(), |ms| format!("{:.1} s", ms / 1000.0));
    Finding::ok(subject, format!("{MISSED} {session}, also when it is started again at once"))
}

fn members(cluster: &Cluster<'_>) -> Option<Finding> {
    let options = cluster.asked.options;
    let subject = format!("the group {}", options.app);
    Some(match describe_group(cluster.client(), &options.app, REQUEST) {
        // Told with the other permissions.
        Err(KafkaError::AdminOp(Code::GroupAuthorizationFailed)) => return None,
        Ok(group) if group.members == 0 => Finding::ok(subject, "no members: no host runs"),
        Ok(group) => {
            let ours = match options.group_protocol {
                GroupProtocol::Classic => "Classic",
                GroupProtocol::Consumer => "Consumer",
            };
            let (members, fixed) = (group.members, group.static_members);
            let text = format!("{}, {members} members ({fixed} static), protocol {}", group.state, group.protocol);
            if group.protocol.eq_ignore_ascii_case(ours) {
                Finding::ok(subject, text)
            } else {
                let fix = "Hosts of one application are to have the same --group-protocol: change it when none runs";
                Finding::warning(subject, format!("{text}, but --group-protocol says {}", ours.to_lowercase()), fix)
            }
        }
        Err(error) => Finding::problem(
            subject,
            format!("cannot be described: {error}"),
            "When time ran out, see the brokers' log for why __consumer_offsets cannot be created or led",
        ),
    })
}

/// Whether it is known where to go on.
fn place(cluster: &Cluster<'_>) -> Option<Finding> {
    let Doctor { options, topology, .. } = cluster.asked;
    match Committed::new(options).and_then(|committed| lost_place(options, topology, &committed)) {
        Ok(problem) => problem,
        Err(error) => {
            tracing::debug!("the group's offsets: {error}");
            None
        }
    }
}

/// One finding a topic.
pub(super) fn lag(cluster: &Cluster<'_>) -> Vec<Finding> {
    let asked = cluster.asked;
    let lag = Committed::new(asked.options).and_then(|committed| {
        LagReader::new(&committed, asked.options, asked.start_from)?.read(asked.topology, &Shutdown::default())
    });
    let told = |topic: &TopicLag| {
        let oldest = topic.oldest.map(|oldest| format!(", the oldest for {}", for_people(oldest))).unwrap_or_default();
        let partitions = topic.partitions;
        let text = match topic.records {
            0 => format!("nothing waits in its {partitions} partitions"),
            1 => format!("1 record waits in its {partitions} partitions{oldest}"),
            records => format!("{} records wait in its {partitions} partitions{oldest}", grouped(records)),
        };
        Finding::ok(format!("the topic {}", topic.topic), text)
    };
    match lag {
        Ok(lag) if lag.shards.partitions == 0 && lag.sources.is_empty() => {
            vec![Finding::ok("the lag", "none of the topics exists yet")]
        }
        Ok(lag) => lag.sources.iter().chain([&lag.shards]).filter(|topic| topic.partitions > 0).map(told).collect(),
        Err(error) => vec![Finding::warning(
            "the lag",
            format!("cannot be told: {error}"),
            "See what is said of the topics and permissions above",
        )],
    }
}
