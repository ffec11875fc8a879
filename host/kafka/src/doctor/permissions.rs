//! Which permissions this client lacks, resource by resource.

use rdkafka::types::RDKafkaErrorCode as Code;

use super::{Cluster, DOCTOR_REQUEST_TIMEOUT};
use crate::finding::Finding;
use crate::sys::describe::{Allowed, Operation, allowed_on_topics, describe_group};

pub(super) fn check(cluster: &Cluster<'_>) -> Vec<Finding> {
    let (topology, group) = (cluster.asked.topology, &cluster.asked.options.app);
    let mut needed: Vec<(&str, &[Operation])> = vec![
        // DELETE: hosts delete processed records.
        (&topology.repartition, &[Operation::Read, Operation::Write, Operation::Delete]),
        (&topology.changelog, &[Operation::Read, Operation::Write]),
        (&topology.dead_letters, &[Operation::Write]),
        // WRITE: a host writes its status, and rolls back a failing release.
        (&topology.control, &[Operation::Read, Operation::Write]),
    ];
    needed.extend(topology.consumed.iter().map(|topic| (topic.name.as_str(), &[Operation::Read][..])));
    needed.extend(topology.produced.iter().map(|topic| (topic.name.as_str(), &[Operation::Write][..])));

    let names: Vec<_> = needed.iter().map(|(name, _)| *name).collect();
    let mut findings = Vec::new();
    match allowed_on_topics(cluster.client(), &names, DOCTOR_REQUEST_TIMEOUT) {
        Ok(allowed) => {
            for ((name, needed), allowed) in needed.iter().zip(allowed) {
                findings.extend(missing(&format!("the topic {name}"), needed, &allowed));
            }
        }
        Err(error) => findings.push(Finding::warning(
            "permissions",
            format!("the permissions on topics cannot be fetched: {error}"),
            "Try again; brokers before Kafka 2.3 do not support the request",
        )),
    }
    let allowed = describe_group(cluster.client(), group, DOCTOR_REQUEST_TIMEOUT).map(|group| group.allowed);
    let allowed = allowed.map_err(|error| error.code);
    findings.extend(missing(&format!("the group {group}"), &[Operation::Read], &allowed));
    if findings.is_empty() {
        findings.push(Finding::ok("topics and group", "all that is needed is allowed"));
    }
    findings
}

/// The operations that are missing on one resource.
fn missing(subject: &str, needed: &[Operation], allowed: &Result<Allowed, Code>) -> Option<Finding> {
    let names = |operations: &[Operation]| operations.iter().map(|one| one.name()).collect::<Vec<_>>().join(", ");
    let lacking = match allowed {
        Ok(Some(allowed)) => needed.iter().filter(|one| !allowed.contains(one)).copied().collect::<Vec<_>>(),
        // Brokers before 2.3 do not say. The check of topics reports topics that do not exist.
        Ok(None) | Err(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return None,
        Err(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => needed.to_vec(),
        Err(code) => {
            let text = format!("the permissions cannot be fetched: {code}");
            return Some(Finding::warning(subject, text, format!("It needs {}", names(needed))));
        }
    };
    (!lacking.is_empty()).then(|| {
        let lacking = names(&lacking);
        Finding::problem(
            subject,
            format!("this client is not allowed {lacking}"),
            format!("Allow it {lacking} on {subject}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    #[test]
    fn missing_operations_are_named() {
        let needed = [Operation::Read, Operation::Write];
        let found = missing("the topic t", &needed, &Ok(Some(vec![Operation::Describe, Operation::Read]))).unwrap();
        assert_eq!((found.level, found.fix.as_deref()), (Level::Problem, Some("Allow it WRITE on the topic t")));
        let found = missing("the topic t", &needed, &Err(Code::TopicAuthorizationFailed)).unwrap();
        assert!(found.text.ends_with("not allowed READ, WRITE"), "{found:?}");
        let all = vec![Operation::Other, Operation::Read, Operation::Write];
        assert_eq!(missing("the topic t", &needed, &Ok(Some(all))), None);
        assert_eq!(missing("the topic t", &needed, &Ok(None)), None);
        assert_eq!(missing("the topic t", &needed, &Err(Code::UnknownTopicOrPartition)), None);
    }
}
