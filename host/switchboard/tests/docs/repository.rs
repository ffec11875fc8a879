//! What exists in the repository: pages, files, `make` targets and variables, packages, and the command line.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::markdown::Page;

/// Pages outside of `docs`, if they exist.
const PAGES: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "tests/README.md",
    "tests/vectors/README.md",
    "plugin/counter/README.md",
    "plugin/messenger/README.md",
    "plugin/sdk/README.md",
];

pub(crate) struct Repository {
    root: PathBuf,
    /// Files and folders that documentation may name by a path.
    pub(crate) top_level: BTreeSet<String>,
    pub(crate) make_targets: BTreeSet<String>,
    pub(crate) make_variables: BTreeSet<String>,
    pub(crate) packages: BTreeSet<String>,
    pub(crate) cli: clap::Command,
}

impl Repository {
    pub(crate) fn read(root: &Path) -> Self {
        let makefile = fs::read_to_string(root.join("Makefile")).expect("Makefile");
        let mut cli = switchboard::cli::command();
        cli.build();
        Self {
            root: root.to_owned(),
            top_level: ["docs", "host", "plugin", "tests", "tools", "wit", ".ci"].map(str::to_owned).into(),
            make_targets: make_targets(&makefile),
            make_variables: make_variables(&makefile),
            packages: packages(root),
            cli,
        }
    }

    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.root.join(path).exists()
    }

    /// All pages of the documentation.
    pub(crate) fn pages(&self) -> Vec<Page> {
        let mut paths: Vec<PathBuf> = PAGES.iter().map(PathBuf::from).filter(|path| self.exists(path)).collect();
        add_pages(&self.root, Path::new("docs"), &mut paths);
        paths.sort();
        let read = |path: PathBuf| {
            let text = fs::read_to_string(self.root.join(&path)).expect("a page");
            Page::parse(path, &text)
        };
        paths.into_iter().map(read).collect()
    }

    /// The source of a test program: `say`, `kafka` and others.
    pub(crate) fn test_program(&self, name: &str) -> Option<String> {
        let programs = self.root.join("tests/src/bin");
        [programs.join(format!("{name}.rs")), programs.join(name).join("main.rs")]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
    }
}

fn add_pages(root: &Path, folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return };
    for entry in entries.flatten() {
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() {
            add_pages(root, &path, paths);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
}

fn make_targets(makefile: &str) -> BTreeSet<String> {
    let rules = makefile.lines().filter(|line| !line.starts_with(['\t', '#', '.', ' ']));
    let names = rules.filter_map(|line| line.split_once(':').filter(|(_, after)| !after.starts_with('=')));
    names.flat_map(|(names, _)| names.split_whitespace()).map(str::to_owned).collect()
}

/// Variables that a caller may set: those that the Makefile uses.
fn make_variables(makefile: &str) -> BTreeSet<String> {
    let uses = makefile.split("$(").skip(1).filter_map(|text| text.split([')', ',', ' ']).next());
    let in_functions = makefile.split("$(").skip(1).filter_map(|text| text.split_once(' ')?.1.split([')', ',']).next());
    uses.chain(in_functions).map(str::trim).filter(|name| is_variable(name)).map(str::to_owned).collect()
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// The names of all packages of the workspace.
fn packages(root: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && name != ".git" && name != "src" {
                folders.push(path);
            } else if name == "Cargo.toml" {
                let text = fs::read_to_string(path).expect("Cargo.toml");
                let mut lines = text.lines().skip_while(|line| *line != "[package]");
                let name = lines.find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
                names.extend(name.map(str::to_owned));
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_variables_of_a_makefile_are_known() {
        let makefile = "CARGO ?= cargo\nX := 1\n.PHONY: a\na b: c\n\t$(CARGO) x $(if $(SEED),--seed $(SEED))\n";
        assert_eq!(make_targets(makefile), ["a", "b"].map(str::to_owned).into());
        assert_eq!(make_variables(makefile), ["CARGO", "SEED"].map(str::to_owned).into());
    }

    #[test]
    fn the_repositorys_packages_and_targets_are_known() {
        let repository = Repository::read(&super::super::repository_root());
        assert!(repository.packages.contains("switchboard") && repository.packages.contains("switchboard-core"));
        assert!(repository.make_targets.contains("test"), "{:?}", repository.make_targets);
    }
}
