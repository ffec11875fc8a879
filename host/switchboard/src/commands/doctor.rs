//! `switchboard doctor`: checks whether a cluster fits the settings of `run`, and says how to fix each problem.

use std::time::Duration;

use serde_json::json;
use switchboard_core::registry::RegistryState;
use switchboard_core::routing::Manifest;
use switchboard_kafka::control_topic::ControlReader;
use switchboard_kafka::{ClientOptions, Doctor, Finding, Level, Section, Topology};
use switchboard_releases::{TrustedKeys, load_file};

use super::Outcome;
use crate::cli::SettingsArgs;
use crate::config::Settings;
use crate::wiring;

/// Examines the cluster with these settings.
///
/// # Errors
/// When the settings cannot be used.
pub fn doctor(args: SettingsArgs, as_json: bool) -> anyhow::Result<Outcome> {
    let settings = wiring::load_settings(args)?;
    let options = wiring::client_options(&settings, "doctor")?;

    let mut sections = Vec::new();
    let mut report = |section: Section| {
        if !as_json {
            print(&section);
        }
        sections.push(section);
    };
    let internal = wiring::topology(&settings);
    let releases = Releases::examine(&settings, &options, &internal);
    report(Section { title: "Releases", findings: releases.findings });
    let topology = internal.with(
        &*switchboard_core::routing::aliases(&releases.consumes),
        &*switchboard_core::routing::aliases(&releases.produces),
    )?;
    let doctor = Doctor {
        options: &options,
        topology: &topology,
        topics: settings.topic_settings(),
        offset_renewal: Duration::from_millis(settings.offset_renewal_ms),
        start_from: settings.start_from,
        outputs: settings.output_limits(),
    };
    doctor.examine(&mut report)?;

    let count = |level| sections.iter().flat_map(|section| &section.findings).filter(|f| f.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    if as_json {
        println!("{:#}", json!({ "problems": problems, "warnings": warnings, "sections": sections }));
    } else {
        println!("\n{problems} problems, {warnings} warnings");
    }
    Ok(Outcome::from_success(problems == 0))
}

/// The configured plugin and the releases that routes name, and the topics that they use.
#[derive(Default)]
struct Releases {
    consumes: Vec<String>,
    produces: Vec<String>,
    findings: Vec<Finding>,
}

/// How long the control topic is read. Another section reports whether the brokers answer.
const DOCTOR_READ_TIMEOUT: Duration = Duration::from_secs(5);

impl Releases {
    fn examine(settings: &Settings, options: &ClientOptions, topology: &Topology) -> Self {
        let mut releases = Self::default();
        releases.add_plugin(settings);
        let mut registry = RegistryState::default();
        let read = ControlReader::new(options, &topology.control)
            .map(|mut reader| reader.read_to_end(&mut registry, DOCTOR_READ_TIMEOUT));
        if let Ok(Err(error)) = read {
            tracing::debug!(%error, "cannot read the control topic");
        }
        for entry in registry.routed() {
            let route = entry.value.route();
            if let Some(record) = registry.release(&route.release) {
                releases.add(&format!("route {}", entry.scope), &record.manifest);
            }
        }
        releases.add_elsewhere(&registry);
        if releases.findings.is_empty() {
            let text =
                "no plugin is configured and no release is deployed, so consumed and produced topics are not checked";
            releases.report(
                Level::Warning,
                "the plugin",
                text.into(),
                Some("Give a plugin with --plugin FILE, or deploy one"),
            );
        }
        releases
    }

    fn add_plugin(&mut self, settings: &Settings) {
        if !settings.has_plugin() {
            return;
        }
        let load =
            || load_file(&wiring::sandbox(settings)?, &TrustedKeys::read(&settings.trusted_keys)?, &settings.plugin);
        match load() {
            Ok(artifact) => self.add("the plugin", artifact.manifest()),
            Err(error) => {
                let fix = "Give another plugin with --plugin FILE";
                self.report(Level::Problem, "the plugin", format!("{error:#}"), Some(fix));
            }
        }
    }

    /// Adds what hosts consume only because another host has a plugin that consumes it.
    fn add_elsewhere(&mut self, registry: &RegistryState) {
        // No host has this name: to the doctor all hosts are others.
        let mut elsewhere = registry.consumed_elsewhere("");
        elsewhere.retain(|alias| !self.consumes.contains(alias));
        if !elsewhere.is_empty() {
            let list = elsewhere.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            self.report(Level::Ok, "plugins and fallback releases of hosts", format!("they also consume {list}"), None);
            self.consumes.extend(elsewhere);
        }
    }

    fn add(&mut self, subject: &str, manifest: &Manifest) {
        let Manifest { name, version, consumes, produces, .. } = manifest;
        let text = format!("{name} {version}, consumes {}, produces {}", consumes.join(", "), produces.join(", "));
        self.report(Level::Ok, subject, text, None);
        self.consumes.extend_from_slice(consumes);
        self.produces.extend_from_slice(produces);
    }

    fn report(&mut self, level: Level, subject: &str, text: String, fix: Option<&str>) {
        self.findings.push(Finding { level, subject: subject.into(), text, fix: fix.map(str::to_owned) });
    }
}

fn print(section: &Section) {
    println!("\n{}", section.title);
    for Finding { level, subject, text, fix } in &section.findings {
        let level = match level {
            Level::Ok => "ok     ",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        println!("  {level}  {subject}: {text}");
        if let Some(fix) = fix {
            println!("           {fix}");
        }
    }
}
