//! The application that a command is about: its settings and its control topic, and how a command changes that topic.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use switchboard_core::record::{TenantId, TenantSchema, Timestamp};
use switchboard_core::registry::{Actor, Audience, ChangeRequest, Decision, Entry, FindError, Refusal, RegistryState};
use switchboard_core::routing::Manifest;
use switchboard_kafka::control_topic::{ControlError, ControlReader, ControlWriter, UpdateError};
use switchboard_kafka::{ClientOptions, Topology, TopologyError, prepare_control};
use uuid::Uuid;

use super::{Outcome, output, rollout};
use crate::cli::{Assignment, SettingsArgs};
use crate::config::Settings;
use crate::wiring;

/// How long a command waits for brokers.
const BROKER_TIMEOUT: Duration = Duration::from_secs(30);

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
    /// Loads the settings. Makes no request to a broker.
    pub(super) fn new(args: SettingsArgs) -> anyhow::Result<Self> {
        let settings = wiring::load_settings(args)?;
        let options = wiring::client_options(&settings, "command")?;
        let topology = wiring::topology(&settings);
        Ok(Self { settings, options, topology })
    }

    /// Reads the control topic. A missing topic is logged and read as empty.
    pub(super) fn read(&self) -> anyhow::Result<RegistryState> {
        let mut registry = RegistryState::default();
        let mut reader =
            ControlReader::new(&self.options, &self.topology.control).context("creating a Kafka client")?;
        match reader.read_to_end(&mut registry, BROKER_TIMEOUT) {
            Err(error @ ControlError::NoTopic(_)) => tracing::warn!("{error}"),
            result => result?,
        }
        Ok(registry)
    }

    /// A writer that has read an existing control topic, and has checked its configuration.
    pub(super) fn writer(&self) -> anyhow::Result<ControlWriter> {
        let mut writer = self.new_writer()?;
        writer.read()?;
        self.prepare()?;
        Ok(writer)
    }

    /// A writer that has read nothing. Call `prepare` before its first change.
    pub(super) fn new_writer(&self) -> anyhow::Result<ControlWriter> {
        ControlWriter::new(&self.options, &self.topology).context("creating a Kafka client")
    }

    /// Creates the control topic if it is missing, and checks its configuration.
    pub(super) fn prepare(&self) -> anyhow::Result<()> {
        Ok(prepare_control(&self.options, &self.topology, self.settings.replication_factor, BROKER_TIMEOUT)?)
    }

    /// Checks that the topics of a plugin do not contradict those of the releases that routes name.
    pub(super) fn check_topics(&self, registry: &RegistryState, manifest: &Manifest) -> Result<(), TopologyError> {
        let routed = registry.routes().routes().filter_map(|route| registry.release(&route.release));
        let manifests: Vec<_> = routed.map(|record| &record.manifest).chain([manifest]).collect();
        let aliases = |list: fn(&Manifest) -> &[String]| -> Vec<_> {
            manifests.iter().flat_map(|manifest| switchboard_core::routing::aliases(list(manifest))).collect()
        };
        self.topology.with(&aliases(|manifest| &manifest.consumes), &aliases(|manifest| &manifest.produces)).map(drop)
    }

    /// Parses the tenants of `--tenant`.
    pub(super) fn tenants(&self, texts: &[String]) -> anyhow::Result<BTreeSet<TenantId>> {
        let schema = TenantSchema::new(self.settings.tenant_headers.clone());
        Ok(texts.iter().map(|text| schema.parse(text)).collect::<Result<_, _>>()?)
    }

    /// The tenants that a release is routed to.
    pub(super) fn audience(&self, assignment: &Assignment) -> anyhow::Result<Audience> {
        Ok(match assignment.percent {
            Some(percent) => Audience::Percent(percent),
            None if assignment.tenant.is_empty() => Audience::Default,
            None => Audience::Tenants(self.tenants(&assignment.tenant)?),
        })
    }
}

/// The user who runs this command, and the machine.
pub(super) fn current_actor() -> Actor {
    let user = whoami::username().unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    Actor { user, host: rustix::system::uname().nodename().to_string_lossy().into_owned() }
}

/// A request for a change, with a new id.
pub(super) fn new_request(note: Option<String>) -> ChangeRequest {
    ChangeRequest { id: Uuid::now_v7().to_string(), actor: current_actor(), note }
}

/// Makes a change and prints it. `wait`: waits until all hosts have applied the change, then watches for problems for
/// this time.
pub(super) fn change(
    writer: &mut ControlWriter,
    as_json: bool,
    wait: Option<Duration>,
    decide: impl FnMut(&RegistryState) -> Result<Decision, CommandError>,
) -> anyhow::Result<Outcome> {
    let decision = update(writer, decide)?;
    let entry = written_entry(writer.control(), &decision)?.clone();
    if !as_json {
        output::print_change(writer.control(), &entry);
    }
    let rollout = wait.map(|watch_time| rollout::follow(writer, &entry, watch_time, as_json)).transpose()?;
    if as_json {
        let mut json = serde_json::to_value(&entry)?;
        if let Some(rollout) = &rollout {
            json["rollout"] = rollout.json.clone();
        }
        println!("{json:#}");
    }
    Ok(rollout.map_or(Outcome::Success, |rollout| rollout.outcome))
}

/// Makes a change and logs its warnings.
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

/// The history's entry of a change that was made.
pub(super) fn written_entry<'a>(registry: &'a RegistryState, decision: &Decision) -> anyhow::Result<&'a Entry> {
    registry.change(&decision.id).context("the change was written, but the history does not contain it")
}

/// The time that decides which hosts are alive: this machine's, or the newest record's if this machine's clock is
/// behind.
pub(super) fn current_time(registry: &RegistryState) -> Timestamp {
    let this_machine = Timestamp::of_system_time(SystemTime::now());
    registry.newest().map_or(this_machine, |newest| newest.max(this_machine))
}
