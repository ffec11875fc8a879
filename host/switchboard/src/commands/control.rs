//! What the commands about releases and routes have in common: settings, who asks, what is shown of a change.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use comfy_table::{Table, presets};
use switchboard_core::record::{TenantId, TenantSchema, Timestamp};
use switchboard_core::registry::{
    Actor, Audience, ChangeRequest, Decision, Entry, FindError, Refusal, RegistryState, RouteChange, RouteValue,
};
use switchboard_core::routing::Digest;
use switchboard_core::routing::Manifest;
use uuid::Uuid;

use super::{rollout, run};
use crate::cli::{Assignment, RunArgs};
use crate::config::Settings;
use crate::telemetry;
use switchboard_kafka::control_topic::{ControlError, ControlReader, ControlWriter, UpdateError};
use switchboard_kafka::{ClientOptions, Topology, TopologyError, prepare_control};

/// How long brokers are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The application that a command is about.
pub(super) struct Application {
    pub(super) settings: Settings,
    options: ClientOptions,
    topology: Topology,
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Refusal(#[from] Refusal),
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

impl Application {
    pub(super) fn new(args: RunArgs) -> anyhow::Result<Self> {
        let overrides = args.overrides.with_kafka_from(std::env::vars());
        let settings = Settings::load(args.config.as_deref(), &overrides)?;
        telemetry::logs(settings.log_format);
        settings.check()?;
        let options = run::client_options(&settings, "command");
        options.check()?;
        let topology = run::topology(&settings);
        Ok(Self { settings, options, topology })
    }

    /// What the control topic says now; nothing where there is none, which is told.
    pub(super) fn read(&self) -> anyhow::Result<RegistryState> {
        let mut control = RegistryState::default();
        let mut reader = ControlReader::new(&self.options, &self.topology.control).context("making a Kafka client")?;
        match reader.read_to_end(&mut control, PATIENCE) {
            Err(error @ ControlError::NoTopic(_)) => tracing::warn!("{error}"),
            result => result?,
        }
        Ok(control)
    }

    /// Changes what is there. The topic exists and fits.
    pub(super) fn writer(&self) -> anyhow::Result<ControlWriter> {
        let mut writer = self.new_writer()?;
        writer.read()?;
        self.prepare()?;
        Ok(writer)
    }

    /// One that has read nothing. `prepare` comes before its first change.
    pub(super) fn new_writer(&self) -> anyhow::Result<ControlWriter> {
        ControlWriter::new(&self.options, &self.topology).context("making a Kafka client")
    }

    /// The topic is created where it is missing.
    pub(super) fn prepare(&self) -> anyhow::Result<()> {
        Ok(prepare_control(&self.options, &self.topology, self.settings.replication_factor, PATIENCE)?)
    }

    /// Whether hosts can have the topics of a plugin beside those of all releases that a route names.
    pub(super) fn check_topics(&self, control: &RegistryState, manifest: &Manifest) -> Result<(), TopologyError> {
        let routed = control.routes().routes().filter_map(|route| control.release(&route.release));
        let manifests: Vec<_> = routed.map(|record| &record.manifest).chain([manifest]).collect();
        let aliases = |list: fn(&Manifest) -> &[String]| -> Vec<_> {
            manifests.iter().flat_map(|manifest| run::aliases(list(manifest))).collect()
        };
        self.topology.with(&aliases(|manifest| &manifest.consumes), &aliases(|manifest| &manifest.produces)).map(drop)
    }

    /// The tenants that are meant by these texts.
    pub(super) fn tenants(&self, texts: &[String]) -> anyhow::Result<BTreeSet<TenantId>> {
        let schema = TenantSchema::new(self.settings.tenant_headers.clone());
        Ok(texts.iter().map(|text| schema.parse(text)).collect::<Result<_, _>>()?)
    }

    /// Who shall run a release.
    pub(super) fn audience(&self, assignment: &Assignment) -> anyhow::Result<Audience> {
        Ok(match assignment.percent {
            Some(percent) => Audience::Percent(percent),
            None if assignment.tenant.is_empty() => Audience::Default,
            None => Audience::Tenants(self.tenants(&assignment.tenant)?),
        })
    }
}

/// Who runs this command.
pub(super) fn by() -> Actor {
    let user = whoami::username().unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    Actor { user, host: rustix::system::uname().nodename().to_string_lossy().into_owned() }
}

/// A new change.
pub(super) fn stamp(note: Option<String>) -> ChangeRequest {
    ChangeRequest { id: Uuid::now_v7().to_string(), by: by(), note }
}

/// Makes a change and shows it; with `wait`, follows it for so long after all hosts go by it. False: trouble was seen then.
pub(super) fn change(
    writer: &mut ControlWriter,
    as_json: bool,
    wait: Option<Duration>,
    decide: impl FnMut(&RegistryState) -> Result<Decision, CommandError>,
) -> anyhow::Result<bool> {
    let decision = update(writer, decide)?;
    let entry = entry(writer.control(), &decision)?.clone();
    if !as_json {
        tell(writer.control(), &entry);
    }
    let end = wait.map(|after| rollout::follow(writer, &entry, after, as_json)).transpose()?;
    if as_json {
        let mut told = serde_json::to_value(&entry)?;
        if let Some(end) = &end {
            told["rollout"] = end.json.clone();
        }
        println!("{told:#}");
    }
    Ok(end.is_none_or(|end| end.succeeded))
}

/// Makes a change; warnings are told.
pub(super) fn update(
    writer: &mut ControlWriter,
    decide: impl FnMut(&RegistryState) -> Result<Decision, CommandError>,
) -> anyhow::Result<Decision> {
    let decision = writer.update(decide).map_err(|error| match error {
        UpdateError::Refused(error) => anyhow::Error::from(error),
        error => error.into(),
    })?;
    for warning in &decision.warnings {
        tracing::warn!("{warning}");
    }
    Ok(decision)
}

/// A change that was made, as it stands in the history.
pub(super) fn entry<'a>(control: &'a RegistryState, decision: &Decision) -> anyhow::Result<&'a Entry> {
    control.change(&decision.id).context("the change is not in the history that it was written to")
}

/// A change, for people.
pub(super) fn tell(control: &RegistryState, entry: &Entry) {
    let releases: Vec<_> = entry.change.releases.iter().map(|release| control.title(release)).collect();
    println!("{}", format!("{} {}", entry.change.what, releases.join(", ")).trim_end());
    for line in routes(control, &entry.change.routes) {
        println!("  {line}");
    }
    println!("  change {} at {}", entry.id, time(entry.timestamp));
}

/// What became of each route, a line each.
pub(super) fn routes(control: &RegistryState, routes: &[RouteChange]) -> Vec<String> {
    let told = |value: &Option<RouteValue>| value.as_ref().map_or("none".to_owned(), |value| route(control, value));
    let line = |RouteChange { route, before, after, .. }: &RouteChange| {
        format!("{route}: {} -> {}", told(before), told(after))
    };
    routes.iter().map(line).collect()
}

/// A route's release, for people.
pub(super) fn route(control: &RegistryState, value: &RouteValue) -> String {
    let title = control.title(&value.route().release);
    match value {
        RouteValue::Share(share) => format!("{title} for {} %", share.percent),
        RouteValue::Route(_) => title,
    }
}

/// Routes that name a release, by their names.
pub(super) fn scopes_of(control: &RegistryState, release: &Digest) -> Vec<String> {
    let named = control.routed().filter(|(_, value, _)| value.route().release == *release);
    named.map(|(scope, ..)| scope.to_string()).collect()
}

/// A time of the broker, in UTC.
pub(super) fn time(timestamp: Timestamp) -> String {
    let since = timestamp.saturating_since(Timestamp::from_millis(0));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}

/// The time by which it is told which hosts live: this machine's, or that of the newest record where this machine's is behind.
pub(super) fn now(control: &RegistryState) -> Timestamp {
    let ours = Timestamp::of_system_time(SystemTime::now());
    control.newest().map_or(ours, |newest| newest.max(ours))
}

/// A table without lines.
pub(super) fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(titles);
    table
}

/// Prints a table.
pub(super) fn print(table: &mut Table) {
    // The first column begins at the margin.
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    println!("{}", table.trim_fmt());
}
