//! The format of a demo file: tenants, names, words, and how outputs are shown. A demo is data: any plugin can have
//! one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use switchboard_core::record::{HeaderKind, Headers, Outgoing, Record, TenantHeader};

use crate::config::{ConfigError, parse_toml};

/// A demo file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Demo {
    /// Printed first.
    pub title: String,
    pub tenant_headers: Vec<TenantHeader>,
    #[serde(default)]
    pub carry_headers: Vec<String>,
    pub tenants: Vec<DemoTenant>,
    /// Kind of thing -> name -> number: `character` -> `Ann` -> 1.
    #[serde(default)]
    pub names: BTreeMap<String, BTreeMap<String, i64>>,
    #[serde(default)]
    pub lookups: BTreeMap<String, DemoLookup>,
    pub words: Vec<Word>,
    #[serde(default)]
    pub reads: Vec<OutputText>,
    /// Output headers that are shown after the output.
    #[serde(default)]
    pub shown_headers: Vec<String>,
    /// Lines to play. A line that starts with `#` is printed.
    pub script: String,
}

/// A tenant, and the name to type for it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DemoTenant {
    pub name: String,
    /// The value of each tenant header: a number for the number types, text for the others.
    pub headers: BTreeMap<String, Value>,
}

/// A lookup source that knows the names of one kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DemoLookup {
    /// The kind of name. A lookup key is the decimal number of a name.
    pub names: String,
    /// The answer, with `<id>` and `<name>`.
    pub answer: String,
}

/// A word to type, and the record that it sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Word {
    pub word: String,
    /// `name:kind`. The kind is a kind of `names`, `number`, `text`, or, for the last argument, `line`: the rest of the typed
    /// line.
    #[serde(default)]
    pub args: Vec<String>,
    pub help: String,
    /// The topic's alias.
    pub alias: String,
    #[serde(default)]
    pub key: Vec<KeyPart>,
    /// The record's value, with `<name>` for each argument.
    pub json: String,
}

/// A part of a record's key, with `<name>` for an argument.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum KeyPart {
    Text(String),
    Hex(String),
    U32Le(String),
    U32Be(String),
    U64Le(String),
    U64Be(String),
}

/// How an output is shown.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputText {
    pub alias: String,
    /// JSON pointer without its first slash -> the value that the output must have there.
    #[serde(default)]
    pub when: BTreeMap<String, Value>,
    /// The text, with `<pointer>` or `<pointer:kind>` for a value of the output.
    pub text: String,
}

/// A record to send.
pub(super) struct Input {
    pub alias: String,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
}

/// The old name of the key `alias`.
const OLD_ALIAS_KEY: &str = "token";

impl Demo {
    pub(super) fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read(path.to_owned(), error))?;
        let demo = Self::parse(&text, path)?;
        if demo.tenants.is_empty() {
            let problem = "[[tenants]] is missing: a demo has at least one tenant".into();
            return Err(ConfigError::Invalid { file: path.display().to_string(), problem });
        }
        Ok(demo)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        parse_toml(text, path).map_err(|error| match error {
            ConfigError::UnknownKey { file, key, .. } if key == OLD_ALIAS_KEY => {
                ConfigError::Renamed(format!("{file}: the key {key:?}"), format!("{:?}", "alias"))
            }
            error => error,
        })
    }

    /// The tenant headers of a tenant's records.
    pub(super) fn headers(&self, tenant: &DemoTenant) -> Result<Headers, String> {
        let header = |TenantHeader { name, kind }: &TenantHeader| {
            let value =
                tenant.headers.get(name).ok_or_else(|| format!("tenant {} has no header {name}", tenant.name))?;
            let bytes = match (kind, value.as_str(), value.as_u64()) {
                (HeaderKind::Uuid | HeaderKind::Text, Some(text), _) => Some(text.as_bytes().to_vec()),
                (HeaderKind::U8, _, Some(n)) => u8::try_from(n).ok().map(|n| n.to_be_bytes().to_vec()),
                (HeaderKind::U16, _, Some(n)) => u16::try_from(n).ok().map(|n| n.to_be_bytes().to_vec()),
                (HeaderKind::U32, _, Some(n)) => u32::try_from(n).ok().map(|n| n.to_be_bytes().to_vec()),
                (HeaderKind::U64, _, Some(n)) => Some(n.to_be_bytes().to_vec()),
                _ => None,
            };
            let bytes = bytes.ok_or_else(|| {
                format!("tenant {}: the header {name} = {value} is not of the type {kind:?}", tenant.name)
            })?;
            Ok((name.clone(), Some(bytes)))
        };
        self.tenant_headers.iter().map(header).collect()
    }

    /// The record of a typed word.
    pub(super) fn input(&self, typed: &[&str]) -> Result<Input, String> {
        let [name, arguments @ ..] = typed else { return Err("nothing was typed".into()) };
        let word = self.words.iter().find(|word| word.word.eq_ignore_ascii_case(name));
        let word = word.ok_or_else(|| format!("unknown word {name:?}; `help` lists the words"))?;
        // An argument of the kind `line` takes the rest of the typed line.
        let takes_line = word.args.last().is_some_and(|arg| arg.ends_with(":line"));
        let count = word.args.len();
        if arguments.len() < count || (arguments.len() > count && !takes_line) {
            return Err(format!("usage: {}", word.usage()));
        }
        let mut values = Vec::new();
        for (index, arg) in word.args.iter().enumerate() {
            let (name, kind) = arg.split_once(':').unwrap_or((arg, "text"));
            let value = match kind {
                "line" => arguments[index..].join(" "),
                kind => self.argument(kind, arguments[index])?.to_string(),
            };
            values.push((name, value));
        }
        let fill = |template: &str| {
            values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("<{name}>"), value))
        };
        let mut key = Vec::new();
        for part in &word.key {
            part.write(&mut key, &fill).map_err(|problem| format!("the key of {}: {problem}", word.word))?;
        }
        Ok(Input {
            alias: word.alias.clone(),
            key: (!word.key.is_empty()).then_some(key),
            value: fill(&word.json).into_bytes(),
        })
    }

    fn argument(&self, kind: &str, text: &str) -> Result<Value, String> {
        if kind == "text" {
            return Ok(text.into());
        }
        if let Ok(number) = text.parse::<i64>() {
            return Ok(number.into());
        }
        let names = self.names.get(kind);
        let found = names.and_then(|names| names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)));
        found.map(|(_, number)| (*number).into()).ok_or_else(|| {
            let known = names.map(|names| names.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
            format!(
                "{text:?} is not a {kind}{}",
                known.map(|known| format!(": give {known} or a number")).unwrap_or_default()
            )
        })
    }

    fn name_of(&self, kind: &str, number: i64) -> Option<&str> {
        let mut names = self.names.get(kind)?.iter();
        names.find(|(_, known)| **known == number).map(|(name, _)| name.as_str())
    }

    /// An output as text, with the headers that are shown.
    pub(super) fn describe(&self, output: &Outgoing) -> String {
        let Record { value, headers, .. } = &output.record;
        let mut text = self.describe_value(&output.topic, value.as_deref());
        for header in self.shown_headers.iter().filter_map(|name| headers.last(name)) {
            let value = String::from_utf8_lossy(header.value.unwrap_or_default());
            text = format!("{text} ({}: {value})", String::from_utf8_lossy(header.name));
        }
        text
    }

    /// An output's value as text, unchanged if no `OutputText` matches.
    fn describe_value(&self, alias: &str, value: Option<&[u8]>) -> String {
        let Some(value) = value else { return format!("{alias}: tombstone") };
        let plain = || format!("{alias}: {}", String::from_utf8_lossy(value));
        let Ok(json) = serde_json::from_slice::<Value>(value) else { return plain() };
        let at = |pointer: &str| json.pointer(&format!("/{pointer}"));
        let matches = |text: &&OutputText| {
            text.alias == alias && text.when.iter().all(|(pointer, wanted)| at(pointer) == Some(wanted))
        };
        let Some(template) = self.reads.iter().find(matches) else { return plain() };
        let mut text = String::new();
        let mut rest = template.text.as_str();
        while let Some((before, after)) = rest.split_once('<') {
            let (inner, after) = after.split_once('>').unwrap_or((after, ""));
            let (pointer, kind) = inner.split_once(':').unwrap_or((inner, ""));
            text.push_str(before);
            match at(pointer) {
                Some(Value::String(value)) => text.push_str(value),
                Some(value) => {
                    let name = value.as_i64().and_then(|number| self.name_of(kind, number));
                    text.push_str(&name.map_or_else(|| value.to_string(), str::to_owned));
                }
                None => text.push('?'),
            }
            rest = after;
        }
        text + rest
    }

    /// The answer of a lookup source.
    pub(super) fn answer(&self, source: &str, key: &str) -> Option<Vec<u8>> {
        let lookup = self.lookups.get(source)?;
        let name = self.name_of(&lookup.names, key.parse().ok()?)?;
        Some(lookup.answer.replace("<id>", key).replace("<name>", name).into_bytes())
    }
}

impl Word {
    pub(super) fn usage(&self) -> String {
        let args =
            self.args.iter().map(|arg| format!(" <{}>", arg.split_once(':').map_or(arg.as_str(), |(name, _)| name)));
        format!("{}{}", self.word, args.collect::<String>())
    }
}

impl KeyPart {
    fn write(&self, key: &mut Vec<u8>, fill: &impl Fn(&str) -> String) -> Result<(), String> {
        fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
            text.parse().map_err(|_| format!("{text:?} is not a number of that size"))
        }
        match self {
            Self::Text(text) => key.extend(fill(text).into_bytes()),
            Self::Hex(digits) => key.extend(hex::decode(digits).map_err(|error| error.to_string())?),
            Self::U32Le(text) => key.extend(number::<u32>(&fill(text))?.to_le_bytes()),
            Self::U32Be(text) => key.extend(number::<u32>(&fill(text))?.to_be_bytes()),
            Self::U64Le(text) => key.extend(number::<u64>(&fill(text))?.to_le_bytes()),
            Self::U64Be(text) => key.extend(number::<u64>(&fill(text))?.to_be_bytes()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messenger() -> Demo {
        Demo::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugin/messenger/demo.toml")).unwrap()
    }

    #[test]
    fn a_renamed_key_is_refused_with_the_new_one() {
        let text = include_str!("../../../../../plugin/messenger/demo.toml").replace("alias = ", "token = ");
        let error = Demo::parse(&text, Path::new("demo.toml")).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.ends_with("the key \"token\" is now \"alias\""), "{error}");
    }

    #[test]
    fn a_typed_word_becomes_a_record() {
        let input = messenger().input(&["invite", "Ann", "bob"]).unwrap();
        assert_eq!(input.alias, "COMMAND_TOPIC_MESSENGER");
        assert_eq!(input.key, Some(vec![1, 0, 0, 0, 0, 0, 0, 0]));
        let json: Value = serde_json::from_slice(&input.value).unwrap();
        assert_eq!((&json["actorId"], &json["body"]["characterId"]), (&1.into(), &2.into()));
    }

    #[test]
    fn a_line_is_sent_as_it_was_typed() {
        let input = messenger().input(&["send", r#"{"type":"#, r#""x"}"#]).unwrap();
        assert_eq!(input.value, br#"{"type": "x"}"#);
    }

    #[test]
    fn a_line_that_is_not_understood_is_refused_with_the_known_words() {
        let error = |typed: &[&str]| messenger().input(typed).err().unwrap();
        assert!(error(&["dance"]).contains("help"));
        assert_eq!(error(&["create"]), "usage: create <who>");
        assert!(error(&["create", "Nobody"]).contains("Ann"), "{}", error(&["create", "Nobody"]));
    }

    #[test]
    fn every_line_of_the_script_is_understood() {
        let demo = messenger();
        let lines = demo.script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let words: Vec<_> = line.split_whitespace().collect();
            assert!(demo.tenants.iter().any(|tenant| tenant.name.eq_ignore_ascii_case(words[0])), "{line}");
            if words[1..] != ["swap"] {
                demo.input(&words[1..]).unwrap_or_else(|problem| panic!("{line}: {problem}"));
            }
        }
        for tenant in &demo.tenants {
            demo.headers(tenant).unwrap();
        }
    }

    #[test]
    fn outputs_are_shown_as_the_file_says() {
        let demo = messenger();
        let joined = br#"{"actorId":2,"worldId":0,"messengerId":1000000000,"type":"JOINED","body":{"slot":1}}"#;
        let output = |topic: &str, value: &[u8]| {
            let headers = [("ROOM", Some("Ann's room")), ("OTHER", Some("x"))].into_iter().collect();
            Outgoing {
                topic: topic.into(),
                record: Record { value: Some(value.to_vec()), headers, ..Record::default() },
            }
        };
        let text = demo.describe(&output("EVENT_TOPIC_MESSENGER_STATUS", joined));
        assert!(text.contains("Bob") && text.contains("one") && text.contains('1'), "{text}");
        assert_eq!(demo.describe(&output("ELSEWHERE", b"[]")), "ELSEWHERE: [] (ROOM: Ann's room)");
    }
}
