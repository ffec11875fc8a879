//! Settings: defaults, below the file, below environment and flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Format as _, Serialized, Toml};
use serde::{Deserialize, Serialize};
use switchboard_core::record::{OutputLimits, TenantHeader};
use switchboard_core::routing::OnFailure;
use switchboard_core::state::StateLimits;
use switchboard_core::worker::{BatchLimits, StartFrom};

use switchboard_kafka::GroupProtocol;
use switchboard_lookup::SourceOptions;

/// All that can be set, by the names that the file has for it. Each has a flag of the same name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// The application: the consumer group, and the prefix of internal topics and transactional ids.
    pub app: String,
    /// What tenants without a route run; none given: nothing.
    pub plugin: PathBuf,
    /// The plugin is loaded anew when its file changes.
    pub watch: bool,
    pub on_failure: OnFailureSetting,
    pub bootstrap_servers: String,
    /// Given: transactional ids and static membership rest on it. Else the host's name and a free slot number.
    pub instance: Option<String>,
    /// Where checkpoints and compiled plugins are kept; none given: there are none.
    pub state_dir: Option<PathBuf>,
    /// Threads that consume; 0: the number of cores.
    pub workers: usize,
    pub shards: u32,
    pub replication_factor: Option<u16>,
    pub group_protocol: GroupProtocol,
    pub session_timeout_ms: u32,
    pub start_from: StartFromSetting,
    pub purge_interval_ms: u64,
    pub batch_records: usize,
    pub batch_bytes: usize,
    pub batch_time_ms: u64,

    pub tenant_headers: Vec<TenantHeader>,
    pub carry_headers: Vec<String>,
    /// Alias -> the broker's name, where no environment variable has the alias's name.
    pub topics: BTreeMap<String, String>,
    /// Aliases that plugins may produce to, a plugin that wants another is refused; none given: all that it lists.
    pub allow_topics: Option<Vec<String>>,
    /// minisign's public keys, or paths of their files: only what one of them has signed runs; none given: everything.
    pub trusted_keys: Vec<String>,

    pub lookups: BTreeMap<String, SourceOptions>,
    pub lookup_time_ms: u64,
    pub lookup_cache_bytes: u64,

    pub fuel: u64,
    pub cpu_time_ms: u64,
    pub migration_fuel: u64,
    pub migration_cpu_time_ms: u64,
    pub memory_bytes: usize,
    pub warm_instances: usize,
    pub warm_memory_bytes: u64,
    pub log_lines: u32,
    pub max_lookups: usize,
    pub max_outputs: usize,
    pub max_output_bytes: usize,
    pub max_key_bytes: usize,
    pub max_value_bytes: usize,
    pub max_state_bytes: u64,
    pub max_artifact_bytes: u64,

    pub log_format: LogFormat,
    /// librdkafka's properties, passed through.
    pub kafka: BTreeMap<String, String>,
}

/// Where a source partition without a committed offset is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum StartFromSetting {
    Earliest,
    Latest,
}

/// What becomes of tenants whose release this host cannot run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnFailureSetting {
    Keep,
    Stop,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        let (batch, outputs, state) = (BatchLimits::default(), OutputLimits::default(), StateLimits::default());
        Self {
            app: String::new(),
            plugin: PathBuf::new(),
            watch: false,
            on_failure: OnFailureSetting::Keep,
            bootstrap_servers: String::new(),
            instance: None,
            state_dir: None,
            workers: 0,
            shards: 16,
            replication_factor: None,
            group_protocol: GroupProtocol::Classic,
            session_timeout_ms: 10_000,
            start_from: StartFromSetting::Earliest,
            purge_interval_ms: 30_000,
            batch_records: batch.records,
            batch_bytes: batch.bytes,
            batch_time_ms: u64::try_from(batch.time.as_millis()).unwrap_or(u64::MAX),
            tenant_headers: Vec::new(),
            carry_headers: Vec::new(),
            topics: BTreeMap::new(),
            allow_topics: None,
            trusted_keys: Vec::new(),
            lookups: BTreeMap::new(),
            lookup_time_ms: 5000,
            lookup_cache_bytes: 64 << 20,
            fuel: 200_000_000,
            cpu_time_ms: 1000,
            migration_fuel: 2_000_000_000,
            migration_cpu_time_ms: 5000,
            memory_bytes: 64 << 20,
            warm_instances: 2000,
            warm_memory_bytes: 1 << 30,
            log_lines: 100,
            max_lookups: 100,
            max_outputs: outputs.outputs,
            max_output_bytes: outputs.bytes,
            max_key_bytes: outputs.key,
            max_value_bytes: outputs.value,
            max_state_bytes: state.tenant,
            max_artifact_bytes: 16 << 20,
            log_format: LogFormat::Text,
            kafka: BTreeMap::new(),
        }
    }
}

/// Settings that cannot be used, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the config file {0} cannot be read: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("{file}: unknown key {key:?}{hint}")]
    UnknownKey { file: String, key: String, hint: String },
    #[error("{file}: {problem}")]
    Invalid { file: String, problem: String },
    #[error("{0} is not set: give {1}")]
    Missing(&'static str, &'static str),
    #[error("{name} = {value:?}: {problem}")]
    Value { name: &'static str, value: String, problem: &'static str },
}

impl Settings {
    /// Puts the layers together: defaults, the file, then what `overrides` (environment and flags) has.
    ///
    /// # Errors
    /// When the file is missing or malformed, has an unknown key, or a setting is out of range.
    pub fn load(file: Option<&Path>, overrides: &impl Serialize) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        let name = file.map_or_else(|| "settings".to_owned(), |file| file.display().to_string());
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).map_err(|error| ConfigError::Read(file.to_owned(), error))?;
            figment = figment.merge(Toml::string(&text));
        }
        figment = figment.merge(Serialized::defaults(overrides));
        figment.extract().map_err(|error| describe(&error, &name))
    }

    /// Checks what no type does.
    ///
    /// # Errors
    /// Names the first setting that is missing or out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.app.is_empty() {
            return Err(ConfigError::Missing(
                "the application's name",
                "--app NAME, or app = \"NAME\" in the config file",
            ));
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !self.app.chars().all(legal) || self.app.len() > 200 {
            let problem = "names topics, so it has only letters, digits, '.', '_' and '-', at most 200";
            return Err(ConfigError::Value { name: "app", value: self.app.clone(), problem });
        }
        if self.bootstrap_servers.is_empty() {
            return Err(ConfigError::Missing(
                "the brokers' address",
                "BOOTSTRAP_SERVERS, or --bootstrap-servers HOST:PORT",
            ));
        }
        if self.watch && !self.has_plugin() {
            let problem = "there is no plugin whose file could be watched: give --plugin X.wasm";
            return Err(ConfigError::Value { name: "watch", value: "true".into(), problem });
        }
        let at_least_one = [
            ("shards", u64::from(self.shards)),
            ("purge-interval-ms", self.purge_interval_ms),
            ("batch-records", self.batch_records as u64),
            ("batch-bytes", self.batch_bytes as u64),
            ("batch-time-ms", self.batch_time_ms),
            ("session-timeout-ms", u64::from(self.session_timeout_ms)),
            ("fuel", self.fuel),
            ("cpu-time-ms", self.cpu_time_ms),
            ("migration-fuel", self.migration_fuel),
            ("migration-cpu-time-ms", self.migration_cpu_time_ms),
            ("memory-bytes", self.memory_bytes as u64),
            ("warm-instances", self.warm_instances as u64),
        ];
        for (name, value) in at_least_one {
            if value == 0 {
                return Err(ConfigError::Value { name, value: "0".into(), problem: "must be at least 1" });
            }
        }
        Ok(())
    }

    pub fn has_plugin(&self) -> bool {
        !self.plugin.as_os_str().is_empty()
    }

    pub fn batch(&self) -> BatchLimits {
        BatchLimits {
            records: self.batch_records,
            bytes: self.batch_bytes,
            time: Duration::from_millis(self.batch_time_ms),
        }
    }

    pub fn output_limits(&self) -> OutputLimits {
        OutputLimits {
            outputs: self.max_outputs,
            bytes: self.max_output_bytes,
            key: self.max_key_bytes,
            value: self.max_value_bytes,
        }
    }

    pub fn state_limits(&self) -> StateLimits {
        StateLimits { key: self.max_key_bytes, value: self.max_value_bytes, tenant: self.max_state_bytes }
    }

    pub fn on_failure(&self) -> OnFailure {
        match self.on_failure {
            OnFailureSetting::Keep => OnFailure::Keep,
            OnFailureSetting::Stop => OnFailure::Stop,
        }
    }

    pub fn start_from(&self) -> StartFrom {
        match self.start_from {
            StartFromSetting::Earliest => StartFrom::Earliest,
            StartFromSetting::Latest => StartFrom::Latest,
        }
    }
}

/// Reads a TOML file of another kind with the same errors.
///
/// # Errors
/// When the text is malformed or has an unknown key.
pub fn extract<T: serde::de::DeserializeOwned>(text: &str, file: &Path) -> Result<T, ConfigError> {
    Figment::from(Toml::string(text)).extract().map_err(|error| describe(&error, &file.display().to_string()))
}

fn describe(error: &figment::Error, file: &str) -> ConfigError {
    let place = if error.path.is_empty() { String::new() } else { format!(" in {}", error.path.join(".")) };
    match &error.kind {
        Kind::UnknownField(key, known) => {
            let nearest =
                known.iter().max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)));
            let hint = nearest.map(|nearest| format!("; did you mean {nearest:?}?")).unwrap_or_default();
            ConfigError::UnknownKey { file: format!("{file}{place}"), key: key.clone(), hint }
        }
        kind => ConfigError::Invalid { file: format!("{file}{place}"), problem: kind.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, overrides: &impl Serialize) -> Result<Settings, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Settings::load(Some(file.path()), overrides)
    }

    #[test]
    fn flags_come_before_the_file_and_the_file_before_defaults() {
        let flags = BTreeMap::from([("shards", 4)]);
        let settings = load("shards = 8\nbatch-records = 7\n[topics]\nA = \"a\"", &flags).unwrap();
        assert_eq!((settings.shards, settings.batch_records, settings.lookup_time_ms), (4, 7, 5000));
        assert_eq!(settings.topics["A"], "a");
    }

    #[test]
    fn an_unknown_key_is_told_with_the_nearest_known_one() {
        let none: BTreeMap<&str, u8> = BTreeMap::new();
        let error = load("tenant-header = []", &none).unwrap_err().to_string();
        assert!(error.ends_with("unknown key \"tenant-header\"; did you mean \"tenant-headers\"?"), "{error}");
        let error = load("[lookups.x]\nurl = \"\"\nretry = 1", &none).unwrap_err().to_string();
        assert!(error.contains("lookups.x") && error.contains("\"retries\"?"), "{error}");
        let error = load("[[tenant-headers]]\nname = \"A\"\ntype = \"u15\"", &none).unwrap_err().to_string();
        assert!(error.contains("u15") && error.contains("u16"), "{error}");
    }

    #[test]
    fn the_shipped_config_is_valid() {
        let none: BTreeMap<&str, u8> = BTreeMap::new();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../messenger.toml");
        let settings = Settings::load(Some(&file), &none).unwrap();
        assert_eq!(settings.tenant_headers.len(), 4);
        assert_eq!(settings.carry_headers, ["ENVIRONMENT"]);
    }

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        let mut settings = Settings::default();
        let expect = |settings: &Settings, words: &str| {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        expect(&settings, "--app");
        settings.app = "no/slash".into();
        expect(&settings, "letters");
        settings.app = "app".into();
        expect(&settings, "BOOTSTRAP_SERVERS");
        settings.bootstrap_servers = "b".into();
        settings.check().unwrap();
        settings.watch = true;
        expect(&settings, "--plugin");
        settings.plugin = "p".into();
        settings.check().unwrap();
        settings.shards = 0;
        expect(&settings, "shards");
    }
}
