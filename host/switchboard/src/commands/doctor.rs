//! `switchboard doctor`: looks at a cluster with the eyes of `run`, and tells what does not fit and what to do.

use std::time::Duration;

use serde_json::json;
use switchboard_core::registry::RegistryState;
use switchboard_core::routing::Manifest;

use super::run;
use crate::cli::RunArgs;
use crate::config::Settings;
use crate::telemetry;
use switchboard_kafka::control_topic::ControlReader;
use switchboard_kafka::{ClientOptions, Doctor, Finding, Level, Section, Topology};
use switchboard_releases::{TrustedKeys, load_file};

/// Examines the cluster for these settings; true when no problem was found.
///
/// # Errors
/// When the settings cannot be used.
pub fn doctor(args: RunArgs, as_json: bool) -> anyhow::Result<bool> {
    let overrides = args.overrides.with_kafka_from(std::env::vars());
    let settings = Settings::load(args.config.as_deref(), &overrides)?;
    telemetry::logs(settings.log_format);
    settings.check()?;
    let options = run::client_options(&settings, "doctor");
    options.check()?;

    let mut sections = Vec::new();
    let mut tell = |section: Section| {
        if !as_json {
            print(&section);
        }
        sections.push(section);
    };
    let own = run::topology(&settings);
    let releases = Releases::of(&settings, &options, &own);
    tell(Section { title: "Releases", findings: releases.findings });
    let rules = run::rules(&settings);
    let topology = own.with(&*run::aliases(&releases.consumes), &*run::aliases(&releases.produces))?;
    let doctor = Doctor {
        options: &options,
        topology: &topology,
        replication_factor: settings.replication_factor,
        start_from: rules.start_from,
        outputs: settings.output_limits(),
    };
    doctor.examine(&mut tell)?;

    let count = |level| sections.iter().flat_map(|section| &section.findings).filter(|f| f.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    if as_json {
        println!("{:#}", json!({ "problems": problems, "warnings": warnings, "sections": sections }));
    } else {
        println!("\n{problems} problems, {warnings} warnings");
    }
    Ok(problems == 0)
}

/// What tenants run, and the topics that it needs: the plugin of the settings, and what the control topic routes tenants to.
#[derive(Default)]
struct Releases {
    consumes: Vec<String>,
    produces: Vec<String>,
    findings: Vec<Finding>,
}

/// How long the control topic may take: whether brokers answer is told elsewhere.
const READ: Duration = Duration::from_secs(5);

impl Releases {
    fn of(settings: &Settings, options: &ClientOptions, topology: &Topology) -> Self {
        let mut releases = Self::default();
        releases.add_plugin(settings);
        let mut control = RegistryState::default();
        let read =
            ControlReader::new(options, &topology.control).map(|mut reader| reader.read_to_end(&mut control, READ));
        if let Ok(Err(error)) = read {
            tracing::debug!("reading the control topic: {error}");
        }
        for (scope, value, _) in control.routed() {
            let route = value.route();
            if let Some(record) = control.release(&route.release) {
                releases.add(&format!("route {scope}"), &record.manifest);
            }
        }
        if releases.findings.is_empty() {
            let text = "no plugin is given and nothing is deployed, so consumed and produced topics are not checked";
            releases.tell(Level::Warning, "the plugin", text.into(), Some("Give it with --plugin FILE, or deploy one"));
        }
        releases
    }

    fn add_plugin(&mut self, settings: &Settings) {
        if !settings.has_plugin() {
            return;
        }
        let load =
            || load_file(&run::sandbox(settings)?, &TrustedKeys::read(&settings.trusted_keys)?, &settings.plugin);
        match load() {
            Ok(artifact) => self.add("the plugin", artifact.manifest()),
            Err(error) => {
                let fix = "Give another with --plugin FILE";
                self.tell(Level::Problem, "the plugin", format!("{error:#}"), Some(fix));
            }
        }
    }

    fn add(&mut self, subject: &str, manifest: &Manifest) {
        let Manifest { name, version, consumes, produces, .. } = manifest;
        let text = format!("{name} {version}, consumes {}, produces {}", consumes.join(", "), produces.join(", "));
        self.tell(Level::Ok, subject, text, None);
        self.consumes.extend_from_slice(consumes);
        self.produces.extend_from_slice(produces);
    }

    fn tell(&mut self, level: Level, subject: &str, text: String, fix: Option<&str>) {
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
