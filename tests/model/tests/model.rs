//! The rules keep the promise in all states of the small scopes, and each mistake breaks it.

use std::collections::HashSet;

use switchboard_model::load;
use switchboard_model::mistakes::{LOAD_SCOPE, MISTAKES, PlantedMistake, VARIATIONS};
use switchboard_model::rules::RULES;
use switchboard_model::scopes::{self, LARGE, SMALL};
use switchboard_model::search::{Ending, Options, Report, search};
use switchboard_model::state::Model;

/// More states than any search here has.
const MAX_STATES: usize = 3_000_000;

fn search_planted(planted: &PlantedMistake) -> Report {
    let mistake = Some(planted.mistake);
    if planted.scope == LOAD_SCOPE {
        return load::search(mistake);
    }
    let scope = scopes::find(planted.scope).expect("the scope of a mistake");
    let options = Options { checks_end: scope.checks_end, max_states: MAX_STATES };
    search(&Model { bounds: scope.bounds, mistake }, options)
}

#[test]
fn the_promise_holds_in_all_states_of_the_small_scopes() {
    for scope in SMALL {
        let options = Options { checks_end: scope.checks_end, max_states: MAX_STATES };
        let report = search(&Model { bounds: scope.bounds, mistake: None }, options);
        println!("{}: {} states", scope.name, report.states);
        assert_eq!(report.ending, Ending::Holds, "{}: {report:#?}", scope.name);
    }
}

#[test]
fn the_direct_path_opens_under_endless_load() {
    let report = load::search(None);
    assert_eq!(report.ending, Ending::Holds, "{report:#?}");
}

#[test]
fn each_mistake_breaks_the_promise() {
    for planted in MISTAKES {
        let report = search_planted(planted);
        println!("{}: {:?} after {} states, {} steps", planted.name, report.ending, report.states, report.trace.len());
        assert!(matches!(report.ending, Ending::Violation | Ending::Stuck), "{}: {report:?}", planted.name);
        assert!(report.problem.is_some() && !report.trace.is_empty(), "{}: {report:?}", planted.name);
    }
}

#[test]
fn each_variation_keeps_the_promise() {
    for planted in VARIATIONS {
        let report = search_planted(planted);
        assert_eq!(report.ending, Ending::Holds, "{}: {report:#?}", planted.name);
    }
}

#[test]
fn each_rule_is_broken_by_a_mistake_or_says_why_not() {
    for rule in RULES {
        let is_broken = MISTAKES.iter().any(|planted| planted.rule == rule.name);
        assert_eq!(is_broken, rule.unbreakable.is_none(), "{}", rule.name);
        let varies = VARIATIONS.iter().any(|planted| planted.rule == rule.name);
        assert!(varies || rule.unbreakable.is_none(), "{}", rule.name);
    }
    for planted in MISTAKES.iter().chain(VARIATIONS) {
        assert!(RULES.iter().any(|rule| rule.name == planted.rule), "{} breaks no rule", planted.name);
    }
}

#[test]
fn each_name_means_one_thing() {
    let rules = RULES.iter().map(|rule| rule.name);
    let mistakes = MISTAKES.iter().chain(VARIATIONS).map(|planted| planted.name);
    let scopes = SMALL.iter().chain(LARGE).map(|scope| scope.name).chain([LOAD_SCOPE]);
    let mut seen = HashSet::new();
    for name in rules.chain(mistakes).chain(scopes) {
        assert!(seen.insert(name), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
    }
    let kinds: HashSet<_> = MISTAKES.iter().chain(VARIATIONS).map(|planted| planted.mistake).collect();
    assert_eq!(kinds.len(), MISTAKES.len() + VARIATIONS.len());
}

/// The trace is found again from hashes: its last step must lead to the violation that was reported.
#[test]
fn the_same_search_gives_the_same_trace_again() {
    let planted = MISTAKES.iter().find(|planted| planted.name == "skip-direct-records").expect("the mistake");
    let (first, second) = (search_planted(planted), search_planted(planted));
    assert_eq!(first, second);
    assert!(first.trace.last().is_some_and(|step| step.contains("commits")), "{first:#?}");
}
