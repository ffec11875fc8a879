//! The product has no mutation in it: its binary contains none of their names.

use std::fs;
use std::path::{Path, PathBuf};

use switchboard_core::mutation::ALL;
use switchboard_mutants::VARIABLE;

/// The binary that `make build` makes. `SWITCHBOARD_BINARY` names another one, for builds with a target directory of their
/// own.
fn product() -> PathBuf {
    if let Some(path) = std::env::var_os("SWITCHBOARD_BINARY") {
        return path.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(target).join("release/switchboard")
}

fn names_in(path: &Path) -> Vec<&'static str> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}; `make build` makes it", path.display()));
    let contains = |name: &str| bytes.windows(name.len()).any(|window| window == name.as_bytes());
    ALL.iter().map(|mutation| mutation.name).chain([VARIABLE]).filter(|name| contains(name)).collect()
}

#[test]
fn the_product_contains_no_mutation() {
    assert_eq!(names_in(&product()), Vec::<&str>::new());
}

#[test]
fn a_mutant_contains_every_mutation() {
    let mutant = Path::new(env!("CARGO_BIN_EXE_mutant-simulate"));
    assert_eq!(names_in(mutant).len(), ALL.len() + 1);
}
