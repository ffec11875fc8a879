//! The documentation is checked like code: every link leads somewhere, every quoted command, flag, target, package and
//! path exists, and the table of settings is generated from their definition.
//!
//! `markdown` reads pages, `commands` and `links` find mistakes in them, `repository` knows what exists, `reference` generates
//! the table of settings.

mod commands;
mod links;
mod markdown;
mod reference;
mod repository;
mod shell;

use std::fmt;
use std::path::{Path, PathBuf};

use self::markdown::Page;
use self::repository::Repository;

/// A mistake on a page, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mistake {
    page: PathBuf,
    line: usize,
    text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.page.display(), self.line, self.text)
    }
}

fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository's root")
}

fn check(repository: &Repository, pages: &[Page]) -> Vec<Mistake> {
    let mut mistakes = links::check(repository, pages);
    mistakes.extend(pages.iter().flat_map(|page| commands::check(repository, page)));
    mistakes.sort_by(|a, b| (&a.page, a.line).cmp(&(&b.page, b.line)));
    mistakes
}

#[test]
fn every_link_command_and_path_in_the_documentation_exists() {
    let repository = Repository::read(&repository_root());
    let pages = repository.pages();
    assert!(!pages.is_empty());
    let mistakes: Vec<_> = check(&repository, &pages).iter().map(ToString::to_string).collect();
    assert!(mistakes.is_empty(), "{} mistakes in the documentation:\n{}", mistakes.len(), mistakes.join("\n"));
}

/// mdBook renders only what the summary lists.
#[test]
fn the_summary_lists_every_page_of_the_book() {
    let pages = Repository::read(&repository_root()).pages();
    let summary = pages.iter().find(|page| page.path == Path::new("docs/SUMMARY.md")).expect("docs/SUMMARY.md");
    let missing: Vec<_> = pages
        .iter()
        .filter_map(|page| page.path.strip_prefix("docs").ok())
        .filter(|path| *path != Path::new("SUMMARY.md"))
        .filter(|path| !summary.links.iter().any(|link| Path::new(&link.text) == *path))
        .collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md does not list {missing:?}");
}

/// The SDK's documentation tests compile the Rust examples of each page that its `lib.rs` includes.
#[test]
fn every_rust_example_is_on_a_page_that_the_sdk_compiles() {
    let root = repository_root();
    let sdk = std::fs::read_to_string(root.join("plugin/sdk/src/lib.rs")).expect("the SDK's lib.rs");
    let pages = Repository::read(&root).pages();
    let with_rust = pages.iter().filter(|page| page.blocks.iter().any(|block| block.language == "rust"));
    let paths: Vec<_> = with_rust.map(|page| page.path.display().to_string()).collect();
    assert!(paths.iter().any(|path| path == "README.md"), "{paths:?}");
    let missing: Vec<_> =
        paths.iter().filter(|path| !sdk.contains(&format!("include_str!(\"../../../{path}\")"))).collect();
    assert!(missing.is_empty(), "plugin/sdk/src/lib.rs does not include {missing:?}");
}

#[test]
fn the_table_of_settings_is_up_to_date() {
    let path = repository_root().join("docs/configuration.md");
    let page = std::fs::read_to_string(&path).expect("docs/configuration.md");
    let updated = reference::update(&page).expect("docs/configuration.md");
    if page == updated {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, updated).expect("docs/configuration.md");
        return;
    }
    panic!(
        "the settings in docs/configuration.md differ from their definition; update the page with \
         `UPDATE_DOCS=1 cargo test -p switchboard --test docs`"
    );
}
