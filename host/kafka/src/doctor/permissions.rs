//! What this client needs to be allowed, and is not: resource by resource, as the brokers tell it.

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::super::finding::Finding;
use super::super::sys::describe::{Allowed, Operation, allowed_on_topics, describe_group};
use super::{Cluster, REQUEST};

pub(super) fn check(cluster: &Cluster<'_>) -> Vec<Finding> {
    let (topology, group) = (cluster.asked.topology, &cluster.asked.options.app);
    let mut needed: Vec<(&str, &[Operation])> = vec![
        // DELETE: processed records are deleted.
        (&topology.shards, &[Operation::Read, Operation::Write, Operation::Delete]),
        (&topology.changelog, &[Operation::Read, Operation::Write]),
        (&topology.dead_letters, &[Operation::Write]),
        // WRITE: a host tells how it is, and rolls back a release that fails.
        (&topology.control, &[Operation::Read, Operation::Write]),
    ];
    needed.extend(topology.sources.iter().map(|topic| (topic.name.as_str(), &[Operation::Read][..])));
    needed.extend(topology.outputs.iter().map(|topic| (topic.name.as_str(), &[Operation::Write][..])));

    let names: Vec<_> = needed.iter().map(|(name, _)| *name).collect();
    let mut findings = Vec::new();
    match allowed_on_topics(cluster.client(), &names, REQUEST) {
        Ok(allowed) => {
            for ((name, needed), allowed) in needed.iter().zip(allowed) {
                findings.extend(judge(&format!("the topic {name}"), needed, &allowed));
            }
        }
        Err(error) => findings.push(Finding::warning(
            "permissions",
            format!("what is allowed on topics cannot be had: {error}"),
            "Try again; brokers tell it from Kafka 2.3 on",
        )),
    }
    let allowed = describe_group(cluster.client(), group, REQUEST).map(|group| group.allowed);
    let allowed = allowed.map_err(|error| match error {
        KafkaError::AdminOp(code) => code,
        _ => Code::Unknown,
    });
    findings.extend(judge(&format!("the group {group}"), &[Operation::Read], &allowed));
    if findings.is_empty() {
        findings.push(Finding::ok("topics and group", "all that is needed is allowed"));
    }
    findings
}

/// What is missing on one resource.
fn judge(subject: &str, needed: &[Operation], allowed: &Result<Allowed, Code>) -> Option<Finding> {
    let names = |operations: &[Operation]| operations.iter().map(|one| one.name()).collect::<Vec<_>>().join(", ");
    let missing = match allowed {
        Ok(Some(allowed)) => needed.iter().filter(|one| !allowed.contains(one)).copied().collect::<Vec<_>>(),
        // Brokers before 2.3, and topics that do not exist, of which more is said elsewhere.
        Ok(None) | Err(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return None,
        Err(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => needed.to_vec(),
        Err(code) => {
            let text = format!("what is allowed cannot be had: {code}");
            return Some(Finding::warning(subject, text, format!("It needs {}", names(needed))));
        }
    };
    (!missing.is_empty()).then(|| {
        let missing = names(&missing);
        Finding::problem(
            subject,
            format!("this client is not allowed {missing}"),
            format!("Allow it {missing} on {subject}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Level;
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let needed = [Operation::Read, Operation::Write];
        let found = judge("the topic t", &needed, &Ok(Some(vec![Operation::Describe, Operation::Read]))).unwrap();
        assert_eq!((found.level, found.fix.as_deref()), (Level::Problem, Some("Allow it WRITE on the topic t")));
        let found = judge("the topic t", &needed, &Err(Code::TopicAuthorizationFailed)).unwrap();
        assert!(found.text.ends_with("not allowed READ, WRITE"), "{found:?}");
        let all = vec![Operation::Other, Operation::Read, Operation::Write];
        assert_eq!(judge("the topic t", &needed, &Ok(Some(all))), None);
        assert_eq!(judge("the topic t", &needed, &Ok(None)), None);
        assert_eq!(judge("the topic t", &needed, &Err(Code::UnknownTopicOrPartition)), None);
    }
}
