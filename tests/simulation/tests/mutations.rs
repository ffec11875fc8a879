//! The simulation finds mistakes: each patch of `tests/mutations`, applied to a copy of the worker, breaks a rule, and
//! some schedule must show it.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

const SCHEDULES: &str = "10000";

#[test]
fn every_planted_mistake_is_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let patches = std::fs::read_dir(root.join("tests/mutations")).expect("the folder of patches");
    let mut names: Vec<_> = patches
        .map(|entry| entry.expect("a folder that can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .map(|path| path.file_stem().expect("it has an extension").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 26, "patches are missing: {names:?}");
    let mut missed = Vec::new();
    for name in names {
        let started = Instant::now();
        let built = Command::new(root.join("tools/mutant"))
            .args([name.as_str(), "switchboard-simulation", "simulate"])
            .output()
            .expect("tools/mutant");
        assert!(built.status.success(), "{name}: {}", String::from_utf8_lossy(&built.stderr));
        let building = started.elapsed();
        let simulate = String::from_utf8_lossy(&built.stdout).trim().to_owned();
        let ran = Command::new(simulate).args(["--schedules", SCHEDULES]).output().expect("the mutant");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        let found = said.lines().find(|line| line.starts_with("broken: "));
        println!(
            "{name} (built in {building:.0?}): {} [{}]",
            found.unwrap_or("NOT FOUND"),
            said.lines().next().unwrap_or("")
        );
        if found.is_none() || ran.status.success() {
            missed.push(name);
        }
    }
    assert!(missed.is_empty(), "not found within {SCHEDULES} schedules: {missed:?}");
}
