//! The command line: commands, flags and help texts.

mod releases;
mod settings;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use serde_json::Value;

use crate::config::{Settings, renamed};

pub use releases::{
    Assignment, DeployArgs, PruneArgs, ReleaseCommand, ReleasesArgs, RollbackArgs, RouteCommand, Scopes,
};
pub use settings::{Overrides, SettingsArgs, UnknownVariable, check_environment, key_of};

/// A Kafka runtime for WebAssembly plugins: exactly-once processing, many tenants in one process.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    max_term_width = 120,
    after_help = "Example:
  BOOTSTRAP_SERVERS=localhost:9092 switchboard run --config messenger.toml --plugin messenger.wasm"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Consume messages, process each with a plugin, and commit the results.
    #[command(after_help = "Examples:
  BOOTSTRAP_SERVERS=localhost:9092 switchboard run --config messenger.toml --plugin messenger.wasm
  switchboard run --bootstrap-servers b1:9092,b2:9092 --app relay --plugin relay.wasm --tenant-header TENANT=text
  switchboard run --config messenger.toml --plugin messenger.wasm --kafka security.protocol=SASL_SSL \\
      --kafka sasl.mechanisms=SCRAM-SHA-512 --kafka sasl.username=u --kafka sasl.password=p

Topics: a plugin names topics by aliases. The topic of an alias is the value of the environment variable with the
alias's name (COMMAND_TOPIC_MESSENGER), else of --topic ALIAS=NAME or the config file, else the alias itself.
Secrets: `ps` shows flags. Set a secret as SWITCHBOARD_KAFKA_SASL_PASSWORD in the environment, not as a flag.
Log level: RUST_LOG (default: info).")]
    Run(Box<SettingsArgs>),

    /// Check whether a cluster fits the settings of `run`, and show how to fix each problem.
    #[command(after_help = "Example:
  BOOTSTRAP_SERVERS=localhost:9092 switchboard doctor --config messenger.toml --plugin messenger.wasm

`doctor` creates and changes nothing. It checks the topics of the configured plugin and of all releases that routes
name. The exit status is 1 if there is a problem, and 0 if there are only warnings.")]
    Doctor {
        /// The settings of `run`.
        #[command(flatten)]
        settings: Box<SettingsArgs>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },

    /// Deploy a plugin to all hosts without a restart, and route tenants to it.
    #[command(after_help = "Examples:
  switchboard deploy messenger.wasm --config messenger.toml --wait=30
  switchboard deploy messenger.wasm --config messenger.toml --percent 5
  switchboard deploy messenger.wasm --config messenger.toml --tenant 083839c6-c47c-42a6-9585-76492795d123/GMS/83/1 --note 'try it'

`deploy` first loads and checks the plugin with the settings of `run`. Without --tenant and --percent the release is for
all tenants without a route of their own. If the release fails too often (--gate), a host rolls the route back.
The exit status is 1 if nothing was deployed. With --wait it is also 1 if there is a problem: a host cannot run the
release, a tenant runs its fallback release or waits, a message fails (an invalid message is no failure), the route is
rolled back or changed, no host is running, or not all hosts apply the change in time. The release stays deployed.")]
    Deploy(Box<DeployArgs>),

    /// List releases and hosts, or the history of changes.
    #[command(after_help = "Examples:
  switchboard releases --config messenger.toml
  switchboard releases --config messenger.toml --history --json")]
    Releases(Box<ReleasesArgs>),

    /// Show or change which release tenants run.
    #[command(subcommand)]
    Route(RouteCommand),

    /// Undo the last deployment or route change that is not undone yet.
    #[command(after_help = "Examples:
  switchboard rollback --config messenger.toml --note 'too slow'
  switchboard rollback --config messenger.toml --tenant 083839c6-c47c-42a6-9585-76492795d123/GMS/83/1

`rollback` restores each route of the change, unless a later change has changed that route again. With --tenant it
restores only the routes of these tenants, each from its own last change.")]
    Rollback(Box<RollbackArgs>),

    /// Remove unused releases.
    #[command(subcommand)]
    Release(ReleaseCommand),

    /// Play a scripted demo on an embedded broker, then process typed messages.
    #[command(after_help = "Examples:
  switchboard demo messenger.wasm plugin/messenger/demo.toml
  switchboard demo messenger.wasm demo.toml --release messenger-0.2.wasm --script evening.txt")]
    Demo {
        /// The plugin (a WebAssembly component).
        plugin: PathBuf,
        /// The demo file: tenants, words and script.
        demo: PathBuf,
        /// Another release of the plugin, which the word `swap` gives to a tenant; repeatable.
        #[arg(long, value_name = "FILE")]
        release: Vec<PathBuf>,
        /// Play the lines of this file instead of the demo's script, then exit.
        #[arg(long, value_name = "FILE")]
        script: Option<PathBuf>,
    },

    /// Show a plugin's manifest, imports, size and digest.
    #[command(after_help = "Example:
  switchboard inspect target/wasm32-wasip2/release/messenger.wasm")]
    Inspect {
        /// The plugin (a WebAssembly component).
        plugin: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },

    /// Run test vectors on a plugin in the sandbox, with real state and without a broker.
    #[command(after_help = "Example:
  switchboard test target/wasm32-wasip2/release/messenger.wasm tests/vectors/messenger.json

Each failed step is shown as a diff. The last line is `N passed, M failed` (steps). The exit status is 1 if a step
failed.")]
    Test {
        /// The plugin (a WebAssembly component).
        plugin: PathBuf,
        /// Files of test vectors.
        #[arg(required = true)]
        vectors: Vec<PathBuf>,
        /// An output header that is not compared, for example one that a newer release adds; repeatable.
        #[arg(long, value_name = "NAME")]
        ignore_header: Vec<String>,
    },
}

/// Parses the process's command line. Prints help or an error and exits if there is nothing to run.
pub fn parse() -> Cli {
    parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// Parses a command line.
///
/// # Errors
/// When it is wrong, or asks for help or the version. A renamed flag is refused with its new name.
pub fn parse_from<T: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = T>) -> Result<Cli, clap::Error> {
    let parsed = command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| renamed_flag(&error).unwrap_or(error))
}

/// All commands and flags. The help text of a setting ends with its default.
pub fn command() -> clap::Command {
    let defaults = serde_json::to_value(Settings::default()).expect("settings have JSON");
    with_defaults(Cli::command(), &defaults)
}

fn with_defaults(command: clap::Command, defaults: &Value) -> clap::Command {
    let names: Vec<_> = command.get_subcommands().map(|subcommand| subcommand.get_name().to_owned()).collect();
    let command = names
        .into_iter()
        .fold(command, |command, name| command.mut_subcommand(name, |subcommand| with_defaults(subcommand, defaults)));
    command.mut_args(|argument| {
        let default = argument.get_long().and_then(|flag| settings::default_of(flag, defaults));
        match (default, argument.get_help()) {
            (Some(default), Some(help)) => {
                let help = format!("{help} [default: {default}]");
                argument.help(help)
            }
            _ => argument,
        }
    })
}

/// The error for a flag that has been renamed.
fn renamed_flag(error: &clap::Error) -> Option<clap::Error> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let old = flag.strip_prefix("--")?.split(['=', ' ']).next()?;
    let new = renamed::new_key(old)?;
    Some(command().error(ErrorKind::UnknownArgument, format!("--{old} is now --{new}")))
}

#[cfg(test)]
mod tests {
    use switchboard_core::record::{HeaderKind, TenantHeader};
    use switchboard_core::routing::OnFailure;
    use switchboard_core::worker::StartFrom;
    use switchboard_kafka::GroupProtocol;

    use super::*;

    fn run(arguments: &[&str]) -> Result<SettingsArgs, String> {
        let arguments = ["switchboard", "run"].iter().chain(arguments);
        match parse_from(arguments).map_err(|error| error.to_string())?.command {
            Command::Run(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_renamed_flag_is_refused_with_its_new_name() {
        let error = run(&["--on-failure", "stop"]).unwrap_err();
        assert!(error.contains("error: --on-failure is now --on-release-failure"), "{error}");
        for old in renamed::old_keys() {
            let error = run(&[&format!("--{old}=1")]).unwrap_err();
            assert!(error.contains(&format!("--{old} is now --")), "{error}");
        }
    }

    #[test]
    fn a_renamed_variable_is_an_error_and_an_unknown_one_is_reported() {
        let check = |names: &[&str]| check_environment(names.iter().map(|name| (*name).to_owned()));
        let error = check(&["SWITCHBOARD_LOG_LINES"]).unwrap_err().to_string();
        assert_eq!(error, "the environment variable SWITCHBOARD_LOG_LINES is now SWITCHBOARD_PLUGIN_LOG_LINES");
        let known = ["PATH", "SWITCHBOARD_SHARDS", "SWITCHBOARD_CONFIG", "SWITCHBOARD_KAFKA_SASL_PASSWORD"];
        assert_eq!(check(&known).unwrap(), []);
        let unknown = UnknownVariable { name: "SWITCHBOARD_SHARD".into(), nearest: "SWITCHBOARD_SHARDS".into() };
        assert_eq!(check(&["SWITCHBOARD_SHARD"]).unwrap(), [unknown]);
    }

    #[test]
    fn each_command_is_described_by_its_own_text() {
        let mut command = command();
        let about = |command: &clap::Command| command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(about(&command).starts_with("A Kafka runtime for WebAssembly plugins"));
        for (name, start) in [
            ("run", "Consume messages"),
            ("doctor", "Check whether a cluster"),
            ("deploy", "Deploy a plugin"),
            ("releases", "List releases"),
            ("rollback", "Undo the last"),
            ("route", "Show or change"),
            ("release", "Remove unused"),
        ] {
            let text = about(command.find_subcommand_mut(name).unwrap());
            assert!(text.starts_with(start), "{name}: {text}");
        }
        let set = command.find_subcommand_mut("route").unwrap().find_subcommand_mut("set").unwrap();
        assert!(about(set).starts_with("Route tenants"), "{}", about(set));
    }

    #[test]
    fn the_help_shows_each_default_once() {
        let mut command = command();
        let help = command.find_subcommand_mut("run").unwrap().render_long_help().to_string();
        for default in ["[default: 30000]", "[default: classic]", "[default: keep]", "[default: the alias]"] {
            assert!(help.contains(default), "{default} is missing: {help}");
        }
        let flags = help.split("\n      --").flat_map(|text| text.split("\n  -"));
        for flag in flags {
            assert!(flag.matches("[default: ").count() <= 1, "{flag}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_setting_has_its_flag() {
        let flags: Vec<String> = command()
            .find_subcommand("run")
            .unwrap()
            .get_arguments()
            .filter_map(|arg| arg.get_long().map(str::to_owned))
            .collect();
        let settings = serde_json::to_value(Settings::default()).unwrap();
        for key in settings.as_object().unwrap().keys() {
            assert!(flags.iter().any(|flag| key_of(flag, &settings).as_ref() == Some(key)), "{key} has no flag");
        }
    }

    #[test]
    fn properties_come_from_the_environment_and_flags_override_them() {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = [
            variable("SWITCHBOARD_KAFKA_SASL_PASSWORD", "secret"),
            variable("SWITCHBOARD_KAFKA_LINGER_MS", "1"),
            variable("SWITCHBOARD_APP", "a"),
        ];
        let args = run(&["--kafka", "linger.ms=2"]).unwrap();
        let overrides = args.overrides.with_kafka_from(environment.into_iter());
        let settings = Settings::load(None, &overrides).unwrap();
        let expected = [variable("linger.ms", "2"), variable("sasl.password", "secret")];
        assert_eq!(settings.kafka, expected.into());
    }

    #[test]
    fn flags_reach_the_settings() {
        let args = run(&[
            "--app",
            "a",
            "--topic",
            "T=t",
            "--tenant-header",
            "H=u16",
            "--lookup",
            "s=http://x/{key}",
            "--kafka",
            "linger.ms=1",
            "--start-from",
            "latest",
            "--group-protocol",
            "classic",
            "--on-release-failure",
            "stop",
        ])
        .unwrap();
        let settings = Settings::load(None, &args.overrides).unwrap();
        assert_eq!((settings.app.as_str(), settings.topics["T"].as_str()), ("a", "t"));
        assert_eq!(settings.tenant_headers, [TenantHeader { name: "H".into(), kind: HeaderKind::U16 }]);
        assert_eq!(settings.lookups["s"].url, "http://x/{key}");
        assert_eq!(settings.kafka["linger.ms"], "1");
        assert_eq!(settings.start_from, StartFrom::Latest);
        assert_eq!(settings.on_release_failure, OnFailure::Stop);
        assert_eq!(settings.group_protocol, GroupProtocol::Classic);
    }
}
