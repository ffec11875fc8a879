//! Settings as flags and environment variables. The help text of a flag is the only description of its setting: the
//! configuration reference is generated from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory as _};
use serde::de::value::Error as ValueError;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchboard_core::record::{HeaderKind, TenantHeader};
use switchboard_core::routing::OnFailure;
use switchboard_core::worker::StartFrom;
use switchboard_kafka::GroupProtocol;

use super::Cli;
use crate::config::{ConfigError, LogFormat, nearest, renamed};

/// The settings of all commands that use a cluster.
#[derive(Debug, Args)]
pub struct SettingsArgs {
    /// The config file (TOML). Flags and environment variables override it.
    #[arg(long, short, value_name = "FILE", env = "SWITCHBOARD_CONFIG")]
    pub config: Option<PathBuf>,
    /// What overrides the config file.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Settings given as flags or in the environment.
#[derive(Debug, Default, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Overrides {
    /// The application's name: the consumer group, and the prefix of internal topics and transactional ids [default:
    /// none, required].
    #[arg(long, value_name = "NAME", env = "SWITCHBOARD_APP", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    /// The plugin (a WebAssembly component) for all tenants that no deployed release is routed to [default: none].
    #[arg(long, value_name = "FILE", env = "SWITCHBOARD_PLUGIN", help_heading = "Releases")]
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<PathBuf>,
    /// Load the plugin file again whenever it changes. For development on a single host.
    #[arg(long, env = "SWITCHBOARD_WATCH", help_heading = "Releases")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    watch: bool,
    /// What a tenant does whose release this host cannot run: keep running its last release, or stop and wait.
    #[arg(
        long,
        value_name = "POLICY",
        value_parser = one_of::<OnFailure>(&["keep", "stop"]),
        env = "SWITCHBOARD_ON_RELEASE_FAILURE",
        help_heading = "Releases"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    on_release_failure: Option<OnFailure>,
    /// The brokers to connect to first: HOST:PORT,HOST:PORT [default: none, required].
    #[arg(long, value_name = "LIST", env = "BOOTSTRAP_SERVERS", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap_servers: Option<String>,
    /// The stable name of this process instance, unique in the application. With it a restart resumes within a second
    /// [default: the host name and a free slot number].
    #[arg(long, value_name = "ID", env = "SWITCHBOARD_INSTANCE", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// The directory for checkpoints of state and for compiled plugins. It is a cache and may be deleted. Without it a
    /// start restores all state from Kafka [default: none].
    #[arg(long, value_name = "DIR", env = "SWITCHBOARD_STATE_DIR", help_heading = "Host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    state_dir: Option<PathBuf>,
    /// The number of threads that run plugins; 0: one per core.
    #[arg(long, value_name = "N", env = "SWITCHBOARD_THREADS", help_heading = "Host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    /// How many members of the consumer group the process is. Each has Kafka clients and a thread of its own. More than
    /// one helps where a single one cannot keep all `--threads` busy, on machines with many cores.
    #[arg(long, value_name = "N", env = "SWITCHBOARD_MEMBERS", help_heading = "Host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<usize>,
    /// The number of shards (partitions of the repartition topic). It cannot change once that topic exists [default: the
    /// largest number of partitions of a consumed topic].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_SHARDS", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<u32>,
    /// The replication factor of internal topics that are created [default: the brokers' default].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_REPLICATION_FACTOR", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    replication_factor: Option<u16>,
    /// The consumer group protocol. With `consumer` (KIP-848) the brokers' settings decide how long a rebalance and the
    /// recovery from a killed host take.
    #[arg(long, value_name = "NAME", env = "SWITCHBOARD_GROUP_PROTOCOL", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    group_protocol: Option<GroupProtocol>,
    /// After how long without a heartbeat the group removes a member. Classic protocol only.
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_SESSION_TIMEOUT_MS", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    session_timeout_ms: Option<u32>,
    /// Where a source partition without a committed offset is read from.
    #[arg(
        long,
        value_name = "POSITION",
        value_parser = one_of::<StartFrom>(&["earliest", "latest"]),
        env = "SWITCHBOARD_START_FROM",
        help_heading = "Kafka"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    start_from: Option<StartFrom>,
    /// How often processed records are deleted from the repartition topic.
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_PURGE_INTERVAL_MS", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    purge_interval_ms: Option<u64>,
    /// How often the committed offset of a source partition without new records is committed again, so that the brokers
    /// do not forget it.
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_OFFSET_RENEWAL_MS", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    offset_renewal_ms: Option<u64>,
    /// A property of librdkafka; repeatable [env: SWITCHBOARD_KAFKA_NAME].
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    kafka: Vec<(String, String)>,
    /// The name of a topic; repeatable [default: the alias] [env: the alias].
    #[arg(long, value_name = "ALIAS=NAME", value_parser = pair, help_heading = "Kafka")]
    #[serde(rename = "topics", skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    topic: Vec<(String, String)>,

    /// A header that is part of the tenant id, and its type: uuid, text, u8, u16, u32 or u64. Repeatable; the order
    /// counts.
    #[arg(
        long,
        value_name = "NAME=TYPE",
        value_parser = tenant_header,
        env = "SWITCHBOARD_TENANT_HEADERS",
        value_delimiter = ',',
        help_heading = "Messages"
    )]
    #[serde(rename = "tenant-headers", skip_serializing_if = "Vec::is_empty")]
    tenant_header: Vec<TenantHeader>,
    /// A header that is copied from a message to all its outputs, unless it is empty; repeatable.
    #[arg(
        long,
        value_name = "NAME",
        env = "SWITCHBOARD_CARRY_HEADERS",
        value_delimiter = ',',
        help_heading = "Messages"
    )]
    #[serde(rename = "carry-headers", skip_serializing_if = "Vec::is_empty")]
    carry_header: Vec<String>,
    /// An alias that plugins may produce to; a plugin whose manifest lists another one is refused. Repeatable [default:
    /// all aliases that the manifest lists].
    #[arg(
        long,
        value_name = "ALIAS",
        env = "SWITCHBOARD_ALLOW_TOPICS",
        value_delimiter = ',',
        help_heading = "Releases"
    )]
    #[serde(rename = "allow-topics", skip_serializing_if = "Vec::is_empty")]
    allow_topic: Vec<String>,
    /// A minisign public key, or the path of a .pub file. Only plugins that a trusted key has signed may run.
    /// Repeatable [default: none, every plugin may run].
    #[arg(
        long,
        value_name = "KEY",
        env = "SWITCHBOARD_TRUSTED_KEYS",
        value_delimiter = ',',
        help_heading = "Releases"
    )]
    #[serde(rename = "trusted-keys", skip_serializing_if = "Vec::is_empty")]
    trusted_key: Vec<String>,

    /// A lookup source: its URL template with {base} and {key}. {base} is the variable SOURCE_SERVICE_URL, else
    /// BASE_SERVICE_URL. Repeatable.
    #[arg(long, value_name = "SOURCE=URL", value_parser = pair, help_heading = "Lookups")]
    #[serde(rename = "lookups", skip_serializing_if = "Vec::is_empty", serialize_with = "as_urls")]
    lookup: Vec<(String, String)>,
    /// How long a message may wait for all its lookups.
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_LOOKUP_TIMEOUT_MS", help_heading = "Lookups")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lookup_timeout_ms: Option<u64>,
    /// The size of the cache of lookup answers.
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_LOOKUP_CACHE_BYTES", help_heading = "Lookups")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lookup_cache_bytes: Option<u64>,

    /// A transaction ends when it has this many records.
    #[arg(long, value_name = "N", env = "SWITCHBOARD_BATCH_RECORDS", help_heading = "Transactions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_records: Option<usize>,
    /// A transaction ends when its records have this many bytes.
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_BATCH_BYTES", help_heading = "Transactions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_bytes: Option<usize>,
    /// A transaction ends when it has taken records for this long.
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_BATCH_TIME_MS", help_heading = "Transactions")]
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_time_ms: Option<u64>,

    /// Wasmtime's fuel for one message.
    #[arg(long, value_name = "N", env = "SWITCHBOARD_MAX_FUEL", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_fuel: Option<u64>,
    /// CPU time for one message.
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_MAX_CPU_TIME_MS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_cpu_time_ms: Option<u64>,
    /// Wasmtime's fuel for the migration of one tenant's state.
    #[arg(long, value_name = "N", env = "SWITCHBOARD_MAX_MIGRATION_FUEL", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_migration_fuel: Option<u64>,
    /// CPU time for the migration of one tenant's state.
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_MAX_MIGRATION_CPU_TIME_MS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_migration_cpu_time_ms: Option<u64>,
    /// Memory of one wasm instance.
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_MEMORY_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_memory_bytes: Option<usize>,
    /// Warm wasm instances of one member (see `--members`). The least recently used ones are dropped.
    #[arg(long, value_name = "N", env = "SWITCHBOARD_WARM_INSTANCES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    warm_instances: Option<usize>,
    /// By how much the memory of one member's warm wasm instances may grow in total.
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_WARM_MEMORY_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    warm_memory_bytes: Option<u64>,
    /// Log lines per second of one tenant's plugin. Further lines are dropped.
    #[arg(long, value_name = "N", env = "SWITCHBOARD_PLUGIN_LOG_LINES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin_log_lines: Option<u32>,
    /// Lookups of one message.
    #[arg(long, value_name = "N", env = "SWITCHBOARD_MAX_LOOKUPS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_lookups: Option<usize>,
    /// Outputs of one message.
    #[arg(long, value_name = "N", env = "SWITCHBOARD_MAX_OUTPUTS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_outputs: Option<usize>,
    /// Total size of one message's outputs.
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_OUTPUT_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_bytes: Option<usize>,
    /// Size of the key of an output or of a state entry.
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_KEY_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_key_bytes: Option<usize>,
    /// Size of the value of an output or of a state entry.
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_VALUE_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_value_bytes: Option<usize>,
    /// Size of one tenant's state.
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_STATE_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_state_bytes: Option<u64>,
    /// Size of a plugin's artifact.
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_ARTIFACT_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_artifact_bytes: Option<u64>,

    /// The format of log lines.
    #[arg(long, value_name = "FORMAT", env = "SWITCHBOARD_LOG_FORMAT", help_heading = "Host")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
}

/// The prefix of the environment variables of settings.
const VARIABLE_PREFIX: &str = "SWITCHBOARD_";
/// The prefix of the environment variables of librdkafka's properties.
const PROPERTY_PREFIX: &str = "SWITCHBOARD_KAFKA_";

impl Overrides {
    /// Adds librdkafka's properties from the environment: `SWITCHBOARD_KAFKA_SASL_PASSWORD` is `sasl.password`. A flag
    /// overrides them.
    #[must_use]
    pub fn with_kafka_from(mut self, environment: impl Iterator<Item = (String, String)>) -> Self {
        let property = |name: &str| Some(name.strip_prefix(PROPERTY_PREFIX)?.to_lowercase().replace('_', "."));
        let from_environment = environment.filter_map(|(name, value)| Some((property(&name)?, value)));
        let from_flags = std::mem::take(&mut self.kafka);
        self.kafka = from_environment.chain(from_flags).collect();
        self
    }
}

/// An environment variable with Switchboard's prefix that no setting has.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownVariable {
    pub name: String,
    /// The most similar variable of a setting.
    pub nearest: String,
}

/// Looks for variables that are not settings. An unknown one may belong to another program, so it is only reported.
///
/// # Errors
/// When a variable has been renamed.
pub fn check_environment(names: impl Iterator<Item = String>) -> Result<Vec<UnknownVariable>, ConfigError> {
    let command = Cli::command();
    let arguments = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let known: BTreeSet<_> = arguments.filter_map(|arg| arg.get_env()?.to_str()).collect();
    let mut unknown = Vec::new();
    for name in names {
        if let Some(new) = renamed::new_variable(&name) {
            return Err(ConfigError::Renamed(format!("the environment variable {name}"), new));
        }
        let is_ours = name.starts_with(VARIABLE_PREFIX) && !name.starts_with(PROPERTY_PREFIX);
        if is_ours && !known.contains(name.as_str()) {
            let nearest = nearest(&name, known.iter().copied()).unwrap_or_default().to_owned();
            unknown.push(UnknownVariable { name, nearest });
        }
    }
    Ok(unknown)
}

/// The default of the setting that a flag stands for, from `Settings::default`. `None`: it is no setting, or its help
/// text describes the default.
pub(super) fn default_of(flag: &str, defaults: &Value) -> Option<String> {
    match defaults.get(key_of(flag, defaults)?)? {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

/// The key of the setting that a flag stands for: a list's flag is its singular.
pub fn key_of(flag: &str, settings: &Value) -> Option<String> {
    [flag.to_owned(), format!("{flag}s")].into_iter().find(|key| settings.get(key).is_some())
}

/// Parses the names that the config file has for the values of an enum.
fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names)
        .try_map(|name| T::deserialize(IntoDeserializer::<ValueError>::into_deserializer(name)))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "write it as NAME=VALUE".into())
}

fn tenant_header(text: &str) -> Result<TenantHeader, String> {
    let (name, kind) = pair(text)?;
    let kind = HeaderKind::deserialize(IntoDeserializer::<ValueError>::into_deserializer(kind));
    kind.map(|kind| TenantHeader { name, kind }).map_err(|error| error.to_string())
}

fn as_map<S: serde::Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    // The last value of a name counts.
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)).collect::<BTreeMap<_, _>>())
}

fn as_urls<S: serde::Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, url)| (name, BTreeMap::from([("url", url)]))))
}
