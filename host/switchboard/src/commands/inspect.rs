//! `switchboard inspect`: a plugin's manifest, imports, size and digest.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;
use switchboard_core::routing::Manifest;
use switchboard_sandbox::{Artifact, Limits, Sandbox};

use super::Outcome;

/// Prints a plugin's manifest, imports, size and digest.
///
/// # Errors
/// Why this host cannot run the file.
pub fn inspect(path: &Path, json: bool) -> anyhow::Result<Outcome> {
    let artifact = Sandbox::new(Limits::default())?.load_file(path)?;
    if json {
        println!("{:#}", as_json(&artifact));
    } else {
        print!("{}", as_text(&artifact));
    }
    Ok(Outcome::Success)
}

fn as_json(artifact: &Artifact) -> serde_json::Value {
    let Manifest { name, version, consumes, produces, lookups, state_version } = artifact.manifest();
    json!({
        "name": name,
        "version": version,
        "consumes": consumes,
        "produces": produces,
        "lookups": lookups,
        "state-version": state_version,
        "migrates-from": artifact.release().migrates,
        "imports": artifact.imports(),
        "size": artifact.size(),
        "sha256": artifact.digest().to_string(),
    })
}

fn as_text(artifact: &Artifact) -> String {
    let Manifest { name, version, consumes, produces, lookups, state_version } = artifact.manifest();
    let migrates: Vec<_> = artifact.release().migrates.iter().map(ToString::to_string).collect();
    let mut text = format!("{name} {version}\n");
    let lists = [
        ("consumes", &consumes[..]),
        ("produces", produces),
        ("lookups", lookups),
        ("state version", &[state_version.to_string()]),
        ("migrates from", &migrates),
        ("imports", artifact.imports()),
        ("size", &[format!("{} bytes", artifact.size())]),
        ("sha256", &[artifact.digest().to_string()]),
    ];
    for (title, lines) in lists {
        let first = lines.first().map_or("none", String::as_str);
        writeln!(text, "  {title:<14}{first}").expect("writing to a String does not fail");
        for line in lines.iter().skip(1) {
            writeln!(text, "  {:<14}{line}", "").expect("writing to a String does not fail");
        }
    }
    text
}
