//! Checks that the generated bindings in `src/bindings` are those of `wit/plugin.wit`.
//!
//! The repository contains the generated files, so that the build of a plugin does not compile the generator. After a
//! change of the contract, `UPDATE_BINDINGS=1 cargo test -p switchboard-sdk --test bindings` writes them again.

use std::path::{Path, PathBuf};

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator as _};
use wit_bindgen_rust::Opts;

/// The world of the additional export alone: the SDK exports it only for plugins that migrate.
const MIGRATION: &str = "package switchboard:sdk; world migration { export switchboard:plugin/migration@0.1.0; }";

fn manifest_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn contract(resolve: &mut Resolve) -> wit_bindgen_core::wit_parser::PackageId {
    resolve.push_path(manifest_dir().join("../../wit")).expect("the contract parses").0
}

fn generate(resolve: &mut Resolve, package: wit_bindgen_core::wit_parser::PackageId, macro_name: &str) -> String {
    let world = resolve.select_world(&[package], (macro_name == "export_component").then_some("plugin"));
    let mut opts = Opts::default();
    (opts.format, opts.pub_export_macro) = (true, true);
    opts.export_macro_name = Some(macro_name.to_owned());
    let mut files = Files::default();
    opts.build().generate(resolve, world.expect("the world is there"), &mut files).expect("it has bindings");
    let (_, source) = files.iter().next().expect("one file");
    String::from_utf8(source.to_vec()).expect("Rust is UTF-8")
}

fn check(name: &str, generated: &str) {
    let file: PathBuf = manifest_dir().join("src/bindings").join(name);
    if std::env::var_os("UPDATE_BINDINGS").is_some() {
        std::fs::write(&file, generated).expect("the file can be written");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == generated,
        "plugin/sdk/src/bindings/{name} is not what wit/plugin.wit gives: run `UPDATE_BINDINGS=1 cargo test -p switchboard-sdk \
         --test bindings`"
    );
}

#[test]
fn the_bindings_are_those_of_the_contract() {
    let mut resolve = Resolve::default();
    let package = contract(&mut resolve);
    check("plugin.rs", &generate(&mut resolve, package, "export_component"));
    let mut resolve = Resolve::default();
    contract(&mut resolve);
    let package = resolve.push_str("migration.wit", MIGRATION).expect("it parses");
    check("migration.rs", &generate(&mut resolve, package, "export_migration"));
}
