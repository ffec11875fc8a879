//! The simulation finds each mutation, and finds nothing without one.

use std::process::{Command, Output};

use switchboard_core::mutation::ALL;
use switchboard_mutants::VARIABLE;

const SCHEDULES: &str = "10000";

fn simulate(mutation: Option<&str>, schedules: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mutant-simulate"));
    command.args(["--schedules", schedules]).env_remove(VARIABLE);
    command.envs(mutation.map(|name| (VARIABLE, name)));
    command.output().expect("the mutant starts")
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_simulation_finds_every_mutation() {
    let mut missed = Vec::new();
    for mutation in ALL {
        let output = simulate(Some(mutation.name), SCHEDULES);
        let printed = printed(&output);
        let found = printed.lines().find(|line| line.contains("broke the promise"));
        let schedules = printed.split(';').next().unwrap_or_default();
        println!("{}: {} [{schedules}]", mutation.name, found.unwrap_or("NOT FOUND"));
        if found.is_none() || output.status.success() {
            missed.push((mutation.name, String::from_utf8_lossy(&output.stderr).into_owned()));
        }
    }
    assert!(missed.is_empty(), "not found within {SCHEDULES} schedules: {missed:?}");
}

#[test]
fn without_a_mutation_the_mutant_keeps_the_promise() {
    let output = simulate(None, "200");
    assert!(output.status.success(), "{}", printed(&output));
}

#[test]
fn a_mutant_refuses_an_unknown_name_and_lists_the_known_ones() {
    let output = simulate(Some("no-such-mistake"), "1");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", printed(&output));
    assert!(error.contains("no-such-mistake") && ALL.iter().all(|mutation| error.contains(mutation.name)), "{error}");
}
