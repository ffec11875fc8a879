//! The topics: Switchboard's own by the checks that `run` makes, consumed and produced ones by what they let through.

use std::collections::HashMap;

use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::metadata::MetadataTopic;

use super::super::finding::Finding;
use super::super::properties::MAX_RECORD_BYTES;
use super::super::topic_requirements::{self, Internal};
use super::super::topics::{Configs, configs, exists, facts, internal, wait_for};
use super::super::topology::TopicName;
use super::{Cluster, REQUEST};

pub(super) fn check(cluster: &Cluster<'_>) -> Vec<Finding> {
    let topology = cluster.asked.topology;
    let internal = internal(topology);
    let own = topology.sources.iter().chain(&topology.outputs).map(|topic| topic.name.as_str());
    let names: Vec<_> = internal.iter().map(|topic| topic.name).chain(own).collect();
    let existing: Vec<_> = names.into_iter().filter(|name| exists(&cluster.metadata, name)).collect();
    let configs = match configs(&cluster.admin, &existing) {
        Ok(configs) => configs,
        Err(error) => {
            tracing::debug!("configurations of topics: {error}");
            Configs::new()
        }
    };
    let mut findings = Vec::new();
    for topic in &internal {
        if exists(&cluster.metadata, topic.name) {
            let found = topic_requirements::check(
                topic,
                &facts(&cluster.metadata, topic.name, &configs),
                cluster.asked.replication_factor,
            );
            whole(&format!("the topic {}", topic.name), found, topic.name, cluster, &mut findings);
        } else {
            findings.push(to_be_created(topic, cluster));
        }
    }
    for topic in &topology.sources {
        external(topic, cluster, "consumed", &configs, &mut findings, source);
    }
    let least = cluster.asked.outputs.value;
    for topic in &topology.outputs {
        external(topic, cluster, "produced", &configs, &mut findings, |subject, config| output(subject, config, least));
    }
    findings
}

/// What is wrong with a topic, or that nothing is.
fn whole(subject: &str, mut found: Vec<Finding>, name: &str, cluster: &Cluster<'_>, findings: &mut Vec<Finding>) {
    let Some(topic) = cluster.metadata.topics().iter().find(|topic| topic.name() == name) else { return };
    found.extend(leaderless(subject, topic));
    if found.is_empty() {
        let partitions = topic.partitions();
        let replicas = partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
        let text = format!("{} partitions, replication factor {replicas}", partitions.len());
        found.push(Finding::ok(subject, text.replace("1 partitions", "1 partition")));
    }
    findings.append(&mut found);
}

fn leaderless(subject: &str, topic: &MetadataTopic) -> Option<Finding> {
    let dead = topic.partitions().iter().filter(|partition| partition.leader() < 0);
    let dead: Vec<_> = dead.map(|partition| partition.id().to_string()).collect();
    (!dead.is_empty()).then(|| {
        Finding::problem(
            subject,
            format!("no leader in partition {}: nothing can be read or written there", dead.join(", ")),
            "Start the brokers that hold its replicas",
        )
    })
}

/// Asks the brokers whether they would create it, as `run` does.
fn to_be_created(topic: &Internal<'_>, cluster: &Cluster<'_>) -> Finding {
    let subject = format!("the topic {}", topic.name);
    let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
    let replicas = cluster.asked.replication_factor.map_or(-1, i32::from);
    let new = NewTopic::new(topic.name, partitions, TopicReplication::Fixed(replicas));
    let new = topic.config.iter().fold(new, |new, (name, value)| new.set(name, value));
    let only = AdminOptions::new().validate_only(true).request_timeout(Some(REQUEST));
    let result = wait_for(cluster.admin.create_topics([&new], &only)).map(|mut results| results.pop());
    let why = match result {
        Ok(Some(Ok(_))) => {
            return Finding::ok(subject, format!("does not exist yet; `run` creates it: {partitions} partitions"));
        }
        Ok(Some(Err((_, code)))) => code.to_string(),
        Ok(None) => "no answer".to_owned(),
        Err(error) => error.to_string(),
    };
    let config: Vec<_> = topic.config.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Finding::problem(
        subject,
        format!("does not exist yet, and `run` cannot create it: {why}"),
        format!(
            "Allow this client CREATE on it; or create it yourself: {partitions} partitions, {}; or, when it exists, allow \
             DESCRIBE",
            config.join(" ")
        ),
    )
}

fn external(
    topic: &TopicName,
    cluster: &Cluster<'_>,
    role: &str,
    configs: &Configs,
    findings: &mut Vec<Finding>,
    check: impl Fn(&str, &HashMap<String, String>) -> Vec<Finding>,
) {
    let subject = format!("the topic {} ({role})", topic.name);
    if exists(&cluster.metadata, &topic.name) {
        let found = configs.get(&topic.name).map(|config| check(&subject, config)).unwrap_or_default();
        whole(&subject, found, &topic.name, cluster, findings);
        return;
    }
    let until = if role == "consumed" { "its records are awaited" } else { "messages to it become dead letters" };
    findings.push(Finding::warning(
        subject,
        format!("does not exist, or is not shown to this client; until then {until}"),
        format!("Create it, or name another in the environment variable {}", topic.alias),
    ));
}

fn source(subject: &str, config: &HashMap<String, String>) -> Vec<Finding> {
    let mut found = Vec::new();
    if config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        found.push(Finding::warning(
            subject,
            "it is compacted: of records with the same key only the last is certain to be processed",
            "Leave it so when that is meant, else set its cleanup.policy to delete",
        ));
    }
    let ours: i64 = MAX_RECORD_BYTES.parse().unwrap_or(i64::MAX);
    if let Some(theirs) = config.get("max.message.bytes").and_then(|value| value.parse::<i64>().ok())
        && theirs > ours
    {
        found.push(Finding::warning(
            subject,
            format!(
                "it takes records of {theirs} bytes, but Switchboard's topics {ours}: larger ones become dead letters"
            ),
            format!("Set its max.message.bytes to {ours} when there are no such records"),
        ));
    }
    found
}

fn output(subject: &str, config: &HashMap<String, String>, least: usize) -> Vec<Finding> {
    let theirs = config.get("max.message.bytes").and_then(|value| value.parse::<usize>().ok());
    let theirs = theirs.filter(|theirs| *theirs < least);
    let warning = theirs.map(|theirs| {
        Finding::warning(
            subject,
            format!("it takes records of {theirs} bytes, but --max-value-bytes allows {least}: larger ones become dead letters"),
            format!("Set its max.message.bytes to {least} or more, or lower --max-value-bytes"),
        )
    });
    warning.into_iter().collect()
}
