//! The table of what was done and of what was found.

use std::fmt;
use std::time::{Duration, Instant};

use super::Options;
use super::check::{Evidence, check};
use super::swaps::Swaps;
use super::world::A_SWAP;
use crate::fleet::Fleet;

/// What hosts say in their logs.
const SAID: [(&str, &str); 5] = [
    ("releases loaded", "release loaded release=ledger"),
    ("transactions aborted and run again", "was aborted and runs again"),
    ("workers started again from what is committed", "starting again from what is committed"),
    ("tenants that waited for a host to read on", "messages wait"),
    ("errors in the hosts' logs", " ERROR "),
];

/// The outcome of a run. Its text is for people.
#[derive(Debug)]
pub struct Report {
    options: Options,
    /// Resident memory of the two hosts that always run, after warm-up and in the end.
    pub(super) warm: Vec<u64>,
    pub(super) end: Vec<u64>,
    /// Each kind of swap: how many, the median of their times, and the longest.
    swaps: Vec<(&'static str, usize, Duration, Duration)>,
    counts: Vec<(&'static str, usize)>,
    /// Messages settled between the begin of a swap and that of the next: of each swap.
    settled: Vec<u64>,
    gap: Duration,
    /// What is not wrong, but worth to be known.
    told: Vec<String>,
    wrong: Vec<String>,
    pub(super) took: Duration,
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
            told: Vec::new(),
            wrong: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// So many messages were settled from the begin of a swap to that of the next.
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
            ("hosts that ended by themselves, started again", fleet.ended().len()),
            ("lost", violations.count("lost")),
            ("settled twice", violations.count("settled twice")),
            ("out of order", violations.count("out of order")),
            ("numbered by a wrong state", violations.count("wrong state")),
            ("handled by the wrong release", violations.count("wrong release")),
            ("wrong entries of what a tenant ran under", violations.count("wrong entry")),
        ];
        self.counts.extend(SAID.map(|(what, said)| (what, fleet.count(said))));
        self.gap = evidence
            .outputs
            .iter()
            .filter_map(|outputs| longest_gap(outputs.iter().map(|output| output.at)))
            .max()
            .unwrap_or_default();
        for (kind, times) in &swaps.times {
            let mut times = times.clone();
            times.sort_unstable();
            self.swaps.push((kind.name(), times.len(), times[times.len() / 2], times[times.len() - 1]));
        }
        self.told = swaps.given_up.iter().chain(fleet.ended()).cloned().collect();
        self.wrong = violations.told();
        if swaps.given_up.len() > self.options.swaps / 10 + 1 {
            self.wrong.push(format!("{} commands were given up", swaps.given_up.len()));
        }
        self.wrong.extend(wrong);
        let toys = self.settled.iter().filter(|settled| **settled < A_SWAP).count();
        if toys > 0 || self.settled.len() != self.options.swaps {
            let swaps = self.settled.len();
            self.wrong
                .push(format!("too little load: {toys} of {swaps} swaps saw less than {A_SWAP} messages settled"));
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

/// The longest time between two moments that follow each other.
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
        let what = if *fresh { "each deployment a new artifact" } else { "two releases back and forth" };
        writeln!(
            f,
            "Swaps: {swaps} from seed {seed}, {what}, at most {rate} messages a second, in {} min {} s",
            took / 60,
            took % 60
        )?;
        writeln!(f)?;
        writeln!(f, "{:<48} {:>9} {:>16} {:>10}", "command", "times", "it takes: median", "longest")?;
        for (kind, count, median, longest) in &self.swaps {
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
            "resident memory of the hosts after warm-up: {}, in the end: {} (the second was killed in between)",
            mib(&self.warm),
            mib(&self.end)
        )?;
        for told in &self.told {
            writeln!(f, "  {told}")?;
        }
        for wrong in &self.wrong {
            writeln!(f, "WRONG: {wrong}")?;
        }
        writeln!(
            f,
            "{}",
            if self.is_good() { "Nothing lost, nothing twice, each by its release." } else { "NOT as it must be." }
        )
    }
}
