//! Whether an internal topic that exists can be used: decided from what the brokers say of it, by no question of its own.

use std::collections::HashMap;

use super::finding::Finding;
use super::properties::MAX_RECORD_BYTES;

/// What an internal topic is for; its rules follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Holds what is not yet processed: nothing of it may expire.
    Shards,
    /// Is the truth about state: of each key the last record stays.
    Changelog,
    DeadLetters,
    /// Releases and routes: of each key the last record stays, in one order.
    Control,
}

/// What an internal topic has to be like.
#[derive(Debug)]
pub(super) struct Internal<'a> {
    pub(super) name: &'a str,
    pub(super) role: Role,
    /// Only of dead letters another number will do.
    pub(super) partitions: u32,
    /// What it is created with.
    pub(super) config: &'static [(&'static str, &'static str)],
}

/// What a topic is like.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Of each partition, its number of replicas.
    pub(super) replicas: Vec<usize>,
    /// Number of brokers of the cluster.
    pub(super) brokers: usize,
    /// `None`: we may not read it.
    pub(super) config: Option<HashMap<String, String>>,
}

/// Of the changelog: for how long it keeps that an entry was deleted. Whoever reads the log, or has a copy of it, must come
/// to the deletion within this time, or the entry is there again.
pub(super) const TOMBSTONES_KEPT_MS: &str = "604800000";
/// A restore takes minutes. Below this time a slow one would bring back what was deleted.
const TOMBSTONES_KEPT_AT_LEAST_MS: i64 = 3_600_000;

/// All that is wrong with a topic; nothing when it can be used as it is.
pub(super) fn check(topic: &Internal<'_>, facts: &Facts, replication_factor: Option<u16>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let subject = format!("the topic {}", topic.name);
    let (wanted, found) = (topic.partitions, facts.replicas.len());
    if topic.role == Role::Control && found != 1 {
        findings.push(Finding::problem(
            &subject,
            format!("it has {found} partitions, but must have 1, or what was deployed last is not known"),
            "Delete it, so that it is created anew, and deploy again; or use another --app",
        ));
    } else if matches!(topic.role, Role::Shards | Role::Changelog) && usize::try_from(wanted).ok() != Some(found) {
        findings.push(Finding::problem(
            &subject,
            format!("it has {found} partitions, but --shards is {wanted}"),
            format!(
                "The number of shards is fixed when an application starts for the first time: set --shards {found}, or use \
                 another --app"
            ),
        ));
    }
    let fewest = facts.replicas.iter().copied().min().unwrap_or(0);
    if let Some(wanted) = replication_factor
        && fewest < usize::from(wanted)
    {
        findings.push(Finding::problem(
            &subject,
            format!("it has replication factor {fewest}{}, but --replication-factor is {wanted}", where_fewest(facts)),
            format!("Raise it with kafka-reassign-partitions.sh, or set --replication-factor {fewest}"),
        ));
    } else if fewest == 1 && facts.brokers > 1 {
        findings.push(Finding::warning(
            &subject,
            format!("it has replication factor 1{}: a broker that is lost takes its part along", where_fewest(facts)),
            "Raise it to 3 with kafka-reassign-partitions.sh",
        ));
    }
    match &facts.config {
        Some(config) => check_config(topic, config, fewest, &mut findings),
        None => findings.push(Finding::warning(
            &subject,
            "its configuration cannot be read, so it is not checked",
            "Allow this client DESCRIBE_CONFIGS on the topic",
        )),
    }
    findings
}

/// Which partition has the fewest replicas, where they differ.
fn where_fewest(facts: &Facts) -> String {
    let (fewest, most) = (facts.replicas.iter().min(), facts.replicas.iter().max());
    match facts.replicas.iter().position(|replicas| Some(replicas) == fewest) {
        Some(partition) if fewest != most => format!(" in partition {partition}"),
        _ => String::new(),
    }
}

fn check_config(
    topic: &Internal<'_>,
    config: &HashMap<String, String>,
    fewest_replicas: usize,
    findings: &mut Vec<Finding>,
) {
    let subject = format!("the topic {}", topic.name);
    let value = |key: &str| config.get(key).map_or("", String::as_str);
    let number = |key: &str| value(key).parse::<i64>().ok();
    let set = |key: &str, value: &str| {
        format!(
            "Mend it: kafka-configs.sh --bootstrap-server ... --entity-type topics --entity-name {} --alter --add-config \
             {key}={value}",
            topic.name
        )
    };
    let mut must_be = |key: &str, wanted: &str, loss: &str| {
        let found = value(key);
        if found != wanted {
            let text = format!("it has {key}={found}, but must have {wanted}, or {loss}");
            findings.push(Finding::problem(&subject, text, set(key, wanted)));
        }
    };
    match topic.role {
        Role::Shards => {
            must_be("cleanup.policy", "delete", "records that wait are compacted away");
            must_be("retention.ms", "-1", "records that are not yet processed expire");
            must_be("retention.bytes", "-1", "records that are not yet processed are deleted");
            must_be("message.timestamp.type", "CreateTime", "plugins see another time than the message's");
        }
        // `compact,delete` too: entries that are not written again would expire.
        Role::Changelog => must_be("cleanup.policy", "compact", "state expires"),
        Role::DeadLetters => must_be("cleanup.policy", "delete", "letters are compacted away"),
        Role::Control => {
            must_be("cleanup.policy", "compact", "releases and routes expire");
            must_be("message.timestamp.type", "LogAppendTime", "which hosts live is told by their own clocks");
        }
    }
    if topic.role == Role::Changelog
        && let Some(kept) = number("delete.retention.ms")
    {
        let wanted = TOMBSTONES_KEPT_MS.parse().unwrap_or(i64::MAX);
        if kept < TOMBSTONES_KEPT_AT_LEAST_MS {
            findings.push(Finding::problem(
                &subject,
                format!(
                    "it has delete.retention.ms={kept}, but must have {TOMBSTONES_KEPT_AT_LEAST_MS} or more, or a slow \
                     restore brings back what was deleted"
                ),
                set("delete.retention.ms", TOMBSTONES_KEPT_MS),
            ));
        } else if kept < wanted {
            findings.push(Finding::warning(
                &subject,
                format!(
                    "it has delete.retention.ms={kept}; copies of state that are older than half of it are of no use"
                ),
                set("delete.retention.ms", TOMBSTONES_KEPT_MS),
            ));
        }
    }
    let needed: i64 = MAX_RECORD_BYTES.parse().unwrap_or(i64::MAX);
    if let Some(most) = number("max.message.bytes")
        && most < needed
    {
        findings.push(Finding::problem(
            &subject,
            format!("it has max.message.bytes={most}, but must have {needed} or more, or legal records are refused"),
            set("max.message.bytes", MAX_RECORD_BYTES),
        ));
    }
    if let Some(in_sync) = number("min.insync.replicas").and_then(|number| usize::try_from(number).ok())
        && fewest_replicas < in_sync
    {
        findings.push(Finding::problem(
            &subject,
            format!(
                "it has min.insync.replicas={in_sync}, but only {fewest_replicas} replicas, so that nothing can ever be \
                 written to it"
            ),
            format!(
                "Raise its replication factor with kafka-reassign-partitions.sh, or {}",
                set("min.insync.replicas", &fewest_replicas.to_string()).replacen("Mend it", "lower it", 1)
            ),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    const DAY_MS: &str = "86400000";

    fn internal(role: Role) -> Internal<'static> {
        Internal { name: "t", role, partitions: 4, config: &[] }
    }

    /// A topic of this role that fits, but for one entry.
    fn facts(role: Role, key: &str, value: &str) -> Facts {
        let compact = matches!(role, Role::Changelog | Role::Control);
        let fitting = [
            ("cleanup.policy", if compact { "compact" } else { "delete" }),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            ("message.timestamp.type", if role == Role::Control { "LogAppendTime" } else { "CreateTime" }),
            ("delete.retention.ms", TOMBSTONES_KEPT_MS),
            ("max.message.bytes", MAX_RECORD_BYTES),
            ("min.insync.replicas", "2"),
        ];
        let config = fitting.into_iter().chain([(key, value)]);
        let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let partitions = if role == Role::Control { 1 } else { 4 };
        Facts { replicas: vec![3; partitions], brokers: 3, config: Some(config) }
    }

    fn levels(role: Role, facts: &Facts, replication_factor: Option<u16>) -> Vec<Level> {
        check(&internal(role), facts, replication_factor).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn what_fits_is_not_complained_of() {
        for role in [Role::Shards, Role::Changelog, Role::DeadLetters, Role::Control] {
            let facts = facts(role, "segment.ms", "1");
            assert_eq!(check(&internal(role), &facts, Some(3)), []);
        }
        let time = facts(Role::DeadLetters, "retention.ms", "1000");
        assert_eq!(check(&internal(Role::DeadLetters), &time, None), [], "how long letters are kept is the operator's");
    }

    #[test]
    fn what_would_lose_data_or_block_is_a_problem_and_what_costs_is_a_warning() {
        for (role, key, value, level) in [
            (Role::Shards, "cleanup.policy", "compact", Level::Problem),
            (Role::Shards, "cleanup.policy", "compact,delete", Level::Problem),
            (Role::Shards, "retention.ms", DAY_MS, Level::Problem),
            (Role::Shards, "retention.bytes", "1000000", Level::Problem),
            (Role::Shards, "message.timestamp.type", "LogAppendTime", Level::Problem),
            (Role::Changelog, "cleanup.policy", "delete", Level::Problem),
            (Role::Changelog, "cleanup.policy", "compact,delete", Level::Problem),
            (Role::Changelog, "delete.retention.ms", "60000", Level::Problem),
            (Role::Changelog, "delete.retention.ms", DAY_MS, Level::Warning),
            (Role::DeadLetters, "cleanup.policy", "compact", Level::Problem),
            (Role::Control, "cleanup.policy", "compact,delete", Level::Problem),
            (Role::Control, "message.timestamp.type", "CreateTime", Level::Problem),
        ] {
            assert_eq!(levels(role, &facts(role, key, value), None), [level], "{role:?} {key}={value}");
        }
        for role in [Role::Shards, Role::Changelog, Role::DeadLetters, Role::Control] {
            assert_eq!(levels(role, &facts(role, "max.message.bytes", "1048588"), None), [Level::Problem]);
            assert_eq!(levels(role, &facts(role, "min.insync.replicas", "4"), None), [Level::Problem]);
        }
    }

    #[test]
    fn the_partition_with_the_fewest_replicas_counts_and_is_named() {
        let mut facts = facts(Role::Shards, "min.insync.replicas", "1");
        facts.replicas = vec![3, 3, 1, 3];
        let found = check(&internal(Role::Shards), &facts, Some(3));
        assert!(found[0].text.contains("replication factor 1 in partition 2"), "{found:?}");
        assert_eq!(levels(Role::Shards, &facts, None), [Level::Warning]);
        facts.brokers = 1;
        facts.replicas = vec![1; 4];
        assert_eq!(check(&internal(Role::Shards), &facts, None), [], "one broker can hold no second replica");
        facts.replicas = vec![1; 3];
        assert_eq!(levels(Role::Shards, &facts, None), [Level::Problem]);
        assert_eq!(levels(Role::DeadLetters, &facts, None), [], "any number of partitions will do");
        let fitting = self::facts(Role::Control, "retention.ms", "1");
        assert_eq!(levels(Role::Control, &fitting, None), []);
        assert_eq!(levels(Role::Control, &Facts { replicas: vec![3; 2], ..fitting }, None), [Level::Problem]);
    }

    #[test]
    fn a_configuration_that_may_not_be_read_is_told() {
        let facts = Facts { config: None, ..facts(Role::Shards, "", "") };
        assert_eq!(levels(Role::Shards, &facts, None), [Level::Warning]);
    }
}
