//! The command line: what can be asked, and how settings are given as flags and in the environment.

mod releases;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use switchboard_core::record::{HeaderKind, TenantHeader};

use crate::config::{LogFormat, OnFailureSetting, StartFromSetting};
use switchboard_kafka::GroupProtocol;

pub use releases::{
    Assignment, DeployArgs, PruneArgs, ReleaseCommand, ReleasesArgs, RollbackArgs, RouteCommand, Scopes,
};

/// A Kafka runtime for WebAssembly plugins: exactly-once, many tenants in one process.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    max_term_width = 120,
    after_help = "Example:
  BOOTSTRAP_SERVERS=localhost:9092 switchboard run --config messenger.toml --plugin messenger.wasm"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Consume, hand each message to the plugin, and commit what it returns.
    #[command(after_help = "Examples:
  BOOTSTRAP_SERVERS=localhost:9092 switchboard run --config messenger.toml --plugin messenger.wasm
  switchboard run --bootstrap-servers b1:9092,b2:9092 --app relay --plugin relay.wasm --tenant-header TENANT=text
  switchboard run --config messenger.toml --plugin messenger.wasm --kafka security.protocol=SASL_SSL \\
      --kafka sasl.mechanisms=SCRAM-SHA-512 --kafka sasl.username=u --kafka sasl.password=p

Topics: an environment variable named after an alias (COMMAND_TOPIC_MESSENGER) gives the broker's name of that topic;
else --topic ALIAS=NAME or the config file, else the alias itself. librdkafka's properties: --kafka sasl.password=p, or
SWITCHBOARD_KAFKA_SASL_PASSWORD=p in the environment, where `ps` does not show it. Log level: RUST_LOG (default info).")]
    Run(Box<RunArgs>),

    /// Look at a cluster with the settings of `run`, and tell what does not fit and what to do.
    #[command(after_help = "Example:
  BOOTSTRAP_SERVERS=localhost:9092 switchboard doctor --config messenger.toml --plugin messenger.wasm

Nothing is created or changed. Consumed and produced topics are those of the plugin and of what is deployed. The exit status is 1 when
there is a problem; warnings leave it at 0.")]
    Doctor {
        #[command(flatten)]
        args: Box<RunArgs>,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },

    /// Have tenants run a plugin's artifact, on all hosts, without a restart.
    #[command(after_help = "Examples:
  switchboard deploy messenger.wasm --config messenger.toml --wait=30
  switchboard deploy messenger.wasm --config messenger.toml --percent 5
  switchboard deploy messenger.wasm --config messenger.toml --tenant 083839c6-c47c-42a6-9585-76492795d123/GMS/83/1 --note 'try it'

The artifact is loaded and checked first, by the settings of `run`. Without --tenant and --percent it is for all tenants that no other
route is for. When it fails too often (--gate) a host sends its tenants back. The exit status is 1 when nothing was deployed; with
--wait also when trouble is seen: a host cannot run it, a tenant stays on what it ran or waits, a message fails (more than invalid), it is
rolled back, another change replaces it, no host lives, or not all hosts go by it in time. The release stays deployed.")]
    Deploy(Box<DeployArgs>),

    /// List releases and hosts, or what was done to them.
    #[command(after_help = "Examples:
  switchboard releases --config messenger.toml
  switchboard releases --config messenger.toml --history --json")]
    Releases(Box<ReleasesArgs>),

    /// Show or change which release tenants run.
    #[command(subcommand)]
    Route(RouteCommand),

    /// Undo the last deployment or change of routes that is not undone yet.
    #[command(after_help = "Examples:
  switchboard rollback --config messenger.toml --note 'too slow'
  switchboard rollback --config messenger.toml --tenant 083839c6-c47c-42a6-9585-76492795d123/GMS/83/1

Each route that the change touched becomes what it was before, if it is still what the change made it. With --tenant only the routes of
these tenants, each by its own last change.")]
    Rollback(Box<RollbackArgs>),

    /// Remove releases that are of no more use.
    #[command(subcommand)]
    Release(ReleaseCommand),

    /// Play a scripted demo on an embedded broker, then take typed messages.
    #[command(after_help = "Examples:
  switchboard demo messenger.wasm plugin/messenger/demo.toml
  switchboard demo messenger.wasm demo.toml --release messenger-0.2.wasm --script evening.txt")]
    Demo {
        /// The plugin's component.
        plugin: PathBuf,
        /// Tenants, words and script of the demo.
        demo: PathBuf,
        /// A further release of the plugin, to which the word `swap` changes a tenant; repeatable.
        #[arg(long, value_name = "FILE")]
        release: Vec<PathBuf>,
        /// Play this file's lines instead of the demo's own script, then end.
        #[arg(long, value_name = "FILE")]
        script: Option<PathBuf>,
    },

    /// Show what a plugin is: manifest, imports, size, digest.
    #[command(after_help = "Example:
  switchboard inspect target/wasm32-wasip2/release/messenger.wasm")]
    Inspect {
        /// The plugin's component.
        plugin: PathBuf,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },

    /// Run test vectors on a plugin's component in the sandbox, with real state and no broker.
    #[command(after_help = "Example:
  switchboard test target/wasm32-wasip2/release/messenger.wasm tests/vectors/messenger.json

Each failing step is shown as a diff. The last line is `N passed, M failed` (steps); the exit status is 1 when M > 0.")]
    Test {
        /// The plugin's component.
        plugin: PathBuf,
        /// Files of test vectors.
        #[arg(required = true)]
        vectors: Vec<PathBuf>,
        /// A header that a newer release adds to its outputs, and that the vectors do not know; repeatable.
        #[arg(long, value_name = "NAME")]
        ignore_header: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// Settings, as TOML. Flags and environment come before it.
    #[arg(long, short, value_name = "FILE", env = "SWITCHBOARD_CONFIG")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Settings given as flags or in the environment.
#[derive(Debug, Default, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Overrides {
    /// The application's name: consumer group, prefix of internal topics and transactional ids.
    #[arg(long, env = "SWITCHBOARD_APP", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    /// A plugin's component, for all tenants that no deployed release is routed to [default: none].
    #[arg(long, value_name = "FILE", env = "SWITCHBOARD_PLUGIN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<PathBuf>,
    /// Load the plugin anew whenever its file changes: for development, on a single host.
    #[arg(long, env = "SWITCHBOARD_WATCH")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    watch: bool,
    /// What tenants do whose release this host cannot run: keep the one that they ran last, or stop and wait [default: keep].
    #[arg(long, value_name = "HOW", env = "SWITCHBOARD_ON_FAILURE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    on_failure: Option<OnFailureSetting>,
    /// The brokers: HOST:PORT,HOST:PORT.
    #[arg(long, value_name = "LIST", env = "BOOTSTRAP_SERVERS", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap_servers: Option<String>,
    /// A stable name of this process, its own: a restart under it goes on within a second. Default: host name and a
    /// free slot number.
    #[arg(long, value_name = "ID", env = "SWITCHBOARD_INSTANCE", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// A directory for checkpoints of state, so that a start reads from Kafka only what came since, and for compiled
    /// plugins; a cache, which may be deleted [default: none, all state is read].
    #[arg(long, value_name = "DIR", env = "SWITCHBOARD_STATE_DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    state_dir: Option<PathBuf>,
    /// Threads that consume; 0: one a core [default: 0].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_WORKERS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<usize>,
    /// Partitions of the repartition topic; fixed once the application has started for the first time [default: 16].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_SHARDS", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<u32>,
    /// Replicas of internal topics [default: the brokers' default].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_REPLICATION_FACTOR", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    replication_factor: Option<u16>,
    /// How workers become members of the group: classic, or consumer (KIP-848, where hand-overs take the broker's
    /// heartbeat interval and a killed member's recovery its session time-out) [default: classic].
    #[arg(long, value_name = "NAME", env = "SWITCHBOARD_GROUP_PROTOCOL", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    group_protocol: Option<GroupProtocol>,
    /// When a silent member is given up, in the classic protocol [default: 10000].
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_SESSION_TIMEOUT_MS", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    session_timeout_ms: Option<u32>,
    /// Where a source partition without a committed offset is read from [default: earliest].
    #[arg(long, value_name = "PLACE", env = "SWITCHBOARD_START_FROM", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    start_from: Option<StartFromSetting>,
    /// How often processed records are deleted from the repartition topic [default: 30000].
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_PURGE_INTERVAL_MS", help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Option::is_none")]
    purge_interval_ms: Option<u64>,
    /// A librdkafka property, passed through; repeatable [env: SWITCHBOARD_KAFKA_...].
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, help_heading = "Kafka")]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    kafka: Vec<(String, String)>,
    /// The broker's name of a topic; repeatable.
    #[arg(long, value_name = "ALIAS=NAME", value_parser = pair, help_heading = "Kafka")]
    #[serde(rename = "topics", skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    topic: Vec<(String, String)>,

    /// A header that makes the tenant: uuid, text, u8, u16, u32, u64 (big-endian); repeatable, in order.
    #[arg(long, value_name = "NAME=TYPE", value_parser = tenant_header, env = "SWITCHBOARD_TENANT_HEADERS", value_delimiter = ',', help_heading = "Messages")]
    #[serde(rename = "tenant-headers", skip_serializing_if = "Vec::is_empty")]
    tenant_header: Vec<TenantHeader>,
    /// A header copied to every output when present and not empty; repeatable.
    #[arg(
        long,
        value_name = "NAME",
        env = "SWITCHBOARD_CARRY_HEADERS",
        value_delimiter = ',',
        help_heading = "Messages"
    )]
    #[serde(rename = "carry-headers", skip_serializing_if = "Vec::is_empty")]
    carry_header: Vec<String>,
    /// An alias that plugins may produce to, one that wants another is refused; repeatable [default: all that its manifest
    /// lists].
    #[arg(
        long,
        value_name = "ALIAS",
        env = "SWITCHBOARD_ALLOW_TOPICS",
        value_delimiter = ',',
        help_heading = "Messages"
    )]
    #[serde(rename = "allow-topics", skip_serializing_if = "Vec::is_empty")]
    allow_topic: Vec<String>,
    /// A minisign public key, or its .pub file: only plugins that one of these has signed run; repeatable [default: all
    /// run].
    #[arg(long, value_name = "KEY", env = "SWITCHBOARD_TRUSTED_KEYS", value_delimiter = ',')]
    #[serde(rename = "trusted-keys", skip_serializing_if = "Vec::is_empty")]
    trusted_key: Vec<String>,

    /// A lookup source's URL template, with {base} and {key}; repeatable. {base} comes from <SOURCE>_SERVICE_URL, else from
    /// BASE_SERVICE_URL.
    #[arg(long, value_name = "SOURCE=URL", value_parser = pair, help_heading = "Lookups")]
    #[serde(rename = "lookups", skip_serializing_if = "Vec::is_empty", serialize_with = "as_urls")]
    lookup: Vec<(String, String)>,
    /// How long a message may wait for its lookups in all [default: 5000].
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_LOOKUP_TIME_MS", help_heading = "Lookups")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lookup_time_ms: Option<u64>,
    /// Answers remembered, in bytes [default: 67108864].
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_LOOKUP_CACHE_BYTES", help_heading = "Lookups")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lookup_cache_bytes: Option<u64>,

    /// Records of a transaction [default: 5000].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_BATCH_RECORDS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_records: Option<usize>,
    /// Bytes of the records of a transaction [default: 16777216].
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_BATCH_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_bytes: Option<usize>,
    /// Time that a transaction takes records in [default: 100].
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_BATCH_TIME_MS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_time_ms: Option<u64>,
    /// Wasmtime's fuel of a message [default: 200000000].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_FUEL", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel: Option<u64>,
    /// CPU time of a message [default: 1000].
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_CPU_TIME_MS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_time_ms: Option<u64>,
    /// Wasmtime's fuel of a migration of a tenant's state [default: 2000000000].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_MIGRATION_FUEL", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    migration_fuel: Option<u64>,
    /// CPU time of a migration of a tenant's state [default: 5000].
    #[arg(long, value_name = "MS", env = "SWITCHBOARD_MIGRATION_CPU_TIME_MS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    migration_cpu_time_ms: Option<u64>,
    /// Memory of an instance [default: 67108864].
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MEMORY_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<usize>,
    /// Warm instances of a worker; the least recently used ones are dropped [default: 2000].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_WARM_INSTANCES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    warm_instances: Option<usize>,
    /// By how much the memories of a worker's warm instances may grow in all [default: 1073741824].
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_WARM_MEMORY_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    warm_memory_bytes: Option<u64>,
    /// Log lines of a tenant's plugin a second [default: 100].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_LOG_LINES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_lines: Option<u32>,
    /// Lookups of a message [default: 100].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_MAX_LOOKUPS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_lookups: Option<usize>,
    /// Outputs of a message [default: 1000].
    #[arg(long, value_name = "N", env = "SWITCHBOARD_MAX_OUTPUTS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_outputs: Option<usize>,
    /// Bytes of a message's outputs in all [default: 4194304].
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_OUTPUT_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_bytes: Option<usize>,
    /// An output's or state entry's key [default: 512].
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_KEY_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_key_bytes: Option<usize>,
    /// An output's or state entry's value [default: 1048576].
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_VALUE_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_value_bytes: Option<usize>,
    /// A tenant's state [default: 67108864].
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_STATE_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_state_bytes: Option<u64>,
    /// A plugin's artifact [default: 16777216].
    #[arg(long, value_name = "BYTES", env = "SWITCHBOARD_MAX_ARTIFACT_BYTES", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_artifact_bytes: Option<u64>,

    /// How log lines are written [default: text].
    #[arg(long, value_name = "FORMAT", env = "SWITCHBOARD_LOG_FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
}

impl Overrides {
    /// Adds librdkafka's properties from the environment, below those given as flags: SWITCHBOARD_KAFKA_SASL_PASSWORD is
    /// sasl.password.
    #[must_use]
    pub fn with_kafka_from(mut self, environment: impl Iterator<Item = (String, String)>) -> Self {
        let property = |name: &str| Some(name.strip_prefix("SWITCHBOARD_KAFKA_")?.to_lowercase().replace('_', "."));
        let found = environment.filter_map(|(name, value)| Some((property(&name)?, value)));
        let given = std::mem::take(&mut self.kafka);
        self.kafka = found.chain(given).collect();
        self
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "write it as NAME=VALUE".into())
}

fn tenant_header(text: &str) -> Result<TenantHeader, String> {
    use serde::de::value::{Error, StrDeserializer};
    let (name, kind) = pair(text)?;
    let kind = <HeaderKind as serde::Deserialize>::deserialize(StrDeserializer::<Error>::new(&kind));
    kind.map(|kind| TenantHeader { name, kind }).map_err(|error| error.to_string())
}

fn as_map<S: serde::Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    // The last of a name counts.
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)).collect::<BTreeMap<_, _>>())
}

fn as_urls<S: serde::Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, url)| (name, BTreeMap::from([("url", url)]))))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::Settings;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_its_flag() {
        let flags: Vec<String> = Cli::command()
            .find_subcommand("run")
            .unwrap()
            .get_arguments()
            .filter_map(|arg| arg.get_long().map(str::to_owned))
            .collect();
        let settings = serde_json::to_value(Settings::default()).unwrap();
        for name in settings.as_object().unwrap().keys() {
            // A list's flag adds one entry: --topic for topics.
            let singular = name.strip_suffix('s').unwrap_or(name);
            assert!(flags.iter().any(|flag| flag == name || flag == singular), "--{name} is missing");
        }
    }

    #[test]
    fn properties_come_from_the_environment_below_flags() {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = [
            variable("SWITCHBOARD_KAFKA_SASL_PASSWORD", "secret"),
            variable("SWITCHBOARD_KAFKA_LINGER_MS", "1"),
            variable("SWITCHBOARD_APP", "a"),
        ];
        let cli = Cli::parse_from(["switchboard", "run", "--kafka", "linger.ms=2"]);
        let Command::Run(args) = cli.command else { panic!("not run") };
        let overrides = args.overrides.with_kafka_from(environment.into_iter());
        let settings = Settings::load(None, &overrides).unwrap();
        let expected = [variable("linger.ms", "2"), variable("sasl.password", "secret")];
        assert_eq!(settings.kafka, expected.into());
    }

    #[test]
    fn flags_reach_the_settings() {
        let cli = Cli::parse_from([
            "switchboard",
            "run",
            "--app",
            "a",
            "--topic",
            "T=t",
            "--tenant-header",
            "H=u16",
            "--lookup",
            "s=http://x/{key}",
            "--kafka",
            "linger.ms=1",
            "--start-from",
            "latest",
            "--group-protocol",
            "classic",
        ]);
        let Command::Run(args) = cli.command else { panic!("not run") };
        let settings = Settings::load(None, &args.overrides).unwrap();
        assert_eq!((settings.app.as_str(), settings.topics["T"].as_str()), ("a", "t"));
        assert_eq!(settings.tenant_headers, [TenantHeader { name: "H".into(), kind: HeaderKind::U16 }]);
        assert_eq!(settings.lookups["s"].url, "http://x/{key}");
        assert_eq!(settings.kafka["linger.ms"], "1");
        assert_eq!(settings.start_from, StartFromSetting::Latest);
        assert_eq!(settings.group_protocol, GroupProtocol::Classic);
    }
}
