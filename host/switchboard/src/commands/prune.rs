//! `switchboard release prune`: removes releases that are of no more use.

use serde_json::json;
use switchboard_core::registry::prune as decide;

use super::control::{Application, entry, stamp, update};
use crate::cli::PruneArgs;

/// Prunes, or tells what would be removed.
///
/// # Errors
/// Why nothing was removed, with what to do.
pub fn prune(args: PruneArgs) -> anyhow::Result<()> {
    let PruneArgs { keep, dry_run, note, json, settings } = args;
    let application = Application::new(settings)?;
    let mut writer = application.writer()?;
    let stamp = stamp(note);
    // Titles of what will be gone afterwards.
    let before = writer.control().clone();
    let decision = if dry_run {
        decide(&before, keep, before.newest().unwrap_or_default(), stamp)
    } else {
        update(&mut writer, |control| Ok(decide(control, keep, control.newest().unwrap_or_default(), stamp.clone())))?
    };
    let removed = &decision.change.releases;
    if json {
        let is_written = !dry_run && !decision.writes.is_empty();
        let told = is_written.then(|| entry(writer.control(), &decision)).transpose()?;
        println!("{:#}", json!({ "removed": removed, "dry-run": dry_run, "change": told }));
        return Ok(());
    }
    for release in removed {
        println!("{} {}", if dry_run { "would remove" } else { "removed" }, before.title(release));
    }
    if removed.is_empty() {
        println!("no release to remove");
    }
    Ok(())
}
