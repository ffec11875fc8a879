//! The table of faults made and of what was found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::check::{Evidence, check};
use super::faults::{Fault, Kind};
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
    settled: BTreeMap<Kind, Vec<Duration>>,
    /// Requests held back, and those of them that a broker answered late.
    pub(super) late: (usize, usize),
    counts: Vec<(String, usize)>,
    ended: Vec<String>,
    wrong: Vec<String>,
    pub(super) took: Duration,
}

impl Report {
    pub(super) fn new(seed: u64, cycles: usize) -> Self {
        Self {
            seed,
            cycles,
            settled: BTreeMap::new(),
            late: (0, 0),
            counts: Vec::new(),
            ended: Vec::new(),
            wrong: Vec::new(),
            took: Duration::ZERO,
        }
    }

    pub(super) fn cycle(&mut self, faults: &[Fault], settled: Duration) {
        for fault in faults {
            self.settled.entry(fault.kind).or_default().push(settled);
        }
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
    }

    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.wrong.is_empty()
    }

    /// How many kinds of faults were made.
    pub fn kinds(&self) -> usize {
        self.settled.len()
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
        writeln!(f, "{:<48} {:>6} {:>20} {:>8}", "fault", "times", "settled after: median", "worst")?;
        for (kind, times) in &self.settled {
            let mut times = times.clone();
            times.sort_unstable();
            let [median, worst] = [times[times.len() / 2], times[times.len() - 1]].map(|time| time.as_secs_f64());
            writeln!(f, "{:<48} {:>6} {median:>19.1} s {worst:>6.1} s", kind.name(), times.len())?;
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
