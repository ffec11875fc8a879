//! The list of mutations and their points in the sources agree.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use switchboard_core::mutation::{ALL, activate};

/// Where points may be.
const SOURCES: [&str; 2] = ["host/core/src", "tests/simulation/src"];

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// How many points each name has in the code, comments left out.
fn points() -> BTreeMap<String, usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    for sources in SOURCES {
        rust_files(&root.join(sources), &mut files);
    }
    let mut points = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a readable file");
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for point in code.flat_map(|line| line.split("mutated!(\"").skip(1)) {
            let name = point.split('"').next().expect("a name ends with a quote");
            *points.entry(name.to_owned()).or_default() += 1;
        }
    }
    points
}

#[test]
fn each_mutation_has_its_points_in_the_sources_and_each_point_its_mutation() {
    let listed: BTreeMap<_, _> = ALL.iter().map(|mutation| (mutation.name.to_owned(), mutation.points)).collect();
    assert_eq!(points(), listed);
    assert_eq!(listed.len(), ALL.len(), "each name once");
    assert!(ALL.len() >= 26, "mutations are missing");
}

#[test]
fn a_process_has_one_mutation_and_knows_it_by_name() {
    let error = activate("no-such-mistake").unwrap_err().to_string();
    assert!(error.contains("no-such-mistake") && ALL.iter().all(|mutation| error.contains(mutation.name)), "{error}");
    activate("no-fence").unwrap();
    activate("no-fence").unwrap();
    assert!(activate("promote-before-commit").unwrap_err().to_string().contains("no-fence"));
    assert!(switchboard_core::mutated!("no-fence") && !switchboard_core::mutated!("promote-before-commit"));
}
