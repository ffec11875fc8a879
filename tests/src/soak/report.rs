//! The report of a run: a table of the commands, counts, and what was wrong.

use std::fmt;
use std::time::{Duration, Instant};

use super::Options;
use super::check::{Evidence, check};
use super::swaps::Swaps;
use super::world::MIN_SETTLED_PER_SWAP;
use crate::fleet::Fleet;

/// Log lines of hosts: the label in the report, and the text of the line.
const COUNTED_LOG_LINES: [(&str, &str); 5] = [
    ("releases loaded", "release loaded release=ledger"),
    ("transactions aborted and repeated", "was aborted and runs again"),
    ("workers restarted from the committed state", "starting again from what is committed"),
    ("tenants whose messages waited", "messages wait"),
    ("errors in the hosts' logs", " ERROR "),
];

/// The result of a run. `Display` prints it for people.
#[derive(Debug)]
pub struct Report {
    options: Options,
    /// Resident memory of the two hosts that always run, after the warm-up.
    pub(super) warm: Vec<u64>,
    /// The same at the end.
    pub(super) end: Vec<u64>,
    swaps: Vec<SwapTimes>,
    counts: Vec<(&'static str, usize)>,
    /// For each swap, the number of messages settled from its begin to the begin of the next.
    settled: Vec<u64>,
    /// The longest time without an output of a tenant.
    gap: Duration,
    /// Events that are not wrong, but worth knowing.
    notes: Vec<String>,
    wrong: Vec<String>,
    pub(super) took: Duration,
}

/// The times of the commands of one kind.
#[derive(Debug)]
struct SwapTimes {
    kind: &'static str,
    count: usize,
    median: Duration,
    longest: Duration,
}

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            warm: Vec::new(),
            end: Vec::new(),
            swaps: Vec::new(),
            counts: Vec::new(),
            settled: Vec::new(),
            gap: Duration::ZERO,
            notes: Vec::new(),
            wrong: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Adds a swap with the number of messages settled from its begin to the begin of the next.
    pub(super) fn swap(&mut self, settled: u64) {
        self.settled.push(settled);
    }

    pub(super) fn judge(&mut self, evidence: &Evidence, swaps: &Swaps, fleet: &Fleet, wrong: Vec<String>) {
        let violations = check(evidence);
        self.counts = vec![
            ("messages", usize::try_from(evidence.sent).unwrap_or(usize::MAX)),
            ("outputs", evidence.outputs.iter().map(Vec::len).sum()),
            ("versions of the routes", evidence.versions.len() - 1),
            ("artifacts", evidence.releases.len()),
            ("commands with nothing to do", swaps.refused),
            ("commands given up: no answer in time", swaps.given_up.len()),
            ("hosts that ended by themselves, restarted", fleet.ended().len()),
            ("lost", violations.count("lost")),
            ("settled twice", violations.count("settled twice")),
            ("out of order", violations.count("out of order")),
            ("numbered from a wrong state", violations.count("wrong state")),
            ("handled by the wrong release", violations.count("wrong release")),
            ("wrong entries of a tenant's last run", violations.count("wrong entry")),
        ];
        self.counts.extend(COUNTED_LOG_LINES.map(|(label, text)| (label, fleet.count(text))));
        self.gap = evidence
            .outputs
            .iter()
            .filter_map(|outputs| longest_gap(outputs.iter().map(|output| output.at)))
            .max()
            .unwrap_or_default();
        for (kind, times) in &swaps.times {
            let mut times = times.clone();
            times.sort_unstable();
            self.swaps.push(SwapTimes {
                kind: kind.name(),
                count: times.len(),
                median: times[times.len() / 2],
                longest: times[times.len() - 1],
            });
        }
        self.notes = swaps.given_up.iter().chain(fleet.ended()).cloned().collect();
        self.wrong = violations.summary();
        if swaps.given_up.len() > self.options.swaps / 10 + 1 {
            self.wrong.push(format!("{} commands were given up", swaps.given_up.len()));
        }
        self.wrong.extend(wrong);
        let weak = self.settled.iter().filter(|settled| **settled < MIN_SETTLED_PER_SWAP).count();
        if weak > 0 || self.settled.len() != self.options.swaps {
            let swaps = self.settled.len();
            let least = MIN_SETTLED_PER_SWAP;
            self.wrong
                .push(format!("too little load: {weak} of {swaps} swaps had fewer than {least} settled messages"));
        }
    }

    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.wrong.is_empty()
    }

    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }
}

/// The longest time between two consecutive moments.
fn longest_gap(moments: impl Iterator<Item = Instant>) -> Option<Duration> {
    let mut last = None;
    moments.filter_map(|at| last.replace(at).map(|last| at - last)).max()
}

/// Bytes, for people.
pub(super) fn mib(bytes: &[u64]) -> String {
    let each = bytes.iter().map(|bytes| format!("{} MiB", bytes >> 20));
    each.collect::<Vec<_>>().join(" and ")
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { swaps, seed, rate, fresh, .. } = &self.options;
        let took = self.took.as_secs();
        let what = if *fresh { "each deployment a new artifact" } else { "two alternating releases" };
        writeln!(
            f,
            "Swaps: {swaps} from seed {seed}, {what}, at most {rate} messages a second, in {} min {} s",
            took / 60,
            took % 60
        )?;
        writeln!(f)?;
        writeln!(f, "{:<48} {:>9} {:>16} {:>10}", "command", "times", "time: median", "longest")?;
        for SwapTimes { kind, count, median, longest } in &self.swaps {
            writeln!(f, "{kind:<48} {count:>9} {:>13} ms {:>7} ms", median.as_millis(), longest.as_millis())?;
        }
        writeln!(f)?;
        for (what, count) in &self.counts {
            writeln!(f, "{what:<48} {count:>9}")?;
        }
        let least = self.settled.iter().min().copied().unwrap_or_default();
        writeln!(f, "{:<48} {least:>9}", "messages settled during each swap, at least")?;
        writeln!(f, "{:<48} {:>6.1} s", "longest time without an output of a tenant", self.gap.as_secs_f64())?;
        writeln!(
            f,
            "resident memory of the hosts after the warm-up: {}, at the end: {} (the second host was killed in between)",
            mib(&self.warm),
            mib(&self.end)
        )?;
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        for wrong in &self.wrong {
            writeln!(f, "WRONG: {wrong}")?;
        }
        writeln!(
            f,
            "{}",
            if self.is_good() {
                "Every message was settled exactly once, by its tenant's release."
            } else {
                "NOT exactly once by its tenant's release."
            }
        )
    }
}
