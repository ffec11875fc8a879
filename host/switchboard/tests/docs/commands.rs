//! Quoted commands: each command, flag, target, package and path exists.

use std::path::Path;

use switchboard::config::renamed;

use super::Mistake;
use super::markdown::{Block, Page};
use super::repository::Repository;
use super::shell;

/// Languages of code blocks that contain shell commands.
const SHELL_LANGUAGES: &[&str] = &["sh", "bash", "shell", "console"];

pub(crate) fn check(repository: &Repository, page: &Page) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut add = |line, texts: Vec<String>| {
        mistakes.extend(texts.into_iter().map(|text| Mistake { page: page.path.clone(), line, text }));
    };
    for block in &page.blocks {
        if SHELL_LANGUAGES.contains(&block.language.as_str()) {
            for command in shell::commands(block) {
                add(command.line, check_command(repository, &command.words));
            }
        } else if block.language == "toml" {
            check_toml(block, &mut add);
        }
    }
    for code in &page.inline_code {
        add(code.line, check_inline(repository, &code.text));
    }
    mistakes
}

/// Programs of the tests that a user has on the search path.
const TEST_PROGRAMS: &[&str] = &["say", "kafka"];

/// Flags of other programs that the pages name without their program, and the placeholder `--name`.
const OTHER_FLAGS: &[&str] = &["name", "release", "target", "to-earliest", "to-latest"];

/// Inline code: commands of Switchboard and `make`, flags, and names of settings that have been renamed.
fn check_inline(repository: &Repository, code: &str) -> Vec<String> {
    if let Some(mistake) = renamed_name(code) {
        return vec![mistake];
    }
    let words: Vec<String> = shell::split(code).into_iter().next().unwrap_or_default();
    match words.first().map(String::as_str) {
        Some("switchboard" | "make") if words.len() > 1 => check_command(repository, &words),
        Some(program) if TEST_PROGRAMS.contains(&program) => check_command(repository, &words),
        Some(flag) if flag.starts_with("--") => {
            words.iter().filter_map(|word| unknown_bare_flag(repository, word)).collect()
        }
        _ => Vec::new(),
    }
}

/// A flag without its program: a command of Switchboard, a test program or the list of other flags has it.
fn unknown_bare_flag(repository: &Repository, word: &str) -> Option<String> {
    let name = word.strip_prefix("--")?.split('=').next().filter(|name| !name.is_empty())?;
    let is_known = matches!(name, "help" | "version")
        || OTHER_FLAGS.contains(&name)
        || has_flag(&repository.cli, name)
        || TEST_PROGRAMS.iter().any(|program| check_test_program(repository, program, &[word.to_owned()]).is_empty());
    (!is_known).then(|| format!("no command has the flag --{name}"))
}

fn has_flag(command: &clap::Command, name: &str) -> bool {
    command.get_arguments().any(|argument| argument.get_long() == Some(name))
        || command.get_subcommands().any(|subcommand| has_flag(subcommand, name))
}

/// A config file must not use old keys.
fn check_toml(block: &Block, add: &mut impl FnMut(usize, Vec<String>)) {
    for line in &block.lines {
        let key = line.text.split('=').next().unwrap_or_default().trim();
        add(line.line, renamed_name(key).into_iter().collect());
    }
}

/// The mistake of using a setting's old key, flag or variable.
fn renamed_name(text: &str) -> Option<String> {
    let name = text.split([' ', '=']).next()?;
    if let Some(new) = renamed::new_variable(name) {
        return Some(format!("{name} is now {new}"));
    }
    let key = name.trim_start_matches("--");
    let new = renamed::new_key(key)?;
    // Common words are only names of settings when they are flags.
    (name.starts_with("--") || key.contains('-'))
        .then(|| format!("{name} is now {}{new}", &name[..name.len() - key.len()]))
}

fn check_command(repository: &Repository, words: &[String]) -> Vec<String> {
    let mut mistakes = Vec::new();
    let assignments = words.iter().take_while(|word| is_assignment(word)).count();
    for assignment in &words[..assignments] {
        let variable = assignment.split('=').next().unwrap_or_default();
        mistakes.extend(check_variable(repository, variable));
    }
    let words = &words[assignments..];
    let Some((program, arguments)) = words.split_first() else { return mistakes };
    match program.rsplit('/').next().unwrap_or_default() {
        "switchboard" => mistakes.extend(check_switchboard(&repository.cli, arguments)),
        "make" => mistakes.extend(check_make(repository, arguments)),
        "cargo" => mistakes.extend(check_cargo(repository, arguments)),
        "export" => {
            let names = arguments.iter().filter_map(|argument| argument.split('=').next());
            mistakes.extend(names.filter_map(|name| check_variable(repository, name)));
        }
        name if program.starts_with("target/") || TEST_PROGRAMS.contains(&program.as_str()) => {
            mistakes.extend(check_test_program(repository, name, arguments));
        }
        _ => {}
    }
    mistakes.extend(words.iter().filter_map(|word| check_path(repository, word)));
    mistakes
}

fn is_assignment(word: &str) -> bool {
    let name = word.split_once('=').map_or("", |(name, _)| name);
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn check_variable(repository: &Repository, name: &str) -> Option<String> {
    if let Some(new) = renamed::new_variable(name) {
        return Some(format!("the environment variable {name} is now {new}"));
    }
    if !name.starts_with("SWITCHBOARD_") || name.starts_with("SWITCHBOARD_KAFKA_") {
        return None;
    }
    let run = repository.cli.find_subcommand("run")?;
    let is_known = run.get_arguments().any(|argument| argument.get_env().is_some_and(|known| known == name));
    (!is_known).then(|| format!("the environment variable {name} is not a setting: see `switchboard run --help`"))
}

/// Follows the words through subcommands and flags. Values are not parsed: they may be placeholders.
fn check_switchboard(cli: &clap::Command, words: &[String]) -> Vec<String> {
    let mut command = cli;
    let mut path = "switchboard".to_owned();
    let mut mistakes = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        if let Some(flag) = word.strip_prefix("--") {
            let name = flag.split('=').next().unwrap_or_default();
            let argument = command.get_arguments().find(|argument| argument.get_long() == Some(name));
            match argument {
                Some(argument) => skip_value(argument, flag.contains('='), &mut words),
                None if matches!(name, "" | "help" | "version") => {}
                None => mistakes.push(unknown_flag(&path, name)),
            }
        } else if let Some(short) = word.strip_prefix('-').and_then(|short| short.chars().next()) {
            match command.get_arguments().find(|argument| argument.get_short() == Some(short)) {
                Some(argument) => skip_value(argument, word.len() > 2, &mut words),
                None if matches!(short, 'h' | 'V') => {}
                None => mistakes.push(format!("`{path}` has no flag -{short}: see `{path} --help`")),
            }
        } else if command.has_subcommands() {
            match command.find_subcommand(word) {
                Some(subcommand) => {
                    command = subcommand;
                    path = format!("{path} {word}");
                }
                // An ellipsis or a placeholder.
                None if !word.starts_with(|c: char| c.is_ascii_lowercase()) => return mistakes,
                None => {
                    mistakes.push(format!("`{path}` has no command {word:?}: see `{path} --help`"));
                    return mistakes;
                }
            }
        }
    }
    mistakes
}

fn skip_value<'a>(
    argument: &clap::Arg,
    has_value: bool,
    words: &mut std::iter::Peekable<impl Iterator<Item = &'a String>>,
) {
    let takes_value = argument.get_action().takes_values() && !argument.is_require_equals_set();
    if takes_value && !has_value {
        words.next();
    }
}

fn unknown_flag(command: &str, flag: &str) -> String {
    match renamed::new_key(flag) {
        Some(new) => format!("--{flag} is now --{new}"),
        None => format!("`{command}` has no flag --{flag}: see `{command} --help`"),
    }
}

fn check_make(repository: &Repository, words: &[String]) -> Vec<String> {
    let mut mistakes = Vec::new();
    for word in words.iter().filter(|word| !word.starts_with('-')) {
        if let Some((variable, _)) = word.split_once('=') {
            if !repository.make_variables.contains(variable) {
                mistakes.push(format!("the Makefile does not use the variable {variable}"));
            }
        } else if word.starts_with(|c: char| c.is_ascii_lowercase()) && !repository.make_targets.contains(word) {
            mistakes.push(format!("the Makefile has no target {word:?}: see `make help`"));
        }
    }
    mistakes
}

fn check_cargo(repository: &Repository, words: &[String]) -> Vec<String> {
    let own: Vec<_> = words.split(|word| word == "--").next().unwrap_or_default().to_vec();
    let packages = own.iter().zip(own.iter().skip(1)).filter(|(flag, _)| matches!(flag.as_str(), "-p" | "--package"));
    let unknown = packages.filter(|(_, package)| !repository.packages.contains(*package));
    unknown.map(|(_, package)| format!("the workspace has no package {package:?}")).collect()
}

/// The test programs (`say`, `kafka` and others): their sources have a field for each flag.
fn check_test_program(repository: &Repository, name: &str, words: &[String]) -> Vec<String> {
    let Some(source) = repository.test_program(name) else { return Vec::new() };
    let flags =
        words.iter().filter_map(|word| word.strip_prefix("--")?.split('=').next()).filter(|flag| !flag.is_empty());
    let unknown = flags.filter(|flag| *flag != "help" && !source.contains(&format!("{}:", flag.replace('-', "_"))));
    unknown.map(|flag| format!("`{name}` has no flag --{flag}: see `{name} --help`")).collect()
}

/// A path into the repository exists. Paths of the user's own files are not checked.
fn check_path(repository: &Repository, word: &str) -> Option<String> {
    let path = word.rsplit('=').next().unwrap_or_default().trim_start_matches("./");
    let (first, _) = path.split_once('/')?;
    let is_literal = !path.contains(['*', '<', '{', '$', ':', '~']) && !path.contains("...");
    let is_checked = is_literal && repository.top_level.contains(first);
    (is_checked && !repository.exists(Path::new(path))).then(|| format!("the path {path} does not exist"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let repository = Repository::read(&super::super::repository_root());
        check(&repository, &Page::parse("p.md", text)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_exists_is_no_mistake() {
        let text = "`make test`, `--plugin x --percent 5`, `say --topic T`, `switchboard releases --history`, `switchboard run`, `fuel`\n\n```sh\nmake chaos CYCLES=3\n\
            SWITCHBOARD_SHARDS=4 switchboard run -c messenger.toml \\\n  --plugin x.wasm --kafka a=b\nexport SWITCHBOARD_APP=a\n\
            switchboard deploy x.wasm --wait=30 --percent 5   # comment --no-flag\nswitchboard route set a@1 --tenant T\n\
            cargo test -p switchboard-core -- --nocapture\ntarget/release/say '{}' --topic T\n\
            target/release/switchboard test x.wasm tests/vectors/messenger.json\nother --flag host/x | switchboard ...\n```\n";
        let found: Vec<_> = mistakes(text).into_iter().filter(|mistake| !mistake.contains("host/x")).collect();
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn what_does_not_exist_is_found_with_its_line() {
        for (text, expected) in [
            ("```sh\nswitchboard run --shard 4\n```", "p.md:2: `switchboard run` has no flag --shard"),
            (
                "```sh\nswitchboard route show --percentage\n```",
                "p.md:2: `switchboard route show` has no flag --percentage",
            ),
            ("```sh\n\nswitchboard start\n```", "p.md:3: `switchboard` has no command \"start\""),
            ("```sh\nswitchboard run --fuel 3\n```", "p.md:2: --fuel is now --max-fuel"),
            ("Set `--on-failure stop`.", "p.md:1: --on-failure is now --on-release-failure"),
            ("Set `memory-bytes`.", "p.md:1: memory-bytes is now max-memory-bytes"),
            ("```toml\nlog-lines = 5\n```", "p.md:2: log-lines is now plugin-log-lines"),
            (
                "```sh\nSWITCHBOARD_LOG_LINES=5 switchboard run\n```",
                "SWITCHBOARD_LOG_LINES is now SWITCHBOARD_PLUGIN_LOG_LINES",
            ),
            ("```sh\nexport SWITCHBOARD_SHARD=5\n```", "SWITCHBOARD_SHARD is not a setting"),
            ("Run `make everything`.", "p.md:1: the Makefile has no target \"everything\""),
            ("```sh\nmake test SPEED=2\n```", "p.md:2: the Makefile does not use the variable SPEED"),
            ("```console\n$ make nothing\nmake noise\n```", "p.md:2: the Makefile has no target \"nothing\""),
            ("```sh\ncargo test -p switchboard-cor\n```", "p.md:2: the workspace has no package \"switchboard-cor\""),
            ("```sh\ntarget/release/say --loud x\n```", "p.md:2: `say` has no flag --loud"),
            ("```sh\nsay --loud x\n```", "p.md:2: `say` has no flag --loud"),
            ("Use `say --loud`.", "p.md:1: `say` has no flag --loud"),
            ("| `--no-such-flag` | no |", "p.md:1: no command has the flag --no-such-flag"),
            ("```sh\ncat plugin/absent/README.md\n```", "p.md:2: the path plugin/absent/README.md does not exist"),
        ] {
            let found = mistakes(text);
            assert!(matches!(&found[..], [only] if only.contains(expected)), "{text}: {found:?}");
        }
    }
}
