//! `switchboard releases`: lists the deployed releases, the hosts, or the history of changes.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard_core::registry::{Deployed, HostRecord, LoadState, RegistryState, Running};
use switchboard_core::routing::Digest;

use super::Outcome;
use super::application::{Application, current_time};
use super::output::{abbreviate, change_title, format_time, new_table, print_table, route_changes, scopes_of};
use crate::cli::ReleasesArgs;

/// Prints releases and hosts, or the history.
///
/// # Errors
/// When the control topic cannot be read.
pub fn releases(args: ReleasesArgs) -> anyhow::Result<Outcome> {
    let registry = Application::new(args.settings)?.read()?;
    match (args.history, args.json) {
        (true, true) => println!("{:#}", json!({ "history": registry.history() })),
        (true, false) => print_history(&registry),
        (false, true) => println!("{:#}", as_json(&registry)?),
        (false, false) => {
            print_releases(&registry);
            print_hosts(&registry);
        }
    }
    Ok(Outcome::Success)
}

/// Releases, the latest deployment first.
fn newest_first(registry: &RegistryState) -> Vec<(&Digest, &Deployed)> {
    let mut releases: Vec<_> = registry.releases().iter().collect();
    releases.sort_by_key(|(_, deployed)| std::cmp::Reverse(deployed.offset));
    releases
}

/// Live hosts that can run a release, and live hosts that cannot.
fn hosts_of<'a>(registry: &'a RegistryState, release: &Digest) -> (Vec<&'a str>, Vec<Value>) {
    let (mut ready, mut failed) = (Vec::new(), Vec::new());
    for HostRecord { status, .. } in registry.living(current_time(registry)) {
        match status.state_of(release) {
            Some(LoadState::Ready) => ready.push(status.instance.as_str()),
            Some(LoadState::Failed { reason }) => failed.push(json!({ "instance": status.instance, "reason": reason })),
            None => {}
        }
    }
    (ready, failed)
}

fn as_json(registry: &RegistryState) -> anyhow::Result<Value> {
    let mut releases = Vec::new();
    for (digest, Deployed { record, offset, timestamp }) in newest_first(registry) {
        let (ready, failed) = hosts_of(registry, digest);
        let mut release = serde_json::to_value(record)?;
        release["digest"] = json!(digest);
        release["offset"] = json!(offset);
        release["timestamp"] = json!(timestamp);
        release["complete"] = json!(registry.chunks(digest).is_some());
        release["routes"] = json!(scopes_of(registry, digest));
        release["hosts"] = json!({ "ready": ready, "failed": failed });
        releases.push(release);
    }
    let now = current_time(registry);
    let mut hosts = Vec::new();
    for record in registry.hosts().values() {
        let mut host = serde_json::to_value(&record.status)?;
        host["timestamp"] = json!(record.timestamp);
        host["alive"] = json!(record.is_alive(now));
        hosts.push(host);
    }
    Ok(json!({ "releases": releases, "hosts": hosts }))
}

fn print_releases(registry: &RegistryState) {
    let titles = ["RELEASE", "DIGEST", "STATE VERSION", "BYTES", "SIGNED", "DEPLOYED", "BY", "HOSTS", "ROUTES"];
    let mut table = new_table(&titles);
    for (digest, Deployed { record, timestamp, .. }) in newest_first(registry) {
        let (ready, failed) = hosts_of(registry, digest);
        table.add_row([
            format!("{} {}", record.manifest.name, record.manifest.version),
            digest.short(),
            record.manifest.state_version.to_string(),
            record.size.to_string(),
            if record.signature.is_some() { "yes" } else { "no" }.to_owned(),
            format_time(*timestamp),
            record.actor.to_string(),
            format!("{} ready, {} failed", ready.len(), failed.len()),
            abbreviate(&scopes_of(registry, digest)),
        ]);
    }
    print_table(&mut table);
}

fn print_hosts(registry: &RegistryState) {
    if registry.hosts().is_empty() {
        return;
    }
    println!();
    let titles =
        ["HOST", "MACHINE", "LAST STATUS", "APPLIED TO", "TENANTS", "ON FALLBACK", "WAITING", "CONFIGURED PLUGIN"];
    let (mut table, now) = (new_table(&titles), current_time(registry));
    for record in registry.hosts().values() {
        let status = &record.status;
        let age = Duration::from_secs(now.saturating_since(record.timestamp).as_secs());
        let running = |running: &Running| format!("{} on {}", running.count, registry.title(&running.release));
        table.add_row([
            status.instance.clone(),
            status.host.clone(),
            format!("{} ago{}", humantime::format_duration(age), if record.is_alive(now) { "" } else { ", dead" }),
            format!("offset {}", status.read),
            status.tenants.iter().map(running).collect::<Vec<_>>().join(", "),
            status.fallback.len().to_string(),
            status.waiting.len().to_string(),
            status.on_file.as_ref().map(|release| registry.title(release)).unwrap_or_default(),
        ]);
    }
    print_table(&mut table);
    for status in registry.hosts().values().map(|record| &record.status) {
        for loaded in &status.releases {
            if let LoadState::Failed { reason } = &loaded.state {
                println!("{} cannot run {}: {reason}", status.instance, registry.title(&loaded.digest));
            }
        }
    }
}

fn print_history(registry: &RegistryState) {
    for entry in registry.history() {
        let change = &entry.change;
        println!("{}  {}  {}", format_time(entry.timestamp), change.actor, change_title(registry, entry));
        for line in route_changes(registry, &change.routes) {
            println!("    {line}");
        }
        if let Some(note) = &change.note {
            println!("    {note}");
        }
        println!("    change {}", entry.id);
    }
}
