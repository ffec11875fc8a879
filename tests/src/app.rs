//! One application under test: topics of its own for every alias, and hosts that run a plugin on them.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::client::{Client, Record, unique};
use crate::host::{Host, binary, hostile, messenger, switchboard};
use crate::kafka::Kafka;
use crate::native;
use crate::process::{Process, leashed};
use crate::progress::{self, NO_PROGRESS_LIMIT};

/// How long a test waits for a single step, or for the next of several records.
pub const WAIT_LIMIT: Duration = NO_PROGRESS_LIMIT;

/// The messenger's aliases: consumed, then produced.
pub const MESSENGER: [&str; 6] = [
    "COMMAND_TOPIC_MESSENGER",
    "EVENT_TOPIC_CHARACTER_STATUS",
    "EVENT_TOPIC_INVITE_STATUS",
    "EVENT_TOPIC_MESSENGER_STATUS",
    "EVENT_TOPIC_MESSENGER_MEMBER_STATUS",
    "COMMAND_TOPIC_INVITE",
];

/// An application of its own on the shared broker.
pub struct App {
    pub name: String,
    pub client: Client,
    bootstrap: String,
    topics: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl App {
    /// Creates a topic with this number of partitions for each alias, on the broker that tests share.
    pub fn new(prefix: &str, aliases: &[&str], partitions: i32) -> Result<Self> {
        Self::on(Kafka::shared(), prefix, aliases, partitions)
    }

    /// The same on this broker.
    pub fn on(kafka: &Kafka, prefix: &str, aliases: &[&str], partitions: i32) -> Result<Self> {
        let name = unique(prefix);
        let client = kafka.client()?;
        let topics = aliases.iter().map(|alias| ((*alias).to_owned(), format!("{name}-{alias}")));
        let topics: Vec<_> = topics.collect();
        for (_, topic) in &topics {
            client.create_topic(topic, partitions, &[])?;
        }
        let bootstrap = kafka.bootstrap().to_owned();
        Ok(Self { name, client, bootstrap, topics, environment: Vec::new(), arguments: Vec::new() })
    }

    /// The messenger, with the shipped settings.
    pub fn messenger(prefix: &str, partitions: i32) -> Result<Self> {
        Self::messenger_on(Kafka::shared(), prefix, partitions)
    }

    /// The same on this broker.
    pub fn messenger_on(kafka: &Kafka, prefix: &str, partitions: i32) -> Result<Self> {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../messenger.toml").canonicalize()?;
        let plugin = messenger()?;
        let app = Self::on(kafka, prefix, &MESSENGER, partitions)?;
        Ok(app.arg("--config", &config.display().to_string()).arg("--plugin", &plugin.display().to_string()))
    }

    /// The hostile plugin, which does what its message says. It consumes IN and produces OUT, and the header TENANT
    /// names the tenant. Only the topics of `aliases` are created.
    pub fn hostile(prefix: &str, aliases: &[&str], partitions: i32) -> Result<Self> {
        Self::hostile_on(Kafka::shared(), prefix, aliases, partitions)
    }

    /// The same on this broker.
    pub fn hostile_on(kafka: &Kafka, prefix: &str, aliases: &[&str], partitions: i32) -> Result<Self> {
        let app = Self::on(kafka, prefix, aliases, partitions)?;
        Ok(app.arg("--plugin", &hostile()?.display().to_string()).arg("--tenant-header", "TENANT=text"))
    }

    /// Adds an alias whose topic has one partition and these settings.
    pub fn topic_with(mut self, alias: &str, settings: &[(&str, &str)]) -> Result<Self> {
        self = self.no_topic(alias);
        self.client.create_topic(self.topic(alias), 1, settings)?;
        Ok(self)
    }

    /// Adds an alias whose topic does not exist.
    #[must_use]
    pub fn no_topic(mut self, alias: &str) -> Self {
        self.topics.push((alias.to_owned(), format!("{}-{alias}", self.name)));
        self
    }

    /// A message for the hostile plugin.
    pub fn word(&self, tenant: &str, word: &str) -> Record {
        Record {
            topic: self.topic("IN").to_owned(),
            value: Some(word.into()),
            headers: vec![("TENANT".to_owned(), Some(tenant.into()))],
            ..Record::default()
        }
    }

    /// Waits until the topic of an alias has `count` records, and returns them.
    pub fn wait_for(&self, alias: &str, count: usize) -> Result<Vec<Record>> {
        let what = format!("{count} records of {alias}");
        Ok(self
            .client
            .reader(&[self.topic(alias)])?
            .until(&what, WAIT_LIMIT, |records| records.len() >= count)?
            .to_vec())
    }

    /// Waits for `count` dead letters, and returns them.
    pub fn wait_for_dead_letters(&self, count: usize) -> Result<Vec<Record>> {
        let mut reader = self.client.reader(&[&self.dead_letters()])?;
        Ok(reader.until(&format!("{count} dead letters"), WAIT_LIMIT, |letters| letters.len() >= count)?.to_vec())
    }

    /// An application with a name and output topics of its own, which consumes the topics of `self`.
    pub fn rival(&self, prefix: &str, produced: &[&str], partitions: i32) -> Result<Self> {
        let mut rival = Self::new(prefix, produced, partitions)?;
        let own = |alias: &String| produced.contains(&alias.as_str());
        rival.topics.extend(self.topics.iter().filter(|(alias, _)| !own(alias)).cloned());
        rival.environment.clone_from(&self.environment);
        rival.arguments.clone_from(&self.arguments);
        Ok(rival)
    }

    /// A flag of every host.
    #[must_use]
    pub fn arg(mut self, flag: &str, value: &str) -> Self {
        self.arguments.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// An environment variable of every host.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The broker's name of an alias's topic.
    ///
    /// # Panics
    /// When this application has no such alias.
    pub fn topic(&self, alias: &str) -> &str {
        let topic = self.topics.iter().find(|(known, _)| known == alias);
        topic.map_or_else(|| panic!("no topic for {alias}"), |(_, topic)| topic.as_str())
    }

    /// The topic of dead letters.
    pub fn dead_letters(&self) -> String {
        format!("{}-switchboard-dead-letters", self.name)
    }

    /// Starts a host with further arguments, and does not wait until it is ready. `name` is for people.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Result<Host> {
        self.start_by(&[], name, arguments)
    }

    /// The same, started by the command `runner`.
    pub fn start_by(&self, runner: &[&str], name: &str, arguments: &[&str]) -> Result<Host> {
        Host::start(name, &mut self.command(run_by(runner)?, "run", arguments))
    }

    /// Waits until all records of a source topic are processed, whether they came through the repartition topic or not.
    pub fn wait_until_processed(&self, alias: &str) -> Result<()> {
        let repartition = format!("{}-switchboard-repartition", self.name);
        // In this order: a record that is read is processed, or it is in the repartition topic.
        progress::wait_until(&format!("all records of {alias} to be processed"), || {
            Ok(self.client.lag(&self.name, self.topic(alias))? == 0 && self.client.lag(&self.name, &repartition)? == 0)
        })
    }

    /// Deletes the group's offsets of a topic, as if they had expired. No host may be running.
    pub fn delete_offsets(&self, topic: &str) -> Result<()> {
        let partitions = i32::try_from(self.client.committed(&self.name, topic)?.len())?;
        native::delete_offsets(&self.bootstrap, &self.name, topic, partitions)
    }

    /// Examines the cluster as this application's hosts would: exit status and lines.
    pub fn doctor(&self, arguments: &[&str]) -> Result<(ExitStatus, Vec<String>)> {
        Host::start("doctor", &mut self.command(switchboard()?, "doctor", arguments))?.end(WAIT_LIMIT)
    }

    /// Runs a command such as `["route", "show"]` to its end, with the settings of this application's hosts.
    pub fn run_command(&self, words: &[&str], arguments: &[&str]) -> Result<CommandOutput> {
        self.start_command(words, arguments)?.end()
    }

    /// Starts such a command.
    pub fn start_command(&self, words: &[&str], arguments: &[&str]) -> Result<RunningCommand> {
        self.start_command_by(&[], words, arguments)
    }

    /// Starts such a command by the command `runner`.
    pub fn start_command_by(&self, runner: &[&str], words: &[&str], arguments: &[&str]) -> Result<RunningCommand> {
        let output = tempfile::tempfile()?;
        let log = tempfile::tempfile()?;
        let mut command = self.command(run_by(runner)?, words[0], &[&words[1..], arguments].concat());
        command.stdout(output.try_clone()?).stderr(log.try_clone()?);
        Ok(RunningCommand { name: words.join(" "), process: Process::start(&mut command)?, output, log })
    }

    fn command(&self, mut command: Command, name: &str, arguments: &[&str]) -> Command {
        // A subcommand's words come before all flags.
        let words = arguments.iter().take_while(|word| !word.starts_with('-')).count();
        let (words, arguments) = arguments.split_at(words);
        command
            .arg(name)
            .args(words)
            .args(["--app", &self.name])
            .env("BOOTSTRAP_SERVERS", &self.bootstrap)
            .args(&self.arguments)
            .args(arguments)
            .envs(self.topics.iter().map(|(alias, topic)| (alias, topic)))
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a host and waits until it runs.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Result<Host> {
        let host = self.start(name, arguments)?;
        host.wait_for("it runs", WAIT_LIMIT, |line| line.contains("host is running"))?;
        Ok(host)
    }
}

/// The product, started directly or by the command `runner`.
fn run_by(runner: &[&str]) -> Result<Command> {
    let [runner, rest @ ..] = runner else { return switchboard() };
    let mut command = leashed(runner, None);
    command.args(rest).arg(binary()?);
    Ok(command)
}

/// A running command. Dropping it kills it.
pub struct RunningCommand {
    name: String,
    pub process: Process,
    output: File,
    log: File,
}

/// A command that has ended.
#[derive(Debug)]
pub struct CommandOutput {
    pub status: ExitStatus,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub log: String,
}

impl RunningCommand {
    /// Waits for its end. Prints both its outputs, so that a failing test shows them.
    pub fn end(mut self) -> Result<CommandOutput> {
        let status = self.process.wait(WAIT_LIMIT)?;
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
            anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let output = read(&mut self.output)?;
        let log = read(&mut self.log)?;
        for line in log.lines().chain(output.lines()) {
            eprintln!("{} | {line}", self.name);
        }
        Ok(CommandOutput { status, output, log })
    }
}

impl CommandOutput {
    /// Its standard output as JSON. Fails when the command failed.
    pub fn json(&self) -> Result<serde_json::Value> {
        ensure!(self.status.success(), "{}: {}", self.status, self.log);
        Ok(serde_json::from_str(&self.output)?)
    }

    /// The line of the log that says why the command failed.
    pub fn refusal(&self) -> Result<&str> {
        ensure!(self.status.code() == Some(1) && self.output.is_empty(), "{self:?}");
        self.log
            .lines()
            .find(|line| line.starts_with("switchboard: "))
            .context("the log does not say why the command failed")
    }
}

/// The text of a header. `None` when the header is missing, null, or not UTF-8.
pub fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    let header = record.headers.iter().rev().find(|(known, _)| known == name)?;
    std::str::from_utf8(header.1.as_deref()?).ok()
}

/// The origin of a dead letter's record: alias, partition, offset.
pub fn dead_letter_origin(letter: &Record) -> Option<(String, i32, i64)> {
    let number = |name| header(letter, name)?.parse::<i64>().ok();
    let topic = header(letter, "switchboard-topic")?.to_owned();
    Some((topic, i32::try_from(number("switchboard-partition")?).ok()?, number("switchboard-offset")?))
}

/// The values of a tenant's outputs by the hostile plugin, in order.
pub fn answers<'a>(outputs: &'a [Record], tenant: &str) -> Vec<&'a str> {
    let own = outputs.iter().filter(|output| header(output, "TENANT") == Some(tenant));
    own.map(|output| std::str::from_utf8(output.value.as_deref().unwrap_or_default()).unwrap_or("not UTF-8")).collect()
}
