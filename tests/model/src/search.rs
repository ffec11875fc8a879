//! A search of all states: breadth first, so the first violation has the fewest steps.
//!
//! A state is known by a hash of 64 bits. Two different states with one hash would hide a part of the search. With 10 million
//! states the probability of that is 3 in a million, with 100 million 3 in ten thousand.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A model that can be searched.
pub trait Explore {
    /// A state.
    type State: Copy + Hash;
    /// What happens between two states.
    type Step: fmt::Display;

    /// The first state.
    fn start(&self) -> Self::State;
    /// Adds all possible steps, each with the state that it leads to.
    fn steps(&self, state: &Self::State, out: &mut Vec<(Self::Step, Self::State)>);
    /// What is wrong with a state.
    fn violation(&self, state: &Self::State) -> Option<String>;
    /// Whether everything is done in a state.
    fn is_end(&self, state: &Self::State) -> bool;
}

/// What a search does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether it also checks that the end can be reached from each state. This needs more memory.
    pub checks_end: bool,
    /// After how many states it gives up.
    pub max_states: usize,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All states were searched, and none is wrong.
    Holds,
    /// The limit was reached before all states were searched, and none was wrong.
    LimitReached,
    /// A state is wrong.
    Violation,
    /// The end cannot be reached from a state.
    Stuck,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it ended.
    pub ending: Ending,
    /// How many states it has seen.
    pub states: usize,
    /// What is wrong.
    pub problem: Option<String>,
    /// The steps that lead to the wrong state.
    pub trace: Vec<String>,
}

/// Searches all states of a model.
pub fn search<M: Explore>(model: &M, options: Options) -> Report {
    let mut search = Search::new(model, options);
    let ending = search.run();
    let (problem, trace) = match ending {
        Ended::Holds | Ended::LimitReached => (None, Vec::new()),
        Ended::Violation(state, ref problem) => (Some(problem.clone()), search.trace(state)),
        Ended::Stuck(state, count) => {
            let problem = format!("from {count} states the end cannot be reached; this is one of them");
            (Some(problem), search.trace(state))
        }
    };
    let ending = match ending {
        Ended::Holds => Ending::Holds,
        Ended::LimitReached => Ending::LimitReached,
        Ended::Violation(..) => Ending::Violation,
        Ended::Stuck(..) => Ending::Stuck,
    };
    Report { ending, states: search.parents.len(), problem, trace }
}

/// The number of a state, in the order in which states were found.
type Id = u32;

enum Ended {
    Holds,
    LimitReached,
    Violation(Id, String),
    Stuck(Id, usize),
}

struct Search<'a, M: Explore> {
    model: &'a M,
    options: Options,
    ids: HashMap<u64, Id, BuildHasherDefault<IdentityHasher>>,
    /// From which state each state was found first.
    parents: Vec<Id>,
    /// Each step as its end and its begin, for the check of the end.
    edges: Vec<(Id, Id)>,
    ends: Vec<Id>,
}

impl<'a, M: Explore> Search<'a, M> {
    fn new(model: &'a M, options: Options) -> Self {
        let (ids, parents, edges, ends) = (HashMap::default(), Vec::new(), Vec::new(), Vec::new());
        Self { model, options, ids, parents, edges, ends }
    }

    fn run(&mut self) -> Ended {
        let mut waiting = VecDeque::from([self.model.start()]);
        let mut steps = Vec::new();
        self.ids.insert(key(&waiting[0]), 0);
        self.parents.push(0);
        let mut from: Id = 0;
        while let Some(state) = waiting.pop_front() {
            if self.options.checks_end && self.model.is_end(&state) {
                self.ends.push(from);
            }
            steps.clear();
            self.model.steps(&state, &mut steps);
            for (_, next) in &steps {
                let new = Id::try_from(self.parents.len()).expect("fewer than 2^32 states");
                let id = *self.ids.entry(key(next)).or_insert(new);
                if self.options.checks_end {
                    self.edges.push((id, from));
                }
                if id != new {
                    continue;
                }
                self.parents.push(from);
                if let Some(problem) = self.model.violation(next) {
                    return Ended::Violation(id, problem);
                }
                waiting.push_back(*next);
            }
            if self.parents.len() > self.options.max_states {
                return Ended::LimitReached;
            }
            from += 1;
        }
        if self.options.checks_end { self.check_end() } else { Ended::Holds }
    }

    /// Goes back from the ends, and looks for a state that was not met.
    fn check_end(&mut self) -> Ended {
        let mut first = vec![0u32; self.parents.len() + 1];
        for (to, _) in &self.edges {
            first[*to as usize + 1] += 1;
        }
        for index in 1..first.len() {
            first[index] += first[index - 1];
        }
        let mut places = first.clone();
        let mut begins = vec![0; self.edges.len()];
        for (to, begin) in std::mem::take(&mut self.edges) {
            let place = &mut places[to as usize];
            begins[*place as usize] = begin;
            *place += 1;
        }
        let mut reaches = vec![false; self.parents.len()];
        let mut waiting = std::mem::take(&mut self.ends);
        for end in &waiting {
            reaches[*end as usize] = true;
        }
        while let Some(state) = waiting.pop() {
            let range = first[state as usize] as usize..first[state as usize + 1] as usize;
            for begin in &begins[range] {
                if !std::mem::replace(&mut reaches[*begin as usize], true) {
                    waiting.push(*begin);
                }
            }
        }
        let stuck = reaches.iter().filter(|reaches| !**reaches).count();
        match (0..).zip(&reaches).find(|(_, reaches)| !**reaches) {
            None => Ended::Holds,
            Some((state, _)) => Ended::Stuck(state, stuck),
        }
    }

    /// The steps from the first state to this one. They are found again by the states' hashes.
    fn trace(&self, state: Id) -> Vec<String> {
        let mut path = vec![state];
        while let Some(last) = path.last().filter(|last| **last != 0) {
            path.push(self.parents[*last as usize]);
        }
        let mut state = self.model.start();
        let mut trace = Vec::new();
        for id in path.iter().rev().skip(1) {
            let mut steps = Vec::new();
            self.model.steps(&state, &mut steps);
            let step = steps.into_iter().find(|(_, next)| self.ids.get(&key(next)) == Some(id));
            let Some((step, next)) = step else { break };
            trace.push(step.to_string());
            state = next;
        }
        trace
    }
}

fn key<S: Hash>(state: &S) -> u64 {
    let mut hasher = StateHasher::default();
    state.hash(&mut hasher);
    hasher.finish()
}

/// A quick hash of many small numbers. Eight bytes are collected, then mixed in.
#[derive(Default)]
struct StateHasher {
    mixed: u64,
    word: u64,
    bits: u32,
}

impl StateHasher {
    fn mix(&mut self, word: u64) {
        const MULTIPLIER: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;
        let product = u128::from(self.mixed ^ word).wrapping_mul(MULTIPLIER);
        self.mixed = fold(product).rotate_left(23) ^ word;
    }
}

/// Both halves of a product, one over the other.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn fold(product: u128) -> u64 {
    (product >> 64) as u64 ^ product as u64
}

impl Hasher for StateHasher {
    fn finish(&self) -> u64 {
        let mut end = Self { ..*self };
        end.mix(self.word);
        end.mix(u64::from(self.bits) ^ 0x2545_F491_4F6C_DD1D);
        end.mixed
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.word = self.word << 8 | u64::from(number);
        self.bits += 8;
        if self.bits.is_multiple_of(64) {
            self.mix(self.word);
            self.word = 0;
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn write_u16(&mut self, number: u16) {
        self.write(&number.to_ne_bytes());
    }

    /// The discriminants of enums arrive here. They are small.
    fn write_isize(&mut self, number: isize) {
        self.write_u8(u8::try_from(number).unwrap_or(u8::MAX));
    }
}

/// For keys that are hashes already.
#[derive(Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |key, byte| key << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up by one or two. Odd numbers from `trap` on have no further step.
    struct Counts {
        wrong: u8,
        trap: u8,
    }

    impl Explore for Counts {
        type State = u8;
        type Step = String;

        fn start(&self) -> u8 {
            0
        }

        fn steps(&self, state: &u8, out: &mut Vec<(String, u8)>) {
            let is_trapped = *state >= self.trap && state % 2 == 1;
            let steps = [1, 2].into_iter().filter(|step| !is_trapped && state + step <= 10);
            out.extend(steps.map(|step| (format!("adds {step}"), state + step)));
        }

        fn violation(&self, state: &u8) -> Option<String> {
            (*state == self.wrong).then(|| format!("{state} is wrong"))
        }

        fn is_end(&self, state: &u8) -> bool {
            *state == 10
        }
    }

    fn searched(wrong: u8, trap: u8, max_states: usize) -> Report {
        search(&Counts { wrong, trap }, Options { checks_end: true, max_states })
    }

    #[test]
    fn all_states_are_counted() {
        let report = searched(11, 11, 100);
        assert_eq!((report.ending, report.states), (Ending::Holds, 11));
    }

    #[test]
    fn a_violation_has_the_fewest_steps() {
        let report = searched(5, 11, 100);
        assert_eq!((report.ending, report.problem.as_deref()), (Ending::Violation, Some("5 is wrong")));
        assert_eq!(report.trace.len(), 3, "{:?}", report.trace);
    }

    #[test]
    fn a_state_from_which_the_end_cannot_be_reached_is_found() {
        let report = searched(11, 7, 100);
        assert_eq!(report.ending, Ending::Stuck);
        let problem = report.problem.expect("a problem");
        assert!(problem.starts_with("from 2 states the end cannot be reached"), "7 and 9: {problem}");
        assert_eq!(report.trace.len(), 4, "to 7: {:?}", report.trace);
    }

    #[test]
    fn a_search_gives_up_at_its_limit() {
        assert_eq!(searched(11, 11, 3).ending, Ending::LimitReached);
    }

    #[test]
    fn a_hash_depends_on_each_byte_and_its_place() {
        let states: Vec<[u8; 11]> = (0..11u8)
            .flat_map(|place| {
                (0..=255).map(move |byte| std::array::from_fn(|at| if at == usize::from(place) { byte } else { 7 }))
            })
            .collect();
        let keys: std::collections::HashSet<u64> = states.iter().map(key).collect();
        let different: std::collections::HashSet<_> = states.iter().collect();
        assert_eq!(keys.len(), different.len());
    }
}
