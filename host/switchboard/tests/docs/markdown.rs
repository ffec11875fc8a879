//! Reads the parts of a Markdown page that are checked: headings, links, inline code and code blocks, each with its
//! line.

use std::collections::HashMap;
use std::path::PathBuf;

/// A page of the documentation.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Relative to the repository's root.
    pub(crate) path: PathBuf,
    /// The anchors of its headings.
    pub(crate) anchors: Vec<String>,
    pub(crate) links: Vec<Located>,
    pub(crate) inline_code: Vec<Located>,
    pub(crate) blocks: Vec<Block>,
}

/// A text, and the line on which it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// A code block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) lines: Vec<Located>,
}

impl Page {
    pub(crate) fn parse(path: impl Into<PathBuf>, text: &str) -> Self {
        let mut page = Self { path: path.into(), ..Self::default() };
        let mut anchors = Anchors::default();
        let mut fence: Option<(String, Block)> = None;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let trimmed = line.trim_start();
            if let Some((marker, block)) = &mut fence {
                if trimmed.starts_with(marker.as_str()) && trimmed.trim_end().chars().all(|c| marker.contains(c)) {
                    page.blocks.extend(fence.take().map(|(_, block)| block));
                } else {
                    block.lines.push(Located { line: number, text: line.to_owned() });
                }
                continue;
            }
            if let Some(marker) = opening_fence(trimmed) {
                let language = trimmed.trim_start_matches(['`', '~']).trim();
                let language = language.split([',', ' ']).next().unwrap_or_default().to_owned();
                fence = Some((marker, Block { language, lines: Vec::new() }));
                continue;
            }
            if let Some(heading) = heading(trimmed) {
                page.anchors.push(anchors.add(&heading));
            }
            page.read_line(number, line);
        }
        page.blocks.extend(fence.map(|(_, block)| block));
        page
    }

    fn read_line(&mut self, line: usize, text: &str) {
        let mut prose = String::new();
        for (index, part) in text.split('`').enumerate() {
            if index % 2 == 1 {
                self.inline_code.push(Located { line, text: part.to_owned() });
                prose.push_str("code");
            } else {
                prose.push_str(part);
            }
        }
        let mut rest = prose.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let (target, after) = after.split_once(')').unwrap_or((after, ""));
            let target = target.split_whitespace().next().unwrap_or_default().trim_matches(['<', '>']);
            self.links.push(Located { line, text: target.to_owned() });
            rest = after;
        }
        // A reference definition: [name]: target
        if prose.starts_with('[')
            && let Some((_, target)) = prose.split_once("]: ")
        {
            self.links.push(Located { line, text: target.trim().to_owned() });
        }
    }
}

fn opening_fence(line: &str) -> Option<String> {
    let marker = line.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let length = line.chars().take_while(|c| *c == marker).count();
    (length >= 3).then(|| marker.to_string().repeat(length))
}

fn heading(line: &str) -> Option<String> {
    let text = line.trim_start_matches('#');
    let level = line.len() - text.len();
    ((1..=6).contains(&level) && text.starts_with(' ')).then(|| text.trim().trim_end_matches('#').trim().to_owned())
}

/// Makes anchors as mdBook and GitHub do.
#[derive(Default)]
struct Anchors {
    count: HashMap<String, usize>,
}

impl Anchors {
    fn add(&mut self, heading: &str) -> String {
        let mut anchor = String::new();
        for c in without_link_targets(heading).chars() {
            match c {
                c if c.is_alphanumeric() || matches!(c, '_' | '-') => anchor.extend(c.to_lowercase()),
                c if c.is_whitespace() => anchor.push('-'),
                _ => {}
            }
        }
        let count = self.count.entry(anchor.clone()).or_default();
        *count += 1;
        if *count > 1 { format!("{anchor}-{}", *count - 1) } else { anchor }
    }
}

fn without_link_targets(heading: &str) -> String {
    let mut text = String::new();
    let mut rest = heading;
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pages_parts_are_found_with_their_lines() {
        let text = "# Run `doctor`: a *check*\n\nSee [it](a.md#b) and [`x`](c/d.md \"title\").\n\n```sh\nmake test\n```\n\n[r]: e.md\n";
        let page = Page::parse("p.md", text);
        assert_eq!(page.anchors, ["run-doctor-a-check"]);
        let links: Vec<_> = page.links.iter().map(|link| (link.line, link.text.as_str())).collect();
        assert_eq!(links, [(3, "a.md#b"), (3, "c/d.md"), (9, "e.md")]);
        let code: Vec<_> = page.inline_code.iter().map(|code| code.text.as_str()).collect();
        assert_eq!(code, ["doctor", "x"]);
        let block = Block { language: "sh".into(), lines: vec![Located { line: 6, text: "make test".into() }] };
        assert_eq!(page.blocks, [block]);
    }

    #[test]
    fn headings_with_the_same_text_have_different_anchors() {
        let page = Page::parse("p.md", "# One\n## [Two](x.md) words\n# One\n```\n# no heading\n```\n");
        assert_eq!(page.anchors, ["one", "two-words", "one-1"]);
    }
}
