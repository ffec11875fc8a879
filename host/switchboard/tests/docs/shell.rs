//! Splits the shell commands of a code block into words.

use super::markdown::{Block, Located};

/// A simple command: its words, and the line on which it starts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) line: usize,
    pub(crate) words: Vec<String>,
}

/// The commands of a block. In a `console` block only lines with a prompt are commands.
pub(crate) fn commands(block: &Block) -> Vec<Command> {
    let is_session = block.language == "console";
    let mut commands = Vec::new();
    let mut lines = block.lines.iter();
    while let Some(Located { line, text }) = lines.next() {
        let trimmed = text.trim();
        let Some(command) = trimmed.strip_prefix("$ ").or((!is_session).then_some(trimmed)) else { continue };
        let mut joined = command.to_owned();
        while let Some(before) = joined.strip_suffix('\\') {
            let next = lines.next().map_or("", |next| next.text.trim());
            joined = format!("{before} {next}");
        }
        for words in split(&joined) {
            commands.push(Command { line: *line, words });
        }
    }
    commands
}

/// The words of each simple command of a line.
pub(crate) fn split(line: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let mut quote = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ';' | '|' | '&' | '(' | ')') => {
                words.extend(word.take());
                commands.push(std::mem::take(&mut words));
            }
            (None, '<' | '>') => {
                words.extend(word.take());
                while chars.peek().is_some_and(|c| matches!(c, '<' | '>' | '&')) {
                    chars.next();
                }
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word.take());
    commands.push(words);
    commands.retain(|words| !words.is_empty());
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_becomes_simple_commands() {
        let line = |line, text: &str| Located { line, text: text.into() };
        let lines =
            vec![line(1, "A=1 make x  # why"), line(2, "a 'b c' \\"), line(3, "  --d && e | f > g"), line(4, "# no")];
        let block = Block { language: "sh".into(), lines };
        let expected = [(1, "A=1|make|x"), (2, "a|b c|--d"), (2, "e"), (2, "f|g")];
        let actual: Vec<_> = commands(&block).iter().map(|command| (command.line, command.words.join("|"))).collect();
        assert_eq!(actual, expected.map(|(line, words)| (line, words.to_owned())));
    }

    #[test]
    fn only_lines_with_a_prompt_are_commands_of_a_session() {
        let lines = ["$ make x", "output: make y"].map(|text| Located { line: 1, text: text.into() });
        let session = Block { language: "console".into(), lines: lines.to_vec() };
        assert_eq!(commands(&session).len(), 1);
    }
}
