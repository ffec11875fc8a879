//! Which shards and source partitions each host owns, as its log says.
//!
//! A host logs a line for each change: `partitions owns=shards 0-3, IN 0 2`. The line does not name the group member, so
//! the hosts here are single members.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Result;
use switchboard_tests::host::Host;
use switchboard_tests::progress::{self, Stall};

/// An uneven distribution counts as final when nothing has changed for this long. A rebalance changes something more
/// often, with either protocol.
const FINAL_AFTER: Duration = Duration::from_secs(20);

/// What one host owns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ownership {
    shards: BTreeSet<u32>,
    /// The partitions of each consumed topic, by its alias.
    sources: BTreeMap<String, BTreeSet<u32>>,
}

impl Ownership {
    /// What the host owned at the end of its log.
    fn of(host: &Host) -> Self {
        host.last(Self::parse).unwrap_or_default()
    }

    /// Parses a line of a host's log. `None`: the line is about something else.
    fn parse(line: &str) -> Option<Self> {
        let (_, owns) = line.split_once("partitions owns=shards ")?;
        let mut parts = owns.trim_end().split(", ");
        let shards = numbers(parts.next()?)?;
        let source = |part: &str| {
            let (alias, partitions) = part.split_once(' ')?;
            Some((alias.to_owned(), numbers(partitions)?))
        };
        Some(Self { shards, sources: parts.map(source).collect::<Option<_>>()? })
    }

    fn source_count(&self) -> usize {
        self.sources.values().map(BTreeSet::len).sum()
    }
}

impl fmt::Display for Ownership {
    /// Shards, and source partitions by topic: `6/2+2+2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<_> = self.sources.values().map(|partitions| partitions.len().to_string()).collect();
        let sources = if sources.is_empty() { "0".to_owned() } else { sources.join("+") };
        write!(f, "{}/{sources}", self.shards.len())
    }
}

/// Parses `none`, or ranges such as `0-3 5`.
fn numbers(text: &str) -> Option<BTreeSet<u32>> {
    if text == "none" {
        return Some(BTreeSet::new());
    }
    let mut numbers = BTreeSet::new();
    for range in text.split(' ') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        numbers.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

/// How much there is to own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) shards: i32,
    /// The number of partitions of each consumed topic.
    pub(crate) partitions: i32,
    /// The number of consumed topics.
    pub(crate) topics: i32,
}

impl Layout {
    fn shard_count(self) -> usize {
        usize::try_from(self.shards).expect("never negative")
    }

    fn source_count(self) -> usize {
        usize::try_from(self.partitions * self.topics).expect("never negative")
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shards, {} sources", self.shards, self.source_count())
    }
}

/// What all hosts own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distribution {
    hosts: Vec<Ownership>,
}

impl Distribution {
    /// Waits until each shard and each source partition has exactly one owner. Then waits until the shards are spread
    /// evenly, or nothing changes any more.
    pub(crate) fn settled(hosts: &[&Host], layout: Layout) -> Result<Self> {
        let mut unchanged = Stall::with_limit(None, FINAL_AFTER);
        progress::wait_for("an owner for each shard and each source partition", || {
            let now = Self { hosts: hosts.iter().map(|host| Ownership::of(host)).collect() };
            let is_final = unchanged.check(Some(now.clone())).is_err();
            if now.is_complete(layout) && (is_final || now.is_even(layout)) {
                return Ok(ControlFlow::Break(now));
            }
            Ok(ControlFlow::Continue(now))
        })
    }

    fn is_complete(&self, layout: Layout) -> bool {
        let shards: BTreeSet<_> = self.hosts.iter().flat_map(|host| &host.shards).collect();
        let of_host = |host: &Ownership| host.sources.clone().into_iter().collect::<Vec<_>>();
        let of_topic = |(alias, partitions): (String, BTreeSet<u32>)| {
            partitions.into_iter().map(move |partition| (alias.clone(), partition))
        };
        let sources: BTreeSet<_> = self.hosts.iter().flat_map(of_host).flat_map(of_topic).collect();
        let owned_shards: usize = self.hosts.iter().map(|host| host.shards.len()).sum();
        let owned_sources: usize = self.hosts.iter().map(Ownership::source_count).sum();
        (shards.len(), owned_shards) == (layout.shard_count(), layout.shard_count())
            && (sources.len(), owned_sources) == (layout.source_count(), layout.source_count())
    }

    fn is_even(&self, layout: Layout) -> bool {
        self.least_shards() >= layout.shard_count() / self.hosts.len()
    }

    fn least_shards(&self) -> usize {
        self.hosts.iter().map(|host| host.shards.len()).min().unwrap_or_default()
    }

    /// The least loaded host's shards, as a share of the whole part of shards / hosts; and its source partitions, as a
    /// share of those that belong to so many shards. 1 is ideal.
    pub(crate) fn least_shares(&self, layout: Layout) -> Result<(f64, f64)> {
        let number = |count: usize| anyhow::Ok(f64::from(u32::try_from(count)?));
        let ideal = number(layout.shard_count() / self.hosts.len())?;
        let sources = self.hosts.iter().map(Ownership::source_count).min().unwrap_or_default();
        let ideal_sources = number(layout.source_count())? / number(layout.shard_count())? * ideal;
        Ok((number(self.least_shards())? / ideal, number(sources)? / ideal_sources))
    }
}

impl fmt::Display for Distribution {
    /// Each host's shards, and its source partitions by topic.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(|host| format!("{:<9}", host.to_string())).collect();
        write!(f, "{}", hosts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { shards: 4, partitions: 4, topics: 2 };

    fn line(owns: &str) -> String {
        format!("2026-11-27T10:00:00.000000Z  INFO switchboard_core::worker::step: partitions owns={owns}")
    }

    fn owned(owns: &str) -> Ownership {
        Ownership::parse(&line(owns)).unwrap()
    }

    #[test]
    fn shards_and_sources_are_read_from_the_log_line() {
        let owned = owned("shards 0-2 5, IN 0 2, OTHER_IN none");
        assert_eq!(owned.shards, BTreeSet::from([0, 1, 2, 5]));
        let sources = [("IN".to_owned(), BTreeSet::from([0, 2])), ("OTHER_IN".to_owned(), BTreeSet::new())];
        assert_eq!(owned.sources, BTreeMap::from(sources));
        assert_eq!(owned.to_string(), "4/2+0");
    }

    #[test]
    fn a_host_that_owns_nothing_says_so() {
        assert_eq!(owned("shards none"), Ownership::default());
        assert_eq!(Ownership::default().to_string(), "0/0");
    }

    #[test]
    fn other_lines_say_nothing_about_ownership() {
        assert_eq!(Ownership::parse("INFO switchboard_kafka: partitions assigned=[0, 1]"), None);
        assert_eq!(Ownership::parse(&line("shards 0-x")), None);
        assert_eq!(Ownership::parse(&line("shards 0, IN")), None);
    }

    #[test]
    fn a_distribution_is_complete_when_all_is_owned_once() {
        let complete =
            |hosts: &[&str]| Distribution { hosts: hosts.iter().map(|owns| owned(owns)).collect() }.is_complete(LAYOUT);
        assert!(complete(&["shards 0-1, A 0-1, B 0-1", "shards 2-3, A 2-3, B 2-3"]));
        assert!(!complete(&["shards 0-1, A 0-1, B 0-1", "shards 2, A 2-3, B 2-3"]));
        assert!(!complete(&["shards 0-1, A 0-1, B 0-1", "shards 2-3, A 2-3, B 2"]));
        assert!(!complete(&["shards 0-2, A 0-1, B 0-1", "shards 2-3, A 2-3, B 2-3"]), "two owners of shard 2");
    }

    #[test]
    fn shares_compare_the_least_loaded_host_with_the_ideal() {
        let hosts = ["shards 0-2, A 0-3, B 0-2", "shards 3, A none, B 3"].map(owned).to_vec();
        let distribution = Distribution { hosts };
        assert_eq!(distribution.least_shares(LAYOUT).unwrap(), (0.5, 0.25));
        assert!(!distribution.is_even(LAYOUT));
    }
}
