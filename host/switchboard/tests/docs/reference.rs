//! Generates the table of settings from their definition: the flags with their help texts, and `Settings::default`.

use std::fmt::Write as _;

use clap::Arg;
use serde_json::Value;
use switchboard::cli::{command, key_of};
use switchboard::config::{NESTED_KEYS, Settings};

const START: &str = "<!-- generated: settings -->\n";
const END: &str = "<!-- end generated -->";

/// The page with its generated part replaced.
pub(crate) fn update(page: &str) -> Result<String, String> {
    let (before, rest) = page.split_once(START).ok_or_else(|| format!("the line {START:?} is missing"))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| format!("the line {END:?} is missing"))?;
    Ok(format!("{before}{START}{}{END}{after}", settings()))
}

/// A setting, as the reference shows it.
struct Row {
    heading: String,
    cells: [String; 6],
}

fn settings() -> String {
    let command = command();
    let run = command.find_subcommand("run").expect("run");
    let defaults = serde_json::to_value(Settings::default()).expect("settings have JSON");
    let rows: Vec<_> = run.get_arguments().filter_map(|argument| row(argument, &defaults)).collect();
    let mut headings: Vec<&str> = Vec::new();
    for row in &rows {
        if !headings.contains(&row.heading.as_str()) {
            headings.push(&row.heading);
        }
    }
    let mut text = String::new();
    for heading in headings {
        write!(text, "\n### {heading}\n\n").expect("a String");
        push_row(&mut text, &["Key", "Flag", "Environment variable", "Type", "Default", "Meaning"]);
        push_row(&mut text, &["---"; 6]);
        for row in rows.iter().filter(|row| row.heading == heading) {
            push_row(&mut text, &row.cells.each_ref().map(String::as_str));
        }
    }
    text.push_str("\n### Nested tables\n\nThese keys exist only in the config file.\n\n");
    push_row(&mut text, &["Table", "Key", "Type", "Default", "Meaning"]);
    push_row(&mut text, &["---"; 5]);
    for key in NESTED_KEYS {
        push_row(&mut text, &[&code(key.table), &code(key.key), key.kind, key.default, key.meaning]);
    }
    text.push('\n');
    text
}

fn push_row(text: &mut String, cells: &[&str]) {
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    writeln!(text, "| {} |", cells.join(" | ")).expect("a String");
}

/// The row of a flag that is a setting.
fn row(argument: &Arg, defaults: &Value) -> Option<Row> {
    let flag = argument.get_long()?;
    let key = key_of(flag, defaults)?;
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let (help, default) = take_note(&help, "default");
    let (meaning, variable) = take_note(&help, "env");
    let variable = match argument.get_env().and_then(|variable| variable.to_str()) {
        Some(variable) => code(variable),
        None => variable.map_or("none".into(), |variable| describe_variable(&variable)),
    };
    let cells = [
        code(&key),
        code(&match value_name(argument) {
            Some(value) => format!("--{flag} {value}"),
            None => format!("--{flag}"),
        }),
        variable,
        describe_type(argument, &defaults[&key]),
        describe_default(default.as_deref(), &defaults[&key]),
        sentence(&meaning),
    ];
    Some(Row { heading: argument.get_help_heading().unwrap_or("Host").to_owned(), cells })
}

/// Takes a note such as `[default: 16]` out of a help text.
fn take_note(help: &str, name: &str) -> (String, Option<String>) {
    let Some((before, rest)) = help.split_once(&format!("[{name}: ")) else { return (help.to_owned(), None) };
    let (note, after) = rest.split_once(']').unwrap_or((rest, ""));
    (format!("{} {}", before.trim_end(), after.trim_start()).trim().to_owned(), Some(note.to_owned()))
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// `NAME_PREFIX_X` is code; `the alias` is not.
fn describe_variable(variable: &str) -> String {
    if variable.contains(' ') { variable.to_owned() } else { code(variable) }
}

fn value_name(argument: &Arg) -> Option<String> {
    let takes_value = argument.get_action().takes_values();
    takes_value.then(|| argument.get_value_names().map_or(String::new(), |names| names.join(" ")))
}

fn describe_type(argument: &Arg, default: &Value) -> String {
    let values: Vec<_> = argument.get_possible_values().iter().map(|value| code(value.get_name())).collect();
    let unit = match value_name(argument).as_deref() {
        None => return "true or false".into(),
        Some(_) if !values.is_empty() => return values.join(" or "),
        Some("MS") => "milliseconds",
        Some("BYTES") => "bytes",
        Some("N") => "number",
        Some("FILE" | "DIR") => "path",
        Some(_) => "text",
    };
    match default {
        Value::Object(_) => "table".into(),
        _ if argument.get_action().takes_values() && is_repeatable(argument) => "list of text".into(),
        _ => unit.into(),
    }
}

fn is_repeatable(argument: &Arg) -> bool {
    matches!(argument.get_action(), clap::ArgAction::Append)
}

fn describe_default(note: Option<&str>, default: &Value) -> String {
    match (note, default) {
        (Some(note), Value::Number(_) | Value::String(_)) if !note.contains(' ') && note != "none" => code(note),
        (Some(note), _) => note.to_owned(),
        (None, Value::Bool(value)) => code(&value.to_string()),
        (None, _) => "none".into(),
    }
}

/// clap takes the full stop from a help text.
fn sentence(text: &str) -> String {
    let text = text.trim().replace("{base}", "`{base}`").replace("{key}", "`{key}`");
    if text.ends_with('.') { text } else { format!("{text}.") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_part_is_replaced_and_the_rest_stays() {
        let page = format!("# Title\n{START}old\n{END}\nend\n");
        let updated = update(&page).unwrap();
        assert!(updated.starts_with("# Title\n") && updated.ends_with("\nend\n") && !updated.contains("old"));
        assert_eq!(update(&updated).unwrap(), updated);
        assert!(update("# Title\n").unwrap_err().contains("generated: settings"));
    }

    #[test]
    fn every_setting_has_a_row() {
        let text = settings();
        let defaults = serde_json::to_value(Settings::default()).unwrap();
        for key in defaults.as_object().unwrap().keys() {
            assert_eq!(text.matches(&format!("\n| `{key}` | ")).count(), 1, "{key}");
        }
        let row = "| `purge-interval-ms` | `--purge-interval-ms MS` | `SWITCHBOARD_PURGE_INTERVAL_MS` | milliseconds | `30000` | ";
        assert!(text.contains(row), "{text}");
    }
}
