//! `switchboard doctor`: looks at a cluster with the eyes of `run`, and tells what does not fit and what to do.

use serde_json::json;
use switchboard_core::worker::Manifest;

use super::run;
use crate::cli::RunArgs;
use crate::config::Settings;
use crate::kafka::{Doctor, Finding, Level, Section};
use crate::release::{TrustedKeys, load_file};
use crate::telemetry;

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
    let (manifest, plugin) = plugin(&settings);
    tell(Section { title: "Plugin", findings: vec![plugin] });
    let rules = run::rules(&settings);
    let topology =
        run::topology(&settings).with(&*run::tokens(&manifest.consumes), &*run::tokens(&manifest.produces))?;
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

/// What the plugin says of its topics; of none without a plugin.
fn plugin(settings: &Settings) -> (Manifest, Finding) {
    let none = Manifest {
        name: String::new(),
        version: String::new(),
        consumes: Vec::new(),
        produces: Vec::new(),
        lookups: Vec::new(),
        state_version: 0,
    };
    let finding = |level, text: String, fix: Option<&str>| Finding {
        level,
        subject: "the plugin".into(),
        text,
        fix: fix.map(str::to_owned),
    };
    if settings.plugin.as_os_str().is_empty() {
        let text = "none is given, so consumed and produced topics are not checked".into();
        return (none, finding(Level::Warning, text, Some("Give it with --plugin FILE")));
    }
    let load = || load_file(&run::sandbox(settings)?, &TrustedKeys::read(&settings.trusted_keys)?, &settings.plugin);
    match load() {
        Ok(artifact) => {
            let manifest = artifact.manifest().clone();
            let text = format!(
                "{} {}, consumes {}, produces {}",
                manifest.name,
                manifest.version,
                manifest.consumes.join(", "),
                manifest.produces.join(", ")
            );
            (manifest, finding(Level::Ok, text, None))
        }
        Err(error) => (none, finding(Level::Problem, format!("{error:#}"), Some("Give another with --plugin FILE"))),
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
