//! The command line of `switchboard-model`.
//!
//! It is parsed by hand: the crate has no dependencies, so that it builds in seconds.

use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

use crate::cluster::group::{Anchor, Fencing};
use crate::load;
use crate::mistakes::{self, LOAD_SCOPE, MISTAKES, PlantedMistake};
use crate::rules;
use crate::scopes::{self, Scope};
use crate::search::{Ending, Options, Report, search};
use crate::state::{Bounds, Model};

const HELP: &str = "\
Searches all states of a small cluster for one that breaks the promise: each record is processed exactly once, in its
tenant's order, on the newest state.

Usage: switchboard-model [FLAGS]

  --large                 searches all large scopes, and prints a line for each
  --list                  lists rules, mistakes, variations and scopes
  --scope NAME            the bounds to start from (default: that of the mistake, or `moves`)
  --mistake NAME          breaks a rule, and prints the steps that lead to the violation

Bounds, which replace those of the scope:
  --records N             records of p, 1 to 6
  --batch N               hops, results and parked records in one transaction, 1 to 6
  --anchor same|other     whether p is anchored to s or to another shard
  --fencing generation|partition
                          classic protocol, or KIP-848 of Kafka 4.4
  --messages time|instant whether messages run for some time, or end at once
  --source-moves N        moves of p (with --anchor other)
  --shard-moves N         moves of s (with --anchor same: of both)
  --rebalances N          generations in which nothing moves
  --crashes N             crashes of a member
  --aborts N              aborts of a transaction
  --refusals N            messages whose records the broker refuses
  --parks N               records that are parked
  --give-ups N            attempts to open the direct path that are given up
  --end yes|no            whether it checks that the end can be reached from each state
  --max-states N          gives up after so many states (default: 100000000)

Exit status: 0 if the promise holds, or if a mistake breaks it; 1 if not, or if the search gave up; 2 for wrong flags.";

/// The most records, and the most of them in a transaction.
const MAX_RECORDS: u8 = 6;
/// The most faults of one kind.
const MAX_FAULTS: u8 = 4;
const DEFAULT_MAX_STATES: usize = 100_000_000;

/// A command line that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum UsageError {
    /// A flag that does not exist.
    UnknownFlag(String),
    /// A flag without its value.
    NoValue(String),
    /// A value that the flag does not accept, and what it accepts.
    WrongValue(String, String, String),
    /// Two flags that exclude each other.
    Conflict(&'static str),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFlag(flag) => write!(f, "unknown flag {flag}; --help lists all"),
            Self::NoValue(flag) => write!(f, "{flag} needs a value; --help says which"),
            Self::WrongValue(flag, value, accepted) => write!(f, "{flag} {value}: expected {accepted}"),
            Self::Conflict(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for UsageError {}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq)]
enum Command {
    Help,
    List,
    Large,
    Search(Request),
}

/// A search of one scope.
#[derive(Clone, Debug, PartialEq)]
struct Request {
    /// The scope, with the bounds that flags replaced. None: the model of the load.
    scope: Option<Scope>,
    planted: Option<&'static PlantedMistake>,
    max_states: usize,
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match parse(&arguments) {
        Ok(Command::Help) => println!("{HELP}"),
        Ok(Command::List) => list(),
        Ok(Command::Large) => return run_large(),
        Ok(Command::Search(request)) => return run(&request),
        Err(error) => {
            eprintln!("switchboard-model: {error}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn parse(arguments: &[String]) -> Result<Command, UsageError> {
    let mut flags = Vec::new();
    let mut rest = arguments.iter();
    while let Some(flag) = rest.next() {
        match flag.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--list" => return Ok(Command::List),
            "--large" if arguments.len() == 1 => return Ok(Command::Large),
            "--large" => return Err(UsageError::Conflict("--large searches fixed scopes, and takes no other flag")),
            name if VALUE_FLAGS.contains(&name) => {
                let value = rest.next().ok_or_else(|| UsageError::NoValue(flag.clone()))?;
                flags.push((name, value.as_str()));
            }
            _ => return Err(UsageError::UnknownFlag(flag.clone())),
        }
    }
    request(&flags).map(Command::Search)
}

const VALUE_FLAGS: &[&str] = &[
    "--scope",
    "--mistake",
    "--records",
    "--batch",
    "--anchor",
    "--fencing",
    "--messages",
    "--source-moves",
    "--shard-moves",
    "--rebalances",
    "--crashes",
    "--aborts",
    "--refusals",
    "--parks",
    "--give-ups",
    "--end",
    "--max-states",
];

fn request(flags: &[(&str, &str)]) -> Result<Request, UsageError> {
    let value = |name| flags.iter().rev().find(|(flag, _)| *flag == name).map(|(_, value)| *value);
    let wrong = |flag: &str, value: &str, accepted: &str| {
        Err(UsageError::WrongValue(flag.to_owned(), value.to_owned(), accepted.to_owned()))
    };
    let planted = match value("--mistake") {
        None => None,
        Some(name) => match mistakes::find(name) {
            None => return wrong("--mistake", name, "a mistake or a variation that --list names"),
            found => found,
        },
    };
    let name = value("--scope").unwrap_or_else(|| planted.map_or("moves", |planted| planted.scope));
    let mut request = Request { scope: None, planted, max_states: DEFAULT_MAX_STATES };
    if name == LOAD_SCOPE {
        let has_bounds = flags.iter().any(|(flag, _)| !matches!(*flag, "--scope" | "--mistake"));
        let error = UsageError::Conflict("the scope endless-load has no bounds");
        return if has_bounds { Err(error) } else { Ok(request) };
    }
    if planted.is_some_and(|planted| planted.scope == LOAD_SCOPE) {
        return Err(UsageError::Conflict("this mistake belongs to the scope endless-load, and to no other"));
    }
    let Some(mut scope) = scopes::find(name).copied() else {
        return wrong("--scope", name, "a scope that --list names");
    };
    for (flag, value) in flags {
        match *flag {
            "--max-states" => match value.parse() {
                Ok(number) => request.max_states = number,
                Err(_) => return wrong(flag, value, "a number"),
            },
            "--end" => scope.checks_end = choice(flag, value, &[("yes", true), ("no", false)])?,
            _ => set_bound(&mut scope.bounds, flag, value)?,
        }
    }
    if scope.bounds.faults.parks > 0 && !scope.bounds.messages_take_time {
        return Err(UsageError::Conflict("--parks needs --messages time: a record with a result is not parked"));
    }
    request.scope = Some(scope);
    Ok(request)
}

fn set_bound(bounds: &mut Bounds, flag: &str, value: &str) -> Result<(), UsageError> {
    let faults = &mut bounds.faults;
    match flag {
        "--records" => bounds.records = number(flag, value, 1, MAX_RECORDS)?,
        "--batch" => bounds.batch = number(flag, value, 1, MAX_RECORDS)?,
        "--anchor" => {
            bounds.anchor = choice(flag, value, &[("same", Anchor::SameShard), ("other", Anchor::OtherShard)])?;
        }
        "--fencing" => {
            let choices = [("generation", Fencing::Generation), ("partition", Fencing::Partition)];
            bounds.fencing = choice(flag, value, &choices)?;
        }
        "--messages" => bounds.messages_take_time = choice(flag, value, &[("time", true), ("instant", false)])?,
        "--source-moves" => faults.source_moves = number(flag, value, 0, MAX_FAULTS)?,
        "--shard-moves" => faults.shard_moves = number(flag, value, 0, MAX_FAULTS)?,
        "--rebalances" => faults.rebalances = number(flag, value, 0, MAX_FAULTS)?,
        "--crashes" => faults.crashes = number(flag, value, 0, MAX_FAULTS)?,
        "--aborts" => faults.aborts = number(flag, value, 0, MAX_FAULTS)?,
        "--refusals" => faults.refusals = number(flag, value, 0, MAX_FAULTS)?,
        "--parks" => faults.parks = number(flag, value, 0, MAX_FAULTS)?,
        "--give-ups" => faults.give_ups = number(flag, value, 0, MAX_FAULTS)?,
        // Read before.
        _ => {}
    }
    Ok(())
}

fn number(flag: &str, value: &str, least: u8, most: u8) -> Result<u8, UsageError> {
    let accepted = || format!("a number from {least} to {most}");
    let number = value.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| UsageError::WrongValue(flag.to_owned(), value.to_owned(), accepted()))
}

fn choice<T: Copy>(flag: &str, value: &str, choices: &[(&str, T)]) -> Result<T, UsageError> {
    let accepted = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" or ");
    let found = choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| *choice);
    found.ok_or_else(|| UsageError::WrongValue(flag.to_owned(), value.to_owned(), accepted()))
}

fn list() {
    println!("Rules:");
    for rule in rules::RULES {
        println!("  {}\n      {}", rule.name, rule.statement);
        if let Some(reason) = rule.unbreakable {
            println!("      No mistake breaks it: {reason}.");
        }
        if let Some(planned) = rule.awaits {
            println!("      The engine has no {planned} yet.");
        }
    }
    for (title, planted) in [("Mistakes", MISTAKES), ("Variations, which are no mistakes", mistakes::VARIATIONS)] {
        println!("\n{title}:");
        for planted in planted {
            println!(
                "  {} (rule {}, scope {})\n      {}",
                planted.name, planted.rule, planted.scope, planted.statement
            );
        }
    }
    for (title, scopes) in [("Scopes of the tests", scopes::SMALL), ("Large scopes", scopes::LARGE)] {
        println!("\n{title}:");
        for scope in scopes {
            println!("  {}\n      {}", scope.name, describe(scope));
        }
    }
    println!("\nScope of its own:\n  {LOAD_SCOPE}\n      whether the direct path opens under load that never ends");
}

fn describe(scope: &Scope) -> String {
    let Bounds { records, batch, anchor, fencing, messages_take_time, faults } = scope.bounds;
    let mut parts = vec![format!("{records} records, batches of {batch}")];
    let moves = if anchor == Anchor::SameShard { "moves of both" } else { "moves of s" };
    let faults = [
        ("moves of p", faults.source_moves),
        (moves, faults.shard_moves),
        ("rebalances", faults.rebalances),
        ("crashes", faults.crashes),
        ("aborts", faults.aborts),
        ("refusals", faults.refusals),
        ("parks", faults.parks),
        ("attempts given up", faults.give_ups),
    ];
    parts.extend(faults.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name}: {count}")));
    parts.extend((fencing == Fencing::Partition).then(|| "fenced by partition".to_owned()));
    parts.extend((!messages_take_time).then(|| "messages end at once".to_owned()));
    parts.extend(scope.checks_end.then(|| "the end can be reached".to_owned()));
    parts.join(", ")
}

fn search_scope(scope: Option<Scope>, planted: Option<&PlantedMistake>, max_states: usize) -> Report {
    let mistake = planted.map(|planted| planted.mistake);
    match scope {
        None => load::search(mistake),
        Some(Scope { bounds, checks_end, .. }) => {
            search(&Model { bounds, mistake }, Options { checks_end, max_states })
        }
    }
}

fn run(request: &Request) -> ExitCode {
    println!("{}", request.scope.map_or(LOAD_SCOPE.to_owned(), |scope| describe(&scope)));
    if let Some(planted) = request.planted {
        println!("{}: {}", planted.name, planted.statement);
        println!("It departs from the rule {}.", planted.rule);
    }
    let report = search_scope(request.scope, request.planted, request.max_states);
    let states = report.states;
    match report.ending {
        Ending::Holds => println!("The promise holds in all {states} states."),
        Ending::LimitReached => println!("Gave up after {states} states, without a violation."),
        Ending::Violation => println!("VIOLATION, found after {states} states:"),
        Ending::Stuck => println!("STUCK, found in all {states} states:"),
    }
    if let Some(problem) = report.problem {
        println!("  {problem}\nIt takes these steps:");
        report.trace.iter().enumerate().for_each(|(index, step)| println!("  {:2}. {step}", index + 1));
    }
    let expects_violation = request.planted.is_some_and(|planted| MISTAKES.contains(planted));
    let is_expected = match report.ending {
        Ending::Holds => !expects_violation,
        Ending::LimitReached => false,
        Ending::Violation | Ending::Stuck => expects_violation,
    };
    if is_expected {
        return ExitCode::SUCCESS;
    }
    if expects_violation {
        println!("This scope does not find the mistake.");
    }
    ExitCode::FAILURE
}

fn run_large() -> ExitCode {
    let started = Instant::now();
    let mut all = 0;
    let mut fails = false;
    println!("| scope | bounds | states | seconds | result |\n|---|---|---|---|---|");
    let scopes = scopes::LARGE.iter().copied().map(Some).chain([None]);
    for scope in scopes {
        let began = Instant::now();
        let report = search_scope(scope, None, DEFAULT_MAX_STATES);
        let (name, bounds) = scope.map_or((LOAD_SCOPE, "none".to_owned()), |scope| (scope.name, describe(&scope)));
        let result = match report.ending {
            Ending::Holds => "holds",
            Ending::LimitReached => "gave up",
            Ending::Violation | Ending::Stuck => "VIOLATION",
        };
        println!("| {name} | {bounds} | {} | {:.0} | {result} |", report.states, began.elapsed().as_secs_f64());
        all += report.states;
        if report.ending != Ending::Holds {
            fails = true;
            println!("\nswitchboard-model --scope {name} prints the steps.");
        }
    }
    println!("\n{all} states in {:.0} s", started.elapsed().as_secs_f64());
    if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, UsageError> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn scope(line: &str) -> Scope {
        match parsed(line) {
            Ok(Command::Search(Request { scope: Some(scope), .. })) => scope,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flags_replace_the_bounds_of_the_scope() {
        let scope = scope("--scope parks --records 2 --fencing partition --anchor same --crashes 1 --end no");
        let parks = scopes::find("parks").expect("the scope parks").bounds;
        let faults = crate::state::Budget { crashes: 1, ..parks.faults };
        let bounds = Bounds { records: 2, fencing: Fencing::Partition, anchor: Anchor::SameShard, faults, ..parks };
        assert_eq!((scope.bounds, scope.checks_end), (bounds, false));
    }

    #[test]
    fn a_mistake_brings_its_scope() {
        let planted = mistakes::find("open-at-once").expect("the mistake");
        assert_eq!(scope("--mistake open-at-once").name, planted.scope);
        assert_eq!(scope("--mistake open-at-once --scope parks").name, "parks");
    }

    #[test]
    fn every_flag_of_the_help_is_accepted() {
        let words = HELP.split_whitespace().filter(|word| word.starts_with("--"));
        for word in words.map(|word| word.trim_matches([')', '(', ','])) {
            assert!(VALUE_FLAGS.contains(&word) || matches!(word, "--large" | "--list"), "{word}");
        }
        for flag in VALUE_FLAGS {
            assert!(HELP.contains(&format!("\n  {flag} ")), "{flag}");
        }
    }

    #[test]
    fn wrong_flags_say_what_is_expected() {
        for (line, expected) in [
            ("--state 3", "unknown flag --state; --help lists all"),
            ("--records", "--records needs a value; --help says which"),
            ("--records 9", "--records 9: expected a number from 1 to 6"),
            ("--crashes -1", "--crashes -1: expected a number from 0 to 4"),
            ("--anchor s", "--anchor s: expected same or other"),
            ("--mistake none", "--mistake none: expected a mistake or a variation that --list names"),
            ("--scope none", "--scope none: expected a scope that --list names"),
            ("--max-states many", "--max-states many: expected a number"),
            ("--large --records 3", "--large searches fixed scopes, and takes no other flag"),
            ("--scope endless-load --records 3", "the scope endless-load has no bounds"),
            ("--mistake hold-back-in-inbox --scope moves", "this mistake belongs to the scope endless-load"),
            ("--parks 1 --messages instant", "--parks needs --messages time"),
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.to_string().starts_with(expected), "{line}: {error}");
        }
    }
}
