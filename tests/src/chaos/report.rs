//! The report of a run: a table of the faults, counts, and what was wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Cycle;
use super::check::{Evidence, check};
use super::faults::{Fault, FaultKind};
use super::world::{LateRequests, MIN_INPUTS_UNDER_FAULT};
use crate::fleet::Fleet;

/// Log lines of hosts that continue after a fault: the label in the report, and the text of the line.
const COUNTED_LOG_LINES: [(&str, &str); 4] = [
    ("transactions aborted and repeated", "was aborted and runs again"),
    ("workers restarted from the committed state", "starting again from what is committed"),
    ("assignments of shards", "shards assigned"),
    ("revocations of shards", "shards revoked"),
];

/// The result of a run. `Display` prints it for people.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    cycles: usize,
    made: BTreeMap<FaultKind, Made>,
    pub(super) late_requests: LateRequests,
    counts: Vec<(String, usize)>,
    ended: Vec<String>,
    wrong: Vec<String>,
    pub(super) took: Duration,
}

/// The results of the faults of one kind, with an entry for each fault.
#[derive(Debug, Default)]
struct Made {
    /// The number of inputs under the fault.
    inputs_under: Vec<u64>,
    /// The time until all inputs were settled.
    settled_after: Vec<Duration>,
}

impl Report {
    pub(super) fn new(seed: u64, cycles: usize) -> Self {
        Self {
            seed,
            cycles,
            made: BTreeMap::new(),
            late_requests: LateRequests::default(),
            counts: Vec::new(),
            ended: Vec::new(),
            wrong: Vec::new(),
            took: Duration::ZERO,
        }
    }

    pub(super) fn cycle(&mut self, faults: &[Fault], cycle: &Cycle) {
        for (fault, inputs_under) in faults.iter().zip(&cycle.inputs_under) {
            let made = self.made.entry(fault.kind).or_default();
            made.inputs_under.push(*inputs_under);
            made.settled_after.push(cycle.settled_after);
        }
    }

    /// Faults that were too weak: with too few inputs under them, or without a late request.
    fn weak_faults(&self) -> Vec<String> {
        let mut weak = Vec::new();
        for (kind, made) in &self.made {
            if let Some(least) = made.inputs_under.iter().min().filter(|least| **least < MIN_INPUTS_UNDER_FAULT) {
                let name = kind.name();
                weak.push(format!(
                    "{name}: only {least} inputs were under it, but {MIN_INPUTS_UNDER_FAULT} are needed"
                ));
            }
        }
        let expected = self.made.get(&FaultKind::LateRequest).map_or(0, |made| made.inputs_under.len());
        let held_back = self.late_requests.held_back;
        if held_back != expected {
            weak.push(format!("{held_back} requests were held back instead of {expected}"));
        }
        weak
    }

    pub(super) fn judge(&mut self, evidence: &Evidence, wrong: Vec<String>, fleet: &Fleet) {
        let violations = check(evidence);
        self.counts = vec![
            ("inputs, all acknowledged".to_owned(), evidence.sent.len()),
            ("records of outputs".to_owned(), evidence.lines.len() + evidence.audit.len()),
            ("dead letters".to_owned(), evidence.dead_letters.len()),
            ("lost".to_owned(), violations.count("lost")),
            ("settled twice".to_owned(), violations.count("settled twice")),
            ("out of order".to_owned(), violations.count("out of order")),
            ("wrong outputs".to_owned(), violations.count("wrong output")),
            ("differences in state".to_owned(), violations.count("state differs")),
            ("open transactions, wrong offsets".to_owned(), wrong.len()),
        ];
        self.counts.extend(COUNTED_LOG_LINES.map(|(label, text)| (label.to_owned(), fleet.count(text))));
        self.counts.push(("requests held back".to_owned(), self.late_requests.held_back));
        self.counts.push(("  answered by a broker when late".to_owned(), self.late_requests.answered));
        self.counts.push(("hosts that ended by themselves, restarted".to_owned(), fleet.ended().len()));
        self.ended = fleet.ended().to_vec();
        self.wrong = violations.summary();
        self.wrong.extend(wrong);
        self.wrong.extend(self.weak_faults());
    }

    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.wrong.is_empty()
    }

    /// The number of kinds of faults that were made.
    pub fn kinds(&self) -> usize {
        self.made.len()
    }

    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, cycles, .. } = self;
        let took = self.took.as_secs();
        writeln!(f, "Chaos: {cycles} cycles from seed {seed} in {} min {} s", took / 60, took % 60)?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<48} {:>6} {:>13} {:>7} {:>21} {:>8}",
            "fault", "times", "inputs: least", "all", "settled after: median", "worst"
        )?;
        for (kind, Made { inputs_under, settled_after }) in &self.made {
            let mut times = settled_after.clone();
            times.sort_unstable();
            let [median, worst] = [times[times.len() / 2], times[times.len() - 1]].map(|time| time.as_secs_f64());
            let least = inputs_under.iter().min().copied().unwrap_or_default();
            let all = inputs_under.iter().sum::<u64>();
            writeln!(f, "{:<48} {:>6} {least:>13} {all:>7} {median:>19.1} s {worst:>6.1} s", kind.name(), times.len())?;
        }
        writeln!(f)?;
        for (what, count) in &self.counts {
            writeln!(f, "{what:<48} {count:>6}")?;
        }
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for ended in &self.ended {
            *reasons.entry(ended).or_default() += 1;
        }
        for (reason, times) in reasons {
            writeln!(f, "  {times} times {reason}")?;
        }
        for wrong in &self.wrong {
            writeln!(f, "WRONG: {wrong}")?;
        }
        writeln!(f, "{}", if self.is_good() { "Every input was settled exactly once." } else { "NOT exactly once." })
    }
}
