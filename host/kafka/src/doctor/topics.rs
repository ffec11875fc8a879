//! The topics: internal ones by the checks that `run` makes, consumed and produced ones by the records that they take.

use std::collections::HashMap;

use rdkafka::admin::AdminOptions;
use rdkafka::metadata::MetadataTopic;

use super::{Cluster, DOCTOR_REQUEST_TIMEOUT};
use crate::clients::options::MAX_RECORD_BYTES;
use crate::finding::Finding;
use crate::topics::internal_topics::{
    TopicConfigs, config_text, count_partitions as partitions_of, exists, internal_topics, new_topic, topic_configs,
    topic_facts,
};
use crate::topics::topic_requirements::{self, InternalTopic};
use crate::topics::{ShardCount, TopicName, block_on};

pub(super) fn check(cluster: &Cluster<'_>) -> Vec<Finding> {
    let topology = cluster.asked.topology;
    let shards =
        ShardCount::find(topology, cluster.asked.topics.shards, |topic| partitions_of(&cluster.metadata, topic));
    let internal = internal_topics(topology, shards.as_ref());
    let external = topology.consumed.iter().chain(&topology.produced).map(|topic| topic.name.as_str());
    let names: Vec<_> = internal.iter().map(|topic| topic.name).chain(external).collect();
    let existing: Vec<_> = names.into_iter().filter(|name| exists(&cluster.metadata, name)).collect();
    let configs = match topic_configs(&cluster.admin, &existing) {
        Ok(configs) => configs,
        Err(error) => {
            tracing::debug!(%error, "the configurations of topics cannot be fetched");
            TopicConfigs::new()
        }
    };
    let mut findings = Vec::new();
    for topic in &internal {
        if exists(&cluster.metadata, topic.name) {
            let found = topic_requirements::check(
                topic,
                &topic_facts(&cluster.metadata, topic.name, &configs),
                cluster.asked.topics.replication_factor,
            );
            add_findings(&format!("the topic {}", topic.name), found, topic.name, cluster, &mut findings);
        } else {
            findings.push(missing_internal(topic, cluster));
        }
    }
    for topic in &topology.consumed {
        check_external(topic, cluster, "consumed", &configs, &mut findings, check_consumed);
    }
    let least = cluster.asked.outputs.value;
    for topic in &topology.produced {
        check_external(topic, cluster, "produced", &configs, &mut findings, |subject, config| {
            check_produced(subject, config, least)
        });
    }
    findings
}

/// Adds what is wrong with a topic, or that nothing is.
fn add_findings(
    subject: &str,
    mut found: Vec<Finding>,
    name: &str,
    cluster: &Cluster<'_>,
    findings: &mut Vec<Finding>,
) {
    let Some(topic) = cluster.metadata.topics().iter().find(|topic| topic.name() == name) else { return };
    found.extend(leaderless(subject, topic));
    if found.is_empty() {
        let partitions = topic.partitions();
        let replicas = partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
        let text = format!("{}, replication factor {replicas}", count_partitions(partitions.len()));
        found.push(Finding::ok(subject, text));
    }
    findings.append(&mut found);
}

fn leaderless(subject: &str, topic: &MetadataTopic) -> Option<Finding> {
    let leaderless = topic.partitions().iter().filter(|partition| partition.leader() < 0);
    let leaderless: Vec<_> = leaderless.map(|partition| partition.id().to_string()).collect();
    (!leaderless.is_empty()).then(|| {
        Finding::problem(
            subject,
            format!("no leader in partition {}: nothing can be read or written there", leaderless.join(", ")),
            "Start the brokers that hold its replicas",
        )
    })
}

/// Asks the brokers whether they would create the topic, as `run` does.
fn missing_internal(topic: &InternalTopic<'_>, cluster: &Cluster<'_>) -> Finding {
    let subject = format!("the topic {}", topic.name);
    let new = new_topic(topic, cluster.asked.topics.replication_factor);
    let validate = AdminOptions::new().validate_only(true).request_timeout(Some(DOCTOR_REQUEST_TIMEOUT));
    let result = block_on(cluster.admin.create_topics([&new], &validate)).map(|mut results| results.pop());
    let reason = match result {
        Ok(Some(Ok(_))) => {
            let text = match topic.partitions() {
                Some(_) => format!("does not exist yet; `run` creates it: {}", planned_partitions(topic)),
                None => format!(
                    "does not exist yet; `run` creates it once a consumed topic exists: {}",
                    planned_partitions(topic)
                ),
            };
            return Finding::ok(subject, text);
        }
        Ok(Some(Err((_, code)))) => code.to_string(),
        Ok(None) => "no answer".to_owned(),
        Err(error) => error.to_string(),
    };
    Finding::problem(
        subject,
        format!("does not exist yet, and `run` cannot create it: {reason}"),
        format!(
            "Allow this client CREATE on it; or create it yourself: {}, {}; or, if it exists, allow DESCRIBE",
            planned_partitions(topic),
            config_text(topic)
        ),
    )
}

/// The partitions that an internal topic is created with, and why.
fn planned_partitions(topic: &InternalTopic<'_>) -> String {
    match (topic.partitions(), topic.shards) {
        (Some(count), Some(shards)) => format!("{} ({})", count_partitions(count), shards.origin),
        (Some(count), None) => count_partitions(count),
        (None, _) => "as many partitions as the largest consumed topic has, or --shards".to_owned(),
    }
}

fn check_external(
    topic: &TopicName,
    cluster: &Cluster<'_>,
    role: &str,
    configs: &TopicConfigs,
    findings: &mut Vec<Finding>,
    check: impl Fn(&str, &HashMap<String, String>) -> Vec<Finding>,
) {
    let subject = format!("the topic {} ({role})", topic.name);
    if exists(&cluster.metadata, &topic.name) {
        let found = configs.get(&topic.name).map(|config| check(&subject, config)).unwrap_or_default();
        add_findings(&subject, found, &topic.name, cluster, findings);
        return;
    }
    let until = if role == "consumed" { "hosts wait for it" } else { "messages to it become dead letters" };
    findings.push(Finding::warning(
        subject,
        format!("does not exist, or is not shown to this client; until then {until}"),
        format!("Create it, or name another topic in the environment variable {}", topic.alias),
    ));
}

fn check_consumed(subject: &str, config: &HashMap<String, String>) -> Vec<Finding> {
    let mut found = Vec::new();
    if config.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        found.push(Finding::warning(
            subject,
            "it is compacted: of records with the same key only the last is certain to be processed",
            "Ignore this if it is intended, else set its cleanup.policy to delete",
        ));
    }
    let ours: i64 = MAX_RECORD_BYTES.parse().unwrap_or(i64::MAX);
    if let Some(theirs) = config.get("max.message.bytes").and_then(|value| value.parse::<i64>().ok())
        && theirs > ours
    {
        found.push(Finding::warning(
            subject,
            format!("it takes records of {theirs} bytes, but internal topics {ours}: larger ones become dead letters"),
            format!("Set its max.message.bytes to {ours} if there are no such records"),
        ));
    }
    found
}

fn check_produced(subject: &str, config: &HashMap<String, String>, least: usize) -> Vec<Finding> {
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

pub(super) fn count_partitions(count: impl std::fmt::Display) -> String {
    match count.to_string().as_str() {
        "1" => "1 partition".to_owned(),
        count => format!("{count} partitions"),
    }
}
