//! `switchboard release prune`: removes unused releases.

use serde_json::json;
use switchboard_core::registry::prune as decide;

use super::Outcome;
use super::application::{Application, new_request, update, written_entry};
use crate::cli::PruneArgs;

/// Removes releases, or shows which ones would be removed.
///
/// # Errors
/// Why nothing was removed, and what to do.
pub fn prune(args: PruneArgs) -> anyhow::Result<Outcome> {
    let PruneArgs { keep, dry_run, note, json, settings } = args;
    let application = Application::new(settings)?;
    let mut writer = application.writer()?;
    let request = new_request(note);
    // Kept for the titles of the releases that are removed.
    let before = writer.control().clone();
    let decision = if dry_run {
        decide(&before, keep, before.newest().unwrap_or_default(), request)
    } else {
        update(&mut writer, |registry| {
            Ok(decide(registry, keep, registry.newest().unwrap_or_default(), request.clone()))
        })?
    };
    let removed = &decision.change.releases;
    if json {
        let is_written = !dry_run && !decision.writes.is_empty();
        let entry = is_written.then(|| written_entry(writer.control(), &decision)).transpose()?;
        println!("{:#}", json!({ "removed": removed, "dry-run": dry_run, "change": entry }));
        return Ok(Outcome::Success);
    }
    for release in removed {
        println!("{} {}", if dry_run { "would remove" } else { "removed" }, before.title(release));
    }
    if removed.is_empty() {
        println!("there is no unused release to remove");
    }
    Ok(Outcome::Success)
}
