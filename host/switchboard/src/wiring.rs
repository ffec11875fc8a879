//! How the parts of a host are created from the settings. All commands that use a cluster or a plugin share these
//! functions.

use std::ffi::OsString;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use switchboard_core::record::{OutputRules, TenantSchema};
use switchboard_core::worker::WorkerConfig;
use switchboard_kafka::control_topic::ArtifactReader;
use switchboard_kafka::{ClientOptions, GroupProtocol, Topology};
use switchboard_lookup::{HttpLookups, Source};
use switchboard_releases::{Loader, TrustedKeys};
use switchboard_sandbox::{Limits, Sandbox};

use crate::cli::{SettingsArgs, UnknownVariable, check_environment};
use crate::config::Settings;
use crate::telemetry;

/// The most warm wasm instances of a process: each takes four of the 65,530 memory mappings that Linux allows a process
/// by default.
const MAX_WARM_INSTANCES: usize = 12_000;

/// Loads and checks the settings, and starts to write log lines.
///
/// # Errors
/// When a setting is missing, unknown, renamed or out of range.
pub(crate) fn load_settings(args: SettingsArgs) -> anyhow::Result<Settings> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown = check_environment(names)?;
    let overrides = args.overrides.with_kafka_from(utf8_variables(std::env::vars_os()));
    let settings = Settings::load(args.config.as_deref(), &overrides)?;
    telemetry::init_logs(settings.log_format);
    for UnknownVariable { name, nearest } in unknown {
        tracing::warn!(variable = %name, %nearest, "this environment variable is not a setting");
    }
    settings.check()?;
    Ok(settings)
}

/// The environment variables that are UTF-8. No setting has another name or value, and `std::env::vars` would panic.
fn utf8_variables(all: impl Iterator<Item = (OsString, OsString)>) -> impl Iterator<Item = (String, String)> {
    all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// How the process's Kafka clients connect. `instance`: the process instance.
///
/// # Errors
/// When a librdkafka property cannot be set.
pub(crate) fn client_options(settings: &Settings, instance: &str) -> anyhow::Result<ClientOptions> {
    let group_protocol = settings.group_protocol;
    let options = ClientOptions {
        bootstrap_servers: settings.bootstrap_servers.clone(),
        app: settings.app.clone(),
        instance: instance.to_owned(),
        // With KIP-848 the broker refuses the successor of a killed static member until the session timeout
        // (UNRELEASED_INSTANCE_ID). Dynamic members recover faster.
        static_members: settings.instance.is_some() && group_protocol == GroupProtocol::Classic,
        group_protocol,
        session_timeout_ms: settings.session_timeout_ms,
        properties: settings.kafka.clone(),
    };
    options.check()?;
    Ok(options)
}

/// The sandbox with the limits of the settings.
pub(crate) fn sandbox(settings: &Settings) -> anyhow::Result<Sandbox> {
    let limits = Limits {
        fuel: settings.max_fuel,
        cpu_time: Duration::from_millis(settings.max_cpu_time_ms),
        migration_fuel: settings.max_migration_fuel,
        migration_cpu_time: Duration::from_millis(settings.max_migration_cpu_time_ms),
        memory_bytes: settings.max_memory_bytes,
        warm_instances: settings.warm_instances.min(MAX_WARM_INSTANCES / settings.members).max(1),
        warm_memory_bytes: settings.warm_memory_bytes,
        log_lines_per_second: settings.plugin_log_lines,
        artifact_bytes: settings.max_artifact_bytes,
        state: settings.state_limits(),
        ..Limits::default()
    };
    let sandbox = Sandbox::new(limits)?;
    Ok(match &settings.allow_topics {
        Some(aliases) => sandbox.with_allowed_topics(aliases.clone()),
        None => sandbox,
    })
}

/// The loader of releases, which caches compiled plugins in the state directory.
pub(crate) fn loader(settings: &Settings, options: &ClientOptions, topology: &Topology) -> anyhow::Result<Loader> {
    let mut sandbox = sandbox(settings)?;
    if let Some(directory) = &settings.state_dir {
        sandbox = sandbox.with_cache(&directory.join("code"));
    }
    Ok(Loader {
        sandbox: Arc::new(sandbox),
        trusted: TrustedKeys::read(&settings.trusted_keys)?,
        topology: topology.clone(),
        lookups: settings.lookups.keys().cloned().collect(),
        artifacts: ArtifactReader::new(options, &topology.control).context("creating a Kafka client")?,
    })
}

/// How tenants are read from headers.
pub(crate) fn tenants(settings: &Settings) -> TenantSchema {
    TenantSchema::new(settings.tenant_headers.clone())
}

/// The rules of the workers of an application with this number of shards.
pub(crate) fn worker_config(settings: &Settings, shards: u32) -> WorkerConfig {
    WorkerConfig {
        app: settings.app.clone(),
        shards,
        tenants: tenants(settings),
        outputs: OutputRules { carry_headers: settings.carry_headers.clone(), limits: settings.output_limits() },
        state: settings.state_limits(),
        lookups_a_message: settings.max_lookups,
        lookup_time: Duration::from_millis(settings.lookup_timeout_ms),
        batch: settings.batch(),
        start_from: settings.start_from,
        offset_renewal: Duration::from_millis(settings.offset_renewal_ms),
    }
}

/// The application's internal topics. It consumes and produces no topics yet: these depend on the releases.
pub(crate) fn topology(settings: &Settings) -> Topology {
    let variable = |name: &str| std::env::var(name).ok();
    Topology::new(&settings.app, settings.topics.clone(), variable)
}

/// The lookup sources.
pub(crate) fn lookups(settings: &Settings, tenants: &TenantSchema) -> anyhow::Result<HttpLookups> {
    let mut sources = Vec::new();
    for (name, options) in &settings.lookups {
        match Source::new(name, options.clone(), |variable| std::env::var(variable).ok())? {
            Some(source) => {
                tracing::info!(source = %name, url = source.template(), "lookup source configured");
                sources.push(source);
            }
            None => tracing::info!(source = %name, "lookup source not used: no variable contains its base URL"),
        }
    }
    Ok(HttpLookups::new(sources, settings.lookup_cache_bytes, tenants))
}

/// The number of threads that run plugins.
pub(crate) fn thread_count(settings: &Settings) -> usize {
    match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        threads => threads,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn variables_that_are_not_utf8_are_skipped() {
        let broken = || OsString::from_vec(vec![0xff]);
        let all = [("A".into(), broken()), (broken(), "b".into()), ("C".into(), "c".into())];
        assert_eq!(utf8_variables(all.into_iter()).collect::<Vec<_>>(), [("C".to_owned(), "c".to_owned())]);
    }
}
