//! Whether the group has members that do not share its partitions as this version does.
//!
//! Members of this version are assigned partitions of the repartition topic only. Each source partition is read by the owner of
//! the shard that it belongs to. A member of a former version is assigned source partitions. The coordinator would accept offsets of
//! a source partition from both, so records would be processed twice. The same holds for another program in the group.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode as Code;

use super::TOPIC_REQUEST_TIMEOUT;
use super::internal_topics::Admin;
use super::topology::Topology;
use crate::clients::ClientOptions;
use crate::finding::Finding;
use crate::sys::describe::{GroupDescription, MemberDescription, describe_group};
use crate::{Shutdown, ThrottledWarn};

/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a start waits for the end of a rebalance. During one the coordinator does not say what members are assigned.
const REBALANCE_TIMEOUT: Duration = Duration::from_secs(1);
/// How many members a finding names.
const NAMED_MEMBERS: usize = 5;

/// Why the application does not start.
#[derive(Debug, thiserror::Error)]
pub enum GroupMembersError {
    /// The group has foreign members. The finding says what to do.
    #[error("{0}")]
    Foreign(Finding),
    /// A stop was requested before the coordinator answered.
    #[error("stopped before the group's members were known")]
    Stopped,
}

/// Refuses a group with members of a former version or of another program. Waits for a coordinator that does not answer.
///
/// # Errors
/// When there is such a member, or a stop is requested.
pub fn check_group_members(
    options: &ClientOptions,
    topology: &Topology,
    admin: &Admin,
    stop: &Shutdown,
) -> Result<(), GroupMembersError> {
    let (mut trouble, started) = (ThrottledWarn::default(), Instant::now());
    loop {
        match describe_group(admin.0.inner(), &options.app, TOPIC_REQUEST_TIMEOUT) {
            Ok(group) => {
                if let Some(finding) = foreign_members(&options.app, &topology.repartition, &group) {
                    return Err(GroupMembersError::Foreign(finding));
                }
                if !group.hides_assignments() || started.elapsed() >= REBALANCE_TIMEOUT {
                    return Ok(());
                }
            }
            // The workers report a permission that is missing on the group.
            Err(error) if error.code == Code::GroupAuthorizationFailed => return Ok(()),
            // KIP-848: a member has partitions of a topic that this client may not describe.
            Err(error) if error.code == Code::TopicAuthorizationFailed => {
                tracing::warn!(group = %options.app, %error, "the members of the group are not shown, so they are not checked");
                return Ok(());
            }
            Err(error) => {
                trouble.report(error.to_string(), || {
                    tracing::warn!(group = %options.app, %error, "the group cannot be described; retrying");
                });
            }
        }
        if stop.wait(RETRY_PAUSE) {
            return Err(GroupMembersError::Stopped);
        }
    }
}

/// The problem, if members are assigned partitions of other topics than the repartition topic.
pub(crate) fn foreign_members(group: &str, repartition: &str, description: &GroupDescription) -> Option<Finding> {
    let foreign = |member: &MemberDescription| {
        let topics: Vec<_> = member.topics.iter().map(String::as_str).filter(|topic| *topic != repartition).collect();
        let MemberDescription { client_id, host, .. } = member;
        (!topics.is_empty()).then(|| format!("{client_id} at {host} is assigned partitions of {}", topics.join(", ")))
    };
    // Several members of one process look the same.
    let foreign: BTreeSet<_> = description.members.iter().filter_map(foreign).collect();
    if foreign.is_empty() {
        return None;
    }
    let more = match foreign.len().saturating_sub(NAMED_MEMBERS) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let named: Vec<_> = foreign.into_iter().take(NAMED_MEMBERS).collect();
    Some(Finding::problem(
        format!("the group {group}"),
        format!(
            "it has members that are not of this version: {}{more}. Members of this version are assigned partitions of \
             {repartition} only. Together they would process records twice",
            named.join("; ")
        ),
        "Stop all hosts of the older version first, and all other programs in this group. Members with an --instance stay in it \
         until their session time-out: wait for that. Then start again",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPARTITION: &str = "app-switchboard-repartition";

    fn member(client_id: &str, topics: &[&str]) -> MemberDescription {
        MemberDescription {
            client_id: client_id.into(),
            host: "/10.0.0.1".into(),
            is_static: false,
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        }
    }

    fn group(members: &[MemberDescription]) -> GroupDescription {
        let protocol = "Classic".to_owned();
        GroupDescription { state: "Stable".into(), protocol, members: members.to_vec(), allowed: None }
    }

    fn judged(members: &[MemberDescription]) -> Option<String> {
        foreign_members("app", REPARTITION, &group(members)).map(|finding| finding.to_string())
    }

    #[test]
    fn members_that_are_assigned_shards_or_nothing_are_fine() {
        assert_eq!(judged(&[]), None);
        assert_eq!(judged(&[member("app-0", &[REPARTITION]), member("app-1", &[])]), None);
    }

    #[test]
    fn members_of_a_former_version_and_of_other_programs_are_named_with_what_to_do() {
        let former = member("app-old", &["commands", REPARTITION]);
        let other = member("reporting", &["commands", "events"]);
        let text = judged(&[former.clone(), member("app-new", &[REPARTITION]), other, former]).unwrap();
        assert_eq!(text.matches("app-old").count(), 1, "a process with two members is named once: {text}");
        assert!(
            text.contains("the group app: ")
                && text.contains("app-old at /10.0.0.1 is assigned partitions of commands;")
        );
        assert!(text.contains("reporting at /10.0.0.1 is assigned partitions of commands, events. "), "{text}");
        assert!(!text.contains("app-new"), "{text}");
        assert!(text.contains("Stop all hosts of the older version first"), "{text}");
    }

    #[test]
    fn of_many_members_some_are_named() {
        let members: Vec<_> = (0..8).map(|number| member(&format!("old-{number}"), &["commands"])).collect();
        let text = judged(&members).unwrap();
        assert!(text.contains("old-4 ") && !text.contains("old-5") && text.contains("; and 3 more. "), "{text}");
    }

    #[test]
    fn assignments_are_hidden_while_the_classic_protocol_rebalances() {
        let state = |state: &str| GroupDescription { state: state.into(), ..group(&[member("app-0", &[])]) };
        assert!(state("PreparingRebalance").hides_assignments() && state("CompletingRebalance").hides_assignments());
        assert!(!state("Stable").hides_assignments() && !state("Empty").hides_assignments());
    }
}
