//! Whether the direct path opens under load that never ends. A model of its own, because the other one has few records.
//!
//! One member owns `p` and `s`, and all records of `p` belong to `s`. `p` always has a next record. Several records of `s` are
//! not read yet when the search begins. The model counts records instead of telling them apart.
//!
//! A step that stays possible is taken some day (weak fairness). A violation is a state without a step in which the path is not
//! open, or a cycle of fair steps through which the path never opens. There are two assumptions about speed. The member reads at
//! least two records of `s` for each one that it hops. Without that, `s` could stay far behind for ever. And an attempt has the
//! time that it takes: it is never given up.

use std::collections::HashMap;
use std::fmt;

use crate::mistakes::Mistake;
use crate::search::{Ending, Report};

/// Records of `s` that are not read when the search begins.
const FIRST_BACKLOG: u8 = 5;
/// With more unread records than this, `s` is far behind.
const NEAR: u8 = 2;
/// How many records of `p` may be held back.
const HELD_BOUND: u8 = 2;
/// How many records the inbox holds.
const INBOX_BOUND: u8 = 2;
/// Records of `s` that the member reads, at least, between two hops.
const READS_FOR_A_HOP: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Path {
    Closed,
    /// Records of `p` are held back, and the barrier is not written.
    Held,
    /// So many records are left to read, with the barrier.
    Opening(u8),
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    path: Path,
    /// Records of `s` that are not read.
    backlog: u8,
    /// A transaction with a hop is open.
    has_open_hop: bool,
    /// Records of `p` that were read and are held back.
    held: u8,
    /// Records of `s` that were read and are not settled.
    inbox: u8,
    /// Records of `s` that were read since the last hop.
    reads: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    ReadSource,
    Hop,
    EndHop,
    ReadShard,
    Settle,
    StartAttempt,
    WriteBarrier,
}

const STEPS: [Step; 7] =
    [Step::ReadSource, Step::Hop, Step::EndHop, Step::ReadShard, Step::Settle, Step::StartAttempt, Step::WriteBarrier];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadSource => "the member reads a record of p",
            Self::Hop => "the member begins a transaction in which a record of p hops",
            Self::EndHop => "that transaction is committed",
            Self::ReadShard => "the member reads a record of s",
            Self::Settle => "a record of s is settled",
            Self::StartAttempt => "the member begins to open the direct path",
            Self::WriteBarrier => "a transaction writes the barrier, and is committed",
        })
    }
}

/// Searches all states, and looks for one from which the path may never open.
pub fn search(mistake: Option<Mistake>) -> Report {
    let graph = Graph::explore(mistake);
    let found = (0..graph.states.len()).find_map(|state| Some((state, graph.starves(state)?)));
    let states = graph.states.len();
    let Some((state, problem)) = found else {
        return Report { ending: Ending::Holds, states, problem: None, trace: Vec::new() };
    };
    Report { ending: Ending::Stuck, states, problem: Some(problem), trace: graph.trace(state) }
}

impl State {
    fn start() -> Self {
        let path = Path::Closed;
        Self { path, backlog: FIRST_BACKLOG, has_open_hop: false, held: 0, inbox: 0, reads: READS_FOR_A_HOP }
    }

    /// The state after a step, if the step is possible.
    fn after(mut self, step: Step, mistake: Option<Mistake>) -> Option<Self> {
        let shared = mistake == Some(Mistake::HoldBackInInbox);
        let counted_to_inbox = if shared { self.inbox + self.held } else { self.inbox };
        match step {
            Step::ReadSource if self.held < HELD_BOUND && (!shared || counted_to_inbox < INBOX_BOUND) => self.held += 1,
            Step::Hop if self.held > 0 && !self.has_open_hop && self.may_hop(mistake) => {
                self.held -= 1;
                self.has_open_hop = true;
                self.reads = 0;
            }
            Step::EndHop if self.has_open_hop => {
                self.has_open_hop = false;
                self.backlog += 1;
            }
            Step::ReadShard if self.backlog > 0 && counted_to_inbox < INBOX_BOUND => {
                self.backlog -= 1;
                self.inbox += 1;
                self.reads = READS_FOR_A_HOP.min(self.reads + 1);
                self.path = match self.path {
                    Path::Opening(1) => Path::Open,
                    Path::Opening(left) => Path::Opening(left - 1),
                    other => other,
                };
            }
            Step::Settle if self.inbox > 0 => self.inbox -= 1,
            Step::StartAttempt if self.path == Path::Closed && self.may_start(mistake) => self.path = Path::Held,
            Step::WriteBarrier if self.path == Path::Held && !self.has_open_hop => {
                self.backlog += 1;
                self.path = Path::Opening(self.backlog);
            }
            _ => return None,
        }
        Some(self)
    }

    fn may_start(self, mistake: Option<Mistake>) -> bool {
        match mistake {
            Some(Mistake::StartAttemptWhileFar) => true,
            Some(Mistake::StartAttemptBetweenHops) => self.backlog <= NEAR && !self.has_open_hop,
            _ => self.backlog <= NEAR,
        }
    }

    fn may_hop(self, mistake: Option<Mistake>) -> bool {
        let is_allowed = match self.path {
            Path::Closed => true,
            Path::Held => mistake == Some(Mistake::HopBeforeBarrier),
            Path::Opening(_) | Path::Open => false,
        };
        // Where little is left to read, all of it counts as read often enough.
        is_allowed && (self.reads >= READS_FOR_A_HOP || self.backlog == 0)
    }
}

/// All states, with the steps between them.
struct Graph {
    states: Vec<State>,
    steps: Vec<Vec<(Step, usize)>>,
    parents: Vec<Option<(usize, Step)>>,
}

impl Graph {
    fn explore(mistake: Option<Mistake>) -> Self {
        let start = State::start();
        let mut graph = Self { states: vec![start], steps: Vec::new(), parents: vec![None] };
        let mut ids = HashMap::from([(start, 0)]);
        while let Some(state) = graph.states.get(graph.steps.len()).copied() {
            let from = graph.steps.len();
            let possible = STEPS.iter().filter_map(|step| Some((*step, state.after(*step, mistake)?)));
            let possible: Vec<_> = if state.path == Path::Open { Vec::new() } else { possible.collect() };
            let mut steps = Vec::new();
            for (step, next) in possible {
                let new = graph.states.len();
                let id = *ids.entry(next).or_insert(new);
                if id == new {
                    graph.states.push(next);
                    graph.parents.push(Some((from, step)));
                }
                steps.push((step, id));
            }
            graph.steps.push(steps);
        }
        graph
    }

    /// Why the path may never open from this state on, if so.
    fn starves(&self, state: usize) -> Option<String> {
        if self.states[state].path == Path::Open {
            return None;
        }
        if self.steps[state].is_empty() {
            return Some("the direct path is not open, and no step is possible".to_owned());
        }
        let reached = self.reached_from(state);
        let is_in_cycle = |other: &usize| reached[*other] && self.reached_from(*other)[state];
        let cycle: Vec<usize> = (0..self.states.len()).filter(is_in_cycle).collect();
        let inside = |from: usize, step: Step| self.steps[from].iter().any(|(s, to)| *s == step && cycle.contains(to));
        let is_possible = |from: usize, step: Step| self.steps[from].iter().any(|(s, _)| *s == step);
        let is_fair = |step: &Step| {
            cycle.iter().any(|from| inside(*from, *step)) || cycle.iter().any(|from| !is_possible(*from, *step))
        };
        let taken: Vec<_> = STEPS.iter().filter(|step| cycle.iter().any(|from| inside(*from, **step))).collect();
        if taken.is_empty() || !STEPS.iter().all(is_fair) {
            return None;
        }
        let taken: Vec<_> = taken.iter().map(ToString::to_string).collect();
        Some(format!("these steps can repeat for ever, and the direct path never opens: {}", taken.join("; ")))
    }

    /// Which states can be reached from this one by one step or more.
    fn reached_from(&self, state: usize) -> Vec<bool> {
        let mut reached = vec![false; self.states.len()];
        let mut waiting = vec![state];
        while let Some(from) = waiting.pop() {
            for (_, to) in &self.steps[from] {
                if !std::mem::replace(&mut reached[*to], true) {
                    waiting.push(*to);
                }
            }
        }
        reached
    }

    fn trace(&self, mut state: usize) -> Vec<String> {
        let mut steps = Vec::new();
        while let Some((from, step)) = self.parents[state] {
            steps.push(step.to_string());
            state = from;
        }
        steps.reverse();
        steps
    }
}
