//! Whether an existing internal topic may be used as it is. Decided from facts that the brokers gave; it makes no requests.

use std::collections::HashMap;

use super::shard_count::{ShardCount, ShardOrigin};
use crate::clients::options::MAX_RECORD_BYTES;
use crate::finding::Finding;

/// What an internal topic is for. Its requirements follow from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Holds records that are not processed yet. Nothing in it may expire.
    Repartition,
    /// Is the truth about state. Of each key the last record stays.
    Changelog,
    DeadLetters,
    /// Releases and routes. Of each key the last record stays, and all changes have one order.
    Control,
}

/// An internal topic as it should be.
#[derive(Debug)]
pub(crate) struct InternalTopic<'a> {
    pub(crate) name: &'a str,
    pub(crate) role: Role,
    /// The number of shards; `None`: it is not known yet.
    pub(crate) shards: Option<&'a ShardCount>,
    /// The configuration that it is created with.
    pub(crate) config: &'static [(&'static str, &'static str)],
}

impl InternalTopic<'_> {
    /// The number of partitions that it is created with; `None`: it is not known yet. Only dead letters may have another number.
    pub(crate) fn partitions(&self) -> Option<u32> {
        match self.role {
            Role::Repartition | Role::Changelog => self.shards.map(|shards| shards.count),
            Role::DeadLetters | Role::Control => Some(1),
        }
    }
}

/// A topic as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicFacts {
    /// The number of replicas of each partition.
    pub(crate) replicas: Vec<usize>,
    /// The number of brokers in the cluster.
    pub(crate) brokers: usize,
    /// `None`: this client may not read it.
    pub(crate) config: Option<HashMap<String, String>>,
}

impl TopicFacts {
    /// The smallest number of replicas of a partition.
    fn fewest_replicas(&self) -> usize {
        self.replicas.iter().copied().min().unwrap_or(0)
    }

    /// Names the partition with the fewest replicas, if partitions differ.
    fn in_partition(&self) -> String {
        let (fewest, most) = (self.replicas.iter().min(), self.replicas.iter().max());
        match self.replicas.iter().position(|replicas| Some(replicas) == fewest) {
            Some(partition) if fewest != most => format!(" in partition {partition}"),
            _ => String::new(),
        }
    }
}

/// How long the changelog keeps the tombstone of a deleted entry. Whoever reads the log, or has a checkpoint of it, must reach the
/// tombstone within this time. Otherwise the deleted entry is there again.
pub(crate) const TOMBSTONE_RETENTION_MS: &str = "604800000";
/// A restore takes minutes. With a shorter retention a slow restore would bring back deleted entries.
const MIN_TOMBSTONE_RETENTION_MS: i64 = 3_600_000;

/// A value that a topic's configuration must have.
struct RequiredValue {
    key: &'static str,
    value: &'static str,
    /// What would happen with another value.
    loss: &'static str,
}

const fn required(key: &'static str, value: &'static str, loss: &'static str) -> RequiredValue {
    RequiredValue { key, value, loss }
}

/// The values that a topic of this role must have. `compact,delete` is not `compact`: entries that are not written again would
/// expire.
///
/// The timestamps of the repartition topic are free: a record's own timestamp travels in its envelope.
fn required_values(role: Role) -> &'static [RequiredValue] {
    const REPARTITION: &[RequiredValue] = &[
        required("cleanup.policy", "delete", "waiting records are compacted away"),
        required("retention.ms", "-1", "unprocessed records expire"),
        required("retention.bytes", "-1", "unprocessed records are deleted"),
    ];
    const CHANGELOG: &[RequiredValue] = &[required("cleanup.policy", "compact", "state expires")];
    const DEAD_LETTERS: &[RequiredValue] = &[required("cleanup.policy", "delete", "letters are compacted away")];
    const CONTROL: &[RequiredValue] = &[
        required("cleanup.policy", "compact", "releases and routes expire"),
        required("message.timestamp.type", "LogAppendTime", "running hosts cannot be recognized by the broker's clock"),
    ];
    match role {
        Role::Repartition => REPARTITION,
        Role::Changelog => CHANGELOG,
        Role::DeadLetters => DEAD_LETTERS,
        Role::Control => CONTROL,
    }
}

/// Everything that is wrong with a topic. Empty if it may be used as it is.
pub(crate) fn check(topic: &InternalTopic<'_>, facts: &TopicFacts, replication_factor: Option<u16>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(check_partitions(topic, facts));
    findings.extend(check_replication(topic, facts, replication_factor));
    match &facts.config {
        Some(config) => {
            let config = Config { topic, values: config };
            findings.extend(config.check_required_values());
            findings.extend(config.check_tombstone_retention());
            findings.extend(config.check_record_size());
            findings.extend(config.check_in_sync_replicas(facts.fewest_replicas()));
        }
        None => findings.push(Finding::warning(
            subject(topic),
            "its configuration cannot be read, so it is not checked",
            "Allow this client DESCRIBE_CONFIGS on the topic",
        )),
    }
    findings
}

fn subject(topic: &InternalTopic<'_>) -> String {
    format!("the topic {}", topic.name)
}

fn check_partitions(topic: &InternalTopic<'_>, facts: &TopicFacts) -> Option<Finding> {
    let found = facts.replicas.len();
    match topic.role {
        Role::Control if found != 1 => Some(Finding::problem(
            subject(topic),
            format!("it has {found} partitions, but must have 1, or changes have no order"),
            "Delete it, so that it is created again, and deploy again; or use another --app",
        )),
        Role::Repartition | Role::Changelog => {
            let shards = topic.shards.filter(|shards| usize::try_from(shards.count).ok() != Some(found))?;
            let fix = match shards.origin {
                ShardOrigin::Setting => format!(
                    "The number of shards is fixed when an application starts for the first time: set --shards {found}, or \
                     leave it out, or use another --app"
                ),
                ShardOrigin::Existing(_) | ShardOrigin::Source(_) => {
                    "The repartition topic and the changelog must have the same number of partitions. If one of them was \
                     created by hand and has never had a record, delete it while no host runs, so that it is created again; \
                     or use another --app"
                        .to_owned()
                }
            };
            Some(Finding::problem(subject(topic), format!("it has {found} partitions, but {}", shards.claim()), fix))
        }
        Role::Control | Role::DeadLetters => None,
    }
}

fn check_replication(
    topic: &InternalTopic<'_>,
    facts: &TopicFacts,
    replication_factor: Option<u16>,
) -> Option<Finding> {
    let (fewest, in_partition) = (facts.fewest_replicas(), facts.in_partition());
    if let Some(wanted) = replication_factor
        && fewest < usize::from(wanted)
    {
        return Some(Finding::problem(
            subject(topic),
            format!("it has replication factor {fewest}{in_partition}, but --replication-factor is {wanted}"),
            format!("Raise it with kafka-reassign-partitions.sh, or set --replication-factor {fewest}"),
        ));
    }
    (fewest == 1 && facts.brokers > 1).then(|| {
        Finding::warning(
            subject(topic),
            format!("it has replication factor 1{in_partition}: the loss of a broker loses the partitions on it"),
            "Raise it to 3 with kafka-reassign-partitions.sh",
        )
    })
}

/// A topic's configuration that could be read.
struct Config<'a> {
    topic: &'a InternalTopic<'a>,
    values: &'a HashMap<String, String>,
}

impl Config<'_> {
    fn number(&self, key: &str) -> Option<i64> {
        self.values.get(key)?.parse().ok()
    }

    /// The command that sets a value.
    fn command(&self, key: &str, value: &str) -> String {
        format!(
            "kafka-configs.sh --bootstrap-server ... --entity-type topics --entity-name {} --alter --add-config {key}={value}",
            self.topic.name
        )
    }

    fn problem(&self, text: String, key: &str, value: &str) -> Finding {
        Finding::problem(subject(self.topic), text, format!("Correct it: {}", self.command(key, value)))
    }

    fn check_required_values(&self) -> impl Iterator<Item = Finding> {
        required_values(self.topic.role).iter().filter_map(|RequiredValue { key, value, loss }| {
            let found = self.values.get(*key).map_or("", String::as_str);
            let text = || format!("it has {key}={found}, but must have {value}, or {loss}");
            (found != *value).then(|| self.problem(text(), key, value))
        })
    }

    fn check_tombstone_retention(&self) -> Option<Finding> {
        const KEY: &str = "delete.retention.ms";
        if self.topic.role != Role::Changelog {
            return None;
        }
        let found = self.number(KEY)?;
        if found < MIN_TOMBSTONE_RETENTION_MS {
            let text = format!(
                "it has {KEY}={found}, but must have {MIN_TOMBSTONE_RETENTION_MS} or more, or a slow restore brings back \
                 deleted entries"
            );
            return Some(self.problem(text, KEY, TOMBSTONE_RETENTION_MS));
        }
        let wanted = TOMBSTONE_RETENTION_MS.parse().unwrap_or(i64::MAX);
        (found < wanted).then(|| {
            Finding::warning(
                subject(self.topic),
                format!("it has {KEY}={found}; checkpoints that are older than half of it are not used"),
                format!("Correct it: {}", self.command(KEY, TOMBSTONE_RETENTION_MS)),
            )
        })
    }

    fn check_record_size(&self) -> Option<Finding> {
        const KEY: &str = "max.message.bytes";
        let found = self.number(KEY)?;
        let needed: i64 = MAX_RECORD_BYTES.parse().unwrap_or(i64::MAX);
        let text = || format!("it has {KEY}={found}, but must have {needed} or more, or legal records are refused");
        (found < needed).then(|| self.problem(text(), KEY, MAX_RECORD_BYTES))
    }

    fn check_in_sync_replicas(&self, fewest_replicas: usize) -> Option<Finding> {
        const KEY: &str = "min.insync.replicas";
        let in_sync = usize::try_from(self.number(KEY)?).ok()?;
        (fewest_replicas < in_sync).then(|| {
            Finding::problem(
                subject(self.topic),
                format!(
                    "it has {KEY}={in_sync}, but only {fewest_replicas} replicas, so nothing can ever be written to it"
                ),
                format!(
                    "Raise its replication factor with kafka-reassign-partitions.sh, or lower {KEY}: {}",
                    self.command(KEY, &fewest_replicas.to_string())
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Level;

    const DAY_MS: &str = "86400000";

    const SHARDS: ShardCount = ShardCount { count: 4, origin: ShardOrigin::Setting };

    fn internal(role: Role) -> InternalTopic<'static> {
        InternalTopic { name: "t", role, shards: Some(&SHARDS), config: &[] }
    }

    /// A fitting topic of this role, but with another value of one key.
    fn facts(role: Role, key: &str, value: &str) -> TopicFacts {
        let compact = matches!(role, Role::Changelog | Role::Control);
        let fitting = [
            ("cleanup.policy", if compact { "compact" } else { "delete" }),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            ("message.timestamp.type", if role == Role::Control { "LogAppendTime" } else { "CreateTime" }),
            ("delete.retention.ms", TOMBSTONE_RETENTION_MS),
            ("max.message.bytes", MAX_RECORD_BYTES),
            ("min.insync.replicas", "2"),
        ];
        let config = fitting.into_iter().chain([(key, value)]);
        let config = config.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let partitions = if role == Role::Control { 1 } else { 4 };
        TopicFacts { replicas: vec![3; partitions], brokers: 3, config: Some(config) }
    }

    fn levels(role: Role, facts: &TopicFacts, replication_factor: Option<u16>) -> Vec<Level> {
        check(&internal(role), facts, replication_factor).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_fitting_topic_has_no_findings() {
        for role in [Role::Repartition, Role::Changelog, Role::DeadLetters, Role::Control] {
            let facts = facts(role, "segment.ms", "1");
            assert_eq!(check(&internal(role), &facts, Some(3)), []);
        }
        let time = facts(Role::DeadLetters, "retention.ms", "1000");
        assert_eq!(
            check(&internal(Role::DeadLetters), &time, None),
            [],
            "the operator decides how long letters are kept"
        );
        let time = facts(Role::Repartition, "message.timestamp.type", "LogAppendTime");
        assert_eq!(check(&internal(Role::Repartition), &time, None), [], "timestamps travel in the envelope");
    }

    #[test]
    fn a_loss_of_data_or_a_block_is_a_problem_and_a_price_is_a_warning() {
        for (role, key, value, level) in [
            (Role::Repartition, "cleanup.policy", "compact", Level::Problem),
            (Role::Repartition, "cleanup.policy", "compact,delete", Level::Problem),
            (Role::Repartition, "retention.ms", DAY_MS, Level::Problem),
            (Role::Repartition, "retention.bytes", "1000000", Level::Problem),
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
        for role in [Role::Repartition, Role::Changelog, Role::DeadLetters, Role::Control] {
            assert_eq!(levels(role, &facts(role, "max.message.bytes", "1048588"), None), [Level::Problem]);
            assert_eq!(levels(role, &facts(role, "min.insync.replicas", "4"), None), [Level::Problem]);
        }
    }

    #[test]
    fn the_partition_with_the_fewest_replicas_counts_and_is_named() {
        let mut facts = facts(Role::Repartition, "min.insync.replicas", "1");
        facts.replicas = vec![3, 3, 1, 3];
        let found = check(&internal(Role::Repartition), &facts, Some(3));
        assert!(found[0].text.contains("replication factor 1 in partition 2"), "{found:?}");
        assert_eq!(levels(Role::Repartition, &facts, None), [Level::Warning]);
        facts.brokers = 1;
        facts.replicas = vec![1; 4];
        assert_eq!(check(&internal(Role::Repartition), &facts, None), [], "one broker cannot hold a second replica");
        facts.replicas = vec![1; 3];
        assert_eq!(levels(Role::Repartition, &facts, None), [Level::Problem]);
        assert_eq!(levels(Role::DeadLetters, &facts, None), [], "any number of partitions is allowed");
        let fitting = self::facts(Role::Control, "retention.ms", "1");
        assert_eq!(levels(Role::Control, &fitting, None), []);
        assert_eq!(levels(Role::Control, &TopicFacts { replicas: vec![3; 2], ..fitting }, None), [Level::Problem]);
    }

    #[test]
    fn a_number_of_partitions_that_differs_from_the_shards_is_refused_with_what_to_do() {
        let mut facts = facts(Role::Changelog, "", "");
        facts.replicas = vec![3; 3];
        let said = |shards: &ShardCount| {
            let topic = InternalTopic { shards: Some(shards), ..internal(Role::Changelog) };
            check(&topic, &facts, None).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        let configured = said(&SHARDS);
        assert!(
            configured.contains("3 partitions, but --shards is 4") && configured.contains("--shards 3, or"),
            "{configured}"
        );
        let other = said(&ShardCount { count: 8, origin: ShardOrigin::Existing("repartition".into()) });
        assert!(other.contains("3 partitions, but repartition has 8") && other.contains("another --app"), "{other}");
        assert_eq!(said(&ShardCount { count: 3, origin: ShardOrigin::Setting }), "");
        let unknown = InternalTopic { shards: None, ..internal(Role::Changelog) };
        assert_eq!((check(&unknown, &facts, None), unknown.partitions()), (vec![], None));
    }

    #[test]
    fn an_unreadable_configuration_is_a_warning() {
        let facts = TopicFacts { config: None, ..facts(Role::Repartition, "", "") };
        assert_eq!(levels(Role::Repartition, &facts, None), [Level::Warning]);
    }
}
