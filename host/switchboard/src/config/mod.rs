//! The settings of a host, and where their values come from: a flag overrides an environment variable, which overrides
//! the config file, which overrides the default.
//!
//! Each fact about a setting has one place. `Settings` has its key and type, `Settings::default` its default, and the
//! flag (`cli::settings`) its environment variable, unit and meaning. `--help` and the configuration reference are
//! generated from them.

mod nested;
pub mod renamed;

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
use switchboard_kafka::{GroupProtocol, TopicSettings};
use switchboard_lookup::SourceOptions;

pub use nested::{NESTED_KEYS, NestedKey};

/// All settings, by their keys in the config file. Each has a flag of the same name; the flag of a list adds one entry
/// and has a singular name. The flags' help texts (`cli::settings`) say what each setting means.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    pub app: String,
    /// Empty: no plugin is configured.
    pub plugin: PathBuf,
    pub watch: bool,
    pub on_release_failure: OnFailure,
    pub bootstrap_servers: String,
    pub instance: Option<String>,
    pub state_dir: Option<PathBuf>,
    /// How many members of the group the process is.
    pub members: usize,
    /// 0: one per core.
    pub threads: usize,
    /// `None`: as many as the repartition topic has partitions, or gets by the consumed topics.
    pub shards: Option<u32>,
    pub replication_factor: Option<u16>,
    pub group_protocol: GroupProtocol,
    pub session_timeout_ms: u32,
    pub start_from: StartFrom,
    pub purge_interval_ms: u64,
    pub offset_renewal_ms: u64,
    pub batch_records: usize,
    pub batch_bytes: usize,
    pub batch_time_ms: u64,

    pub tenant_headers: Vec<TenantHeader>,
    pub carry_headers: Vec<String>,
    /// Alias -> topic name. An environment variable with the alias's name overrides it.
    pub topics: BTreeMap<String, String>,
    /// `None`: a plugin may produce to every alias that its manifest lists.
    pub allow_topics: Option<Vec<String>>,
    /// Empty: every plugin runs.
    pub trusted_keys: Vec<String>,

    pub lookups: BTreeMap<String, SourceOptions>,
    pub lookup_timeout_ms: u64,
    pub lookup_cache_bytes: u64,

    pub max_fuel: u64,
    pub max_cpu_time_ms: u64,
    pub max_migration_fuel: u64,
    pub max_migration_cpu_time_ms: u64,
    pub max_memory_bytes: usize,
    pub warm_instances: usize,
    pub warm_memory_bytes: u64,
    pub plugin_log_lines: u32,
    pub max_lookups: usize,
    pub max_outputs: usize,
    pub max_output_bytes: usize,
    pub max_key_bytes: usize,
    pub max_value_bytes: usize,
    pub max_state_bytes: u64,
    pub max_artifact_bytes: u64,

    pub log_format: LogFormat,
    /// librdkafka's properties.
    pub kafka: BTreeMap<String, String>,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        let (batch, outputs, state) = (BatchLimits::default(), OutputLimits::default(), StateLimits::default());
        Self {
            app: String::new(),
            plugin: PathBuf::new(),
            watch: false,
            on_release_failure: OnFailure::Keep,
            bootstrap_servers: String::new(),
            instance: None,
            state_dir: None,
            members: 1,
            threads: 0,
            shards: None,
            replication_factor: None,
            group_protocol: GroupProtocol::Classic,
            session_timeout_ms: 10_000,
            start_from: StartFrom::Earliest,
            purge_interval_ms: 30_000,
            offset_renewal_ms: 3_600_000,
            batch_records: batch.records,
            batch_bytes: batch.bytes,
            batch_time_ms: u64::try_from(batch.time.as_millis()).unwrap_or(u64::MAX),
            tenant_headers: Vec::new(),
            carry_headers: Vec::new(),
            topics: BTreeMap::new(),
            allow_topics: None,
            trusted_keys: Vec::new(),
            lookups: BTreeMap::new(),
            lookup_timeout_ms: 5000,
            lookup_cache_bytes: 64 << 20,
            max_fuel: 200_000_000,
            max_cpu_time_ms: 1000,
            max_migration_fuel: 2_000_000_000,
            max_migration_cpu_time_ms: 5000,
            max_memory_bytes: 64 << 20,
            warm_instances: 2000,
            warm_memory_bytes: 1 << 30,
            plugin_log_lines: 100,
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

/// Why the settings cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the config file {0} cannot be read: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("{file}: unknown key {key:?}{hint}")]
    UnknownKey { file: String, key: String, hint: String },
    #[error("{0} is now {1}")]
    Renamed(String, String),
    #[error("{file}: {problem}")]
    Invalid { file: String, problem: String },
    #[error("{0} is not set: give {1}")]
    Missing(&'static str, &'static str),
    #[error("{name} = {value:?}: {problem}")]
    Value { name: &'static str, value: String, problem: &'static str },
}

impl Settings {
    /// Merges the layers: the defaults, the config file, then the environment and flags (`overrides`).
    ///
    /// # Errors
    /// When the file is missing or malformed, or has an unknown or renamed key.
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

    /// Checks what the types do not.
    ///
    /// # Errors
    /// The first setting that is missing or out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_app()?;
        if self.bootstrap_servers.is_empty() {
            return Err(ConfigError::Missing(
                "the brokers' address",
                "BOOTSTRAP_SERVERS, or --bootstrap-servers HOST:PORT",
            ));
        }
        if self.watch && !self.has_plugin() {
            let problem = "no plugin file is configured that could be watched: give --plugin FILE";
            return Err(ConfigError::Value { name: "watch", value: "true".into(), problem });
        }
        let at_least_one = [
            ("members", self.members as u64),
            ("shards", self.shards.map_or(1, u64::from)),
            ("purge-interval-ms", self.purge_interval_ms),
            ("offset-renewal-ms", self.offset_renewal_ms),
            ("batch-records", self.batch_records as u64),
            ("batch-bytes", self.batch_bytes as u64),
            ("batch-time-ms", self.batch_time_ms),
            ("session-timeout-ms", u64::from(self.session_timeout_ms)),
            ("max-fuel", self.max_fuel),
            ("max-cpu-time-ms", self.max_cpu_time_ms),
            ("max-migration-fuel", self.max_migration_fuel),
            ("max-migration-cpu-time-ms", self.max_migration_cpu_time_ms),
            ("max-memory-bytes", self.max_memory_bytes as u64),
            ("warm-instances", self.warm_instances as u64),
        ];
        for (name, value) in at_least_one {
            if value == 0 {
                return Err(ConfigError::Value { name, value: "0".into(), problem: "must be at least 1" });
            }
        }
        Ok(())
    }

    fn check_app(&self) -> Result<(), ConfigError> {
        let refuse = |problem| Err(ConfigError::Value { name: "app", value: self.app.clone(), problem });
        if self.app.is_empty() {
            return Err(ConfigError::Missing(
                "the application's name",
                "--app NAME, or app = \"NAME\" in the config file",
            ));
        }
        let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !self.app.chars().all(is_legal) || self.app.len() > 200 {
            return refuse(
                "topics are named after it: it may have only letters, digits, '.', '_' and '-', at most 200",
            );
        }
        // The topics of `chat-switchboard` would start with `chat-switchboard-`, which is the prefix of the ACLs of
        // `chat`.
        if self.app.ends_with("-switchboard") || self.app.contains("-switchboard-") {
            return refuse(
                "it must not end in \"-switchboard\" or contain \"-switchboard-\": a prefixed ACL of another application could \
                 cover its internal topics. Choose another name",
            );
        }
        Ok(())
    }

    /// The settings of internal topics.
    pub fn topic_settings(&self) -> TopicSettings {
        TopicSettings { shards: self.shards, replication_factor: self.replication_factor }
    }

    /// Whether a plugin file is configured.
    pub fn has_plugin(&self) -> bool {
        !self.plugin.as_os_str().is_empty()
    }

    /// When a transaction ends.
    pub fn batch(&self) -> BatchLimits {
        BatchLimits {
            records: self.batch_records,
            bytes: self.batch_bytes,
            time: Duration::from_millis(self.batch_time_ms),
        }
    }

    /// The limits of a message's outputs.
    pub fn output_limits(&self) -> OutputLimits {
        OutputLimits {
            outputs: self.max_outputs,
            bytes: self.max_output_bytes,
            key: self.max_key_bytes,
            value: self.max_value_bytes,
        }
    }

    /// The limits of a tenant's state.
    pub fn state_limits(&self) -> StateLimits {
        StateLimits { key: self.max_key_bytes, value: self.max_value_bytes, tenant: self.max_state_bytes }
    }
}

/// Parses a TOML file of another kind, with the same error messages.
///
/// # Errors
/// When the text is malformed or has an unknown key.
pub fn parse_toml<T: serde::de::DeserializeOwned>(text: &str, file: &Path) -> Result<T, ConfigError> {
    Figment::from(Toml::string(text)).extract().map_err(|error| describe(&error, &file.display().to_string()))
}

fn describe(error: &figment::Error, file: &str) -> ConfigError {
    let place = |path: &[String]| if path.is_empty() { String::new() } else { format!(" in {}", path.join(".")) };
    match &error.kind {
        Kind::UnknownField(key, known) => {
            // The path ends with the key itself.
            let table = error.path.strip_suffix(std::slice::from_ref(key)).unwrap_or(&error.path);
            if let (Some(new), true) = (renamed::new_key(key), table.is_empty()) {
                return ConfigError::Renamed(format!("{file}: the key {key:?}"), format!("{new:?}"));
            }
            let hint = nearest(key, known.iter().copied()).map(|nearest| format!("; did you mean {nearest:?}?"));
            ConfigError::UnknownKey {
                file: format!("{file}{}", place(table)),
                key: key.clone(),
                hint: hint.unwrap_or_default(),
            }
        }
        kind => ConfigError::Invalid { file: format!("{file}{}", place(&error.path)), problem: kind.to_string() },
    }
}

/// The known name that is most similar to this one.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let similarity = |other: &str| strsim::jaro_winkler(name, other);
    known.into_iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
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
    fn flags_override_the_file_and_the_file_overrides_defaults() {
        let flags = BTreeMap::from([("shards", 4)]);
        let settings = load("shards = 8\nbatch-records = 7\n[topics]\nA = \"a\"", &flags).unwrap();
        assert_eq!((settings.shards, settings.batch_records, settings.lookup_timeout_ms), (Some(4), 7, 5000));
        assert_eq!(settings.topics["A"], "a");
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
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
    fn a_renamed_key_is_refused_with_its_new_name() {
        let none: BTreeMap<&str, u8> = BTreeMap::new();
        let error = load("on-failure = \"stop\"", &none).unwrap_err().to_string();
        assert!(error.ends_with(": the key \"on-failure\" is now \"on-release-failure\""), "{error}");
        for old in renamed::old_keys() {
            let error = load(&format!("{old} = 1"), &none).unwrap_err();
            assert!(matches!(error, ConfigError::Renamed(..)), "{error}");
        }
    }

    #[test]
    fn an_app_whose_topics_another_apps_acl_could_cover_is_refused() {
        let check =
            |app: &str| Settings { app: app.into(), bootstrap_servers: "b".into(), ..Settings::default() }.check();
        for app in ["chat-switchboard", "chat-switchboard-eu", "a-switchboard-switchboard"] {
            let error = check(app).unwrap_err().to_string();
            assert!(error.contains("prefixed ACL of another application"), "{error}");
        }
        for app in ["switchboard", "switchboard-eu", "chat-switchboards", "chat.switchboard"] {
            check(app).unwrap();
        }
    }

    #[test]
    fn a_missing_or_wrong_setting_is_refused_with_what_to_do() {
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
        settings.shards = Some(0);
        expect(&settings, "shards");
        settings.shards = None;
        settings.offset_renewal_ms = 0;
        expect(&settings, "offset-renewal-ms");
    }
}
