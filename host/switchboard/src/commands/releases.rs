//! `switchboard releases`: what was deployed, where it runs, and what was done.

use serde_json::{Value, json};
use switchboard_core::registry::{Deployed, Entry, HostRecord, LoadState, RegistryState};
use switchboard_core::routing::Digest;

use super::control::{Application, now, print, routes, scopes_of, table, time};
use crate::cli::ReleasesArgs;

/// Prints releases and hosts, or the history.
///
/// # Errors
/// When the control topic cannot be read.
pub fn releases(args: ReleasesArgs) -> anyhow::Result<()> {
    let control = Application::new(args.settings)?.read()?;
    match (args.history, args.json) {
        (true, true) => println!("{:#}", json!({ "history": control.history() })),
        (true, false) => tell_history(&control),
        (false, true) => println!("{:#}", as_json(&control)?),
        (false, false) => tell(&control),
    }
    Ok(())
}

/// The latest first.
fn newest_first(control: &RegistryState) -> Vec<(&Digest, &Deployed)> {
    let mut releases: Vec<_> = control.releases().iter().collect();
    releases.sort_by_key(|(_, deployed)| std::cmp::Reverse(deployed.offset));
    releases
}

/// Living hosts that can run a release, and those that cannot.
fn hosts_of<'a>(control: &'a RegistryState, release: &Digest) -> (Vec<&'a str>, Vec<Value>) {
    let (mut ready, mut failed) = (Vec::new(), Vec::new());
    for HostRecord { status, .. } in control.living(now(control)) {
        match status.state_of(release) {
            Some(LoadState::Ready) => ready.push(status.instance.as_str()),
            Some(LoadState::Failed { reason }) => failed.push(json!({ "instance": status.instance, "reason": reason })),
            None => {}
        }
    }
    (ready, failed)
}

fn as_json(control: &RegistryState) -> anyhow::Result<Value> {
    let mut releases = Vec::new();
    for (digest, Deployed { record, offset, timestamp }) in newest_first(control) {
        let (ready, failed) = hosts_of(control, digest);
        let mut told = serde_json::to_value(record)?;
        told["digest"] = json!(digest);
        told["offset"] = json!(offset);
        told["timestamp"] = json!(timestamp);
        told["complete"] = json!(control.chunks(digest).is_some());
        told["routes"] = json!(scopes_of(control, digest));
        told["hosts"] = json!({ "ready": ready, "failed": failed });
        releases.push(told);
    }
    let now = now(control);
    let mut hosts = Vec::new();
    for seen in control.hosts().values() {
        let mut told = serde_json::to_value(&seen.status)?;
        told["timestamp"] = json!(seen.timestamp);
        told["alive"] = json!(seen.is_alive(now));
        hosts.push(told);
    }
    Ok(json!({ "releases": releases, "hosts": hosts }))
}

fn tell(control: &RegistryState) {
    let mut releases = table(&["RELEASE", "DIGEST", "STATE", "BYTES", "SIGNED", "DEPLOYED", "BY", "HOSTS", "ROUTES"]);
    for (digest, Deployed { record, timestamp, .. }) in newest_first(control) {
        let (ready, failed) = hosts_of(control, digest);
        releases.add_row([
            format!("{} {}", record.manifest.name, record.manifest.version),
            digest.short(),
            record.manifest.state_version.to_string(),
            record.size.to_string(),
            if record.signature.is_some() { "yes" } else { "no" }.to_owned(),
            time(*timestamp),
            record.actor.to_string(),
            format!("{} ready, {} failed", ready.len(), failed.len()),
            some(&scopes_of(control, digest)),
        ]);
    }
    print(&mut releases);
    if control.hosts().is_empty() {
        return;
    }
    println!();
    let (mut hosts, now) =
        (table(&["HOST", "MACHINE", "HEARD OF", "READ", "TENANTS", "STAYING", "WAITING", "FILE"]), now(control));
    for seen in control.hosts().values() {
        let status = &seen.status;
        let age = std::time::Duration::from_secs(now.saturating_since(seen.timestamp).as_secs());
        let running = |running: &switchboard_core::registry::Running| {
            format!("{} on {}", running.count, control.title(&running.release))
        };
        hosts.add_row([
            status.instance.clone(),
            status.host.clone(),
            format!("{} ago{}", humantime::format_duration(age), if seen.is_alive(now) { "" } else { ", dead" }),
            status.read.to_string(),
            status.tenants.iter().map(running).collect::<Vec<_>>().join(", "),
            status.fallback.len().to_string(),
            status.waiting.len().to_string(),
            status.on_file.as_ref().map(|release| control.title(release)).unwrap_or_default(),
        ]);
    }
    print(&mut hosts);
    for status in control.hosts().values().map(|seen| &seen.status) {
        for loaded in &status.releases {
            if let LoadState::Failed { reason } = &loaded.state {
                println!("{}: {} cannot be run: {reason}", status.instance, control.title(&loaded.digest));
            }
        }
    }
}

fn some(names: &[String]) -> String {
    const MOST: usize = 3;
    match names.len().checked_sub(MOST) {
        Some(more) if more > 0 => format!("{} and {more} more", names[..MOST].join(", ")),
        _ => names.join(", "),
    }
}

fn tell_history(control: &RegistryState) {
    for Entry { id, timestamp, change, .. } in control.history() {
        let releases: Vec<_> = change.releases.iter().map(|release| control.title(release)).collect();
        let line = format!("{}  {}  {} {}", time(*timestamp), change.actor, change.kind, releases.join(", "));
        println!("{}", line.trim_end());
        for line in routes(control, &change.routes) {
            println!("    {line}");
        }
        if let Some(note) = &change.note {
            println!("    {note}");
        }
        println!("    change {id}");
    }
}
