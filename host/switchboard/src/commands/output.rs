//! How commands show changes, routes, times and tables to people.

use std::time::SystemTime;

use comfy_table::{Table, presets};
use switchboard_core::record::Timestamp;
use switchboard_core::registry::{Entry, RegistryState, RouteChange, RouteValue};
use switchboard_core::routing::Digest;

/// How many names a table cell shows.
const MAX_NAMES: usize = 3;

/// Prints a change that was made.
pub(super) fn print_change(registry: &RegistryState, entry: &Entry) {
    println!("{}", change_title(registry, entry));
    for line in route_changes(registry, &entry.change.routes) {
        println!("  {line}");
    }
    println!("  change {} at {}", entry.id, format_time(entry.timestamp));
}

/// What a change did, and to which releases.
pub(super) fn change_title(registry: &RegistryState, entry: &Entry) -> String {
    let releases: Vec<_> = entry.change.releases.iter().map(|release| registry.title(release)).collect();
    format!("{} {}", entry.change.kind, releases.join(", ")).trim_end().to_owned()
}

/// One line for each route that a change touched.
pub(super) fn route_changes(registry: &RegistryState, routes: &[RouteChange]) -> Vec<String> {
    let title =
        |value: &Option<RouteValue>| value.as_ref().map_or("none".to_owned(), |value| route_title(registry, value));
    let line = |RouteChange { route, before, after, .. }: &RouteChange| {
        format!("{route}: {} -> {}", title(before), title(after))
    };
    routes.iter().map(line).collect()
}

/// The release of a route, and the percentage of tenants where the route has one.
pub(super) fn route_title(registry: &RegistryState, value: &RouteValue) -> String {
    let title = registry.title(&value.route().release);
    match value {
        RouteValue::Share(share) => format!("{title} for {} %", share.percent),
        RouteValue::Route(_) => title,
    }
}

/// The scopes of the routes that name a release.
pub(super) fn scopes_of(registry: &RegistryState, release: &Digest) -> Vec<String> {
    let named = registry.routed().filter(|entry| entry.value.route().release == *release);
    named.map(|entry| entry.scope.to_string()).collect()
}

/// The first few names, and the number of the others.
pub(super) fn abbreviate(names: &[String]) -> String {
    match names.len().checked_sub(MAX_NAMES) {
        Some(more) if more > 0 => format!("{} and {more} more", names[..MAX_NAMES].join(", ")),
        _ => names.join(", "),
    }
}

/// A broker's timestamp, in UTC.
pub(super) fn format_time(timestamp: Timestamp) -> String {
    let since_epoch = timestamp.saturating_since(Timestamp::from_millis(0));
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since_epoch).to_string()
}

/// A table without lines.
pub(super) fn new_table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(titles);
    table
}

/// Prints a table whose first column starts at the margin.
pub(super) fn print_table(table: &mut Table) {
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    println!("{}", table.trim_fmt());
}
