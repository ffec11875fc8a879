//! The table of faults made and of what was found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Cycle;
use super::check::{Evidence, check};
use super::faults::{Fault, Kind};
use super::world::UNDER_A_FAULT;
use crate::fleet::Fleet;

/// What hosts say in their logs when they go on after a fault.
const SAID: [(&str, &str); 4] = [
    ("transactions aborted and run again", "was aborted and runs again"),
    ("workers started again from what is committed", "starting again from what is committed"),
    ("assignments of partitions", "partitions assigned"),
    ("revocations of partitions", "partitions revoked"),
];

/// The outcome of a run. Its text is for people.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    cycles: usize,
    made: BTreeMap<Kind, Made>,
    /// Requests held back, and those of them that a broker answered late.
    pub(super) late: (usize, usize),
    counts: Vec<(String, usize)>,
    ended: Vec<String>,
    wrong: Vec<String>,
    pub(super) took: Duration,
}

/// What came of the faults of one kind: an entry for each that was made.
#[derive(Debug, Default)]
struct Made {
    /// Inputs under it.
    under: Vec<u64>,
    /// How long it took until all was settled.
    settled: Vec<Duration>,
}

impl Report {
    pub(super) fn new(seed: u64, cycles: usize) -> Self {
        Self {
            seed,
            cycles,
            made: BTreeMap::new(),
            late: (0, 0),
            counts: Vec::new(),
            ended: Vec::new(),
            wrong: Vec::new(),
            took: Duration::ZERO,
        }
    }

    pub(super) fn cycle(&mut self, faults: &[Fault], cycle: &Cycle) {
        for (fault, under) in faults.iter().zip(&cycle.under) {
            let made = self.made.entry(fault.kind).or_default();
            made.under.push(*under);
            made.settled.push(cycle.settled);
        }
    }

    /// Faults that were not made as they are meant: with too few inputs under them, or without the request that is late.
    fn toys(&self) -> Vec<String> {
        let mut toys = Vec::new();
        for (kind, made) in &self.made {
            if let Some(least) = made.under.iter().min().filter(|least| **least < UNDER_A_FAULT) {
                toys.push(format!("{}: only {least} inputs were under it, of {UNDER_A_FAULT}", kind.name()));
            }
        }
        let late = self.made.get(&Kind::LateRequest).map_or(0, |made| made.under.len());
        if self.late.0 != late {
            toys.push(format!("{} requests were held back instead of {late}", self.late.0));
        }
        toys
    }

    pub(super) fn judge(&mut self, evidence: &Evidence, wrong: Vec<String>, fleet: &Fleet) {
        let violations = check(evidence);
        self.counts = vec![
            ("inputs, all acknowledged".to_owned(), evidence.sent.len()),
            ("records of outputs".to_owned(), evidence.lines.len() + evidence.audit.len()),
            ("dead letters".to_owned(), evidence.letters.len()),
            ("lost".to_owned(), violations.count("lost")),
            ("settled twice".to_owned(), violations.count("settled twice")),
            ("out of order".to_owned(), violations.count("out of order")),
            ("wrong outputs".to_owned(), violations.count("wrong output")),
            ("differences in state".to_owned(), violations.count("state differs")),
            ("open transactions, wrong offsets".to_owned(), wrong.len()),
        ];
        self.counts.extend(SAID.map(|(what, said)| (what.to_owned(), fleet.count(said))));
        self.counts.push(("requests held back".to_owned(), self.late.0));
        self.counts.push(("of these, answered by a broker when late".to_owned(), self.late.1));
        self.counts.push(("hosts that ended by themselves, started again".to_owned(), fleet.ended().len()));
        self.ended = fleet.ended().to_vec();
        self.wrong = violations.told();
        self.wrong.extend(wrong);
        self.wrong.extend(self.toys());
    }

    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.wrong.is_empty()
    }

    /// How many kinds of faults were made.
    pub fn kinds(&self) -> usize {
        self.made.len()
    }

    pub fn wrong(&self) -> &[String] {
        &self.wrong
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, cycles, took) = (self.seed, self.cycles, self.took.as_secs());
        writeln!(f, "Chaos: {cycles} cycles from seed {seed} in {} min {} s", took / 60, took % 60)?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<48} {:>6} {:>13} {:>7} {:>21} {:>8}",
            "fault", "times", "inputs: least", "all", "settled after: median", "worst"
        )?;
        for (kind, Made { under, settled }) in &self.made {
            let mut times = settled.clone();
            times.sort_unstable();
            let [median, worst] = [times[times.len() / 2], times[times.len() - 1]].map(|time| time.as_secs_f64());
            let (least, all) = (under.iter().min().copied().unwrap_or_default(), under.iter().sum::<u64>());
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
        writeln!(f, "{}", if self.is_good() { "Nothing lost, nothing twice." } else { "NOT exactly once." })
    }
}
