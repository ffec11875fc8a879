//! The engine's sources name the rules that they obey, in comments of one form: `// Rule: close-path-on-loss.`

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use switchboard_model::rules::RULES;

/// The sources that name rules.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../host/core/src/worker");

/// A comment that names a rule.
struct Citation {
    /// File and line.
    place: String,
    /// What stands behind `//`.
    comment: String,
}

impl Citation {
    /// The name, if the comment has the one form.
    fn name(&self) -> Option<&str> {
        self.comment.strip_prefix(" Rule: ")?.strip_suffix('.')
    }
}

/// All comments in the sources that have the word `Rule:`.
fn citations() -> Vec<Citation> {
    let mut citations = Vec::new();
    collect(Path::new(SOURCES), &mut citations);
    citations
}

fn collect(folder: &Path, citations: &mut Vec<Citation>) {
    for entry in fs::read_dir(folder).expect("the folder of the sources") {
        let path = entry.expect("an entry of the folder").path();
        if path.is_dir() {
            collect(&path, citations);
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source in UTF-8");
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| line.contains("Rule:")) {
            let comment = line.trim_start().strip_prefix("//").unwrap_or(line).to_owned();
            citations.push(Citation { place: format!("{}:{number}", path.display()), comment });
        }
    }
}

#[test]
fn each_cited_rule_exists() {
    for citation in citations() {
        let Citation { place, comment } = &citation;
        let name =
            citation.name().unwrap_or_else(|| panic!("{place}: {comment:?} is not of the form `// Rule: name.`"));
        assert!(RULES.iter().any(|rule| rule.name == name), "{place}: there is no rule {name}");
    }
}

#[test]
fn a_rule_is_cited_exactly_if_the_engine_has_what_it_is_about() {
    let citations = citations();
    let cited: BTreeSet<_> = citations.iter().filter_map(Citation::name).collect();
    for rule in RULES {
        match rule.awaits {
            None => assert!(cited.contains(rule.name), "the engine's sources do not name the rule {}", rule.name),
            Some(planned) => assert!(
                !cited.contains(rule.name),
                "the engine's sources name the rule {}, which awaits {planned}: remove its mark",
                rule.name
            ),
        }
    }
}
