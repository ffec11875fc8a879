//! Relative links: the file exists, and so does the anchor.

use std::path::{Component, Path, PathBuf};

use super::Mistake;
use super::markdown::Page;
use super::repository::Repository;

pub(crate) fn check(repository: &Repository, pages: &[Page]) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for page in pages {
        for link in &page.links {
            if let Err(text) = check_link(repository, pages, page, &link.text) {
                mistakes.push(Mistake { page: page.path.clone(), line: link.line, text });
            }
        }
    }
    mistakes
}

fn check_link(repository: &Repository, pages: &[Page], page: &Page, link: &str) -> Result<(), String> {
    if link.is_empty() || link.contains("://") || link.starts_with("mailto:") {
        return Ok(());
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() { page.path.clone() } else { resolve(&page.path, path) };
    if !path.is_empty() && !repository.exists(&target) {
        return Err(format!("the link {link:?} leads to {}, which does not exist", target.display()));
    }
    if anchor.is_empty() {
        return Ok(());
    }
    let Some(target_page) = pages.iter().find(|page| page.path == target) else { return Ok(()) };
    if target_page.anchors.iter().any(|known| known == anchor) {
        return Ok(());
    }
    let known = target_page.anchors.join(", ");
    Err(format!("the link {link:?} leads to #{anchor}, but {} has only: {known}", target.display()))
}

/// The path of a link's target, relative to the repository's root.
fn resolve(page: &Path, link: &str) -> PathBuf {
    let mut resolved = page.parent().map(Path::to_owned).unwrap_or_default();
    for component in Path::new(link).components() {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            Component::CurDir => {}
            component => resolved.push(component),
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_link_is_found() {
        let repository = Repository::read(&super::super::repository_root());
        let text = "# Title\n\n[a](../README.md) [b](#title) [c](https://example.org/x) [d](absent.md)\n[e](#nowhere)\n[f](p.md#title)\n";
        let pages = [Page::parse("docs/p.md", text)];
        let mistakes = check(&repository, &pages);
        let lines: Vec<_> = mistakes.iter().map(|mistake| mistake.line).collect();
        // docs/p.md itself is not in the repository.
        assert_eq!(lines, [3, 4, 5]);
        assert!(mistakes[0].to_string().starts_with("docs/p.md:3: the link \"absent.md\" leads to docs/absent.md"));
        assert!(mistakes[1].text.contains("has only: title"), "{}", mistakes[1]);
    }
}
