//! The arguments of the commands about releases and routes. All take the settings of `run`, which name the brokers and
//! the application; `deploy` checks the plugin with them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use switchboard_core::routing::{Gate, Percent};

use super::SettingsArgs;

/// The arguments of `deploy`.
#[derive(Debug, Args)]
pub struct DeployArgs {
    /// The plugin (a WebAssembly component).
    #[arg(value_name = "PLUGIN")]
    pub artifact: PathBuf,
    /// Which tenants run it.
    #[command(flatten)]
    pub assignment: Assignment,
    /// The plugin's minisign signature [default: PLUGIN.minisig, if that file exists].
    #[arg(long, value_name = "FILE")]
    pub signature: Option<PathBuf>,
    /// Whether to wait.
    #[command(flatten)]
    pub wait: Wait,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The settings of `run`.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Whether the command waits for its change.
#[derive(Debug, Clone, Copy, Args)]
pub struct Wait {
    /// Wait until all running hosts have applied the change, for at most a minute. With a time (30, 5m): then watch for
    /// problems for that time.
    #[arg(long, value_name = "TIME", value_parser = time, num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    wait: Option<Duration>,
}

impl Wait {
    /// How long to watch after all hosts have applied the change. `None`: do not wait.
    pub fn time(self) -> Option<Duration> {
        self.wait
    }
}

/// The value of `--gate`: a gate fails at this many failures among the release's first messages.
#[derive(Debug, Clone, Copy)]
pub struct GateThreshold {
    failures: u64,
    messages: u64,
}

/// Which tenants run a release, and its health gate.
#[derive(Debug, Args)]
pub struct Assignment {
    /// Route this tenant, whatever other routes say; repeatable.
    #[arg(long, value_name = "TENANT", conflicts_with = "percent")]
    pub tenant: Vec<String>,
    /// Route this percentage of the tenants: 0.01 to 100. A larger percentage includes the tenants of a smaller one.
    #[arg(long, value_name = "PERCENT")]
    pub percent: Option<Percent>,
    /// A host rolls the route back at this many failures among the release's first messages [default: 10/1000].
    #[arg(long, value_name = "FAILURES/MESSAGES", value_parser = gate_threshold, conflicts_with = "no_gate")]
    pub gate: Option<GateThreshold>,
    /// How long the gate counts failures [default: 10m].
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "no_gate")]
    pub gate_time: Option<Duration>,
    /// Set no gate: only an operator rolls the route back.
    #[arg(long)]
    pub no_gate: bool,
    /// A note for the history.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
}

impl Assignment {
    /// The gate. `None`: --no-gate.
    pub fn gate(&self) -> Option<Gate> {
        let mut gate = Gate::default();
        if let Some(GateThreshold { failures, messages }) = self.gate {
            gate = Gate { failures, messages, ..gate };
        }
        if let Some(time) = self.gate_time {
            gate.seconds = time.as_secs().max(1);
        }
        (!self.no_gate).then_some(gate)
    }
}

/// The arguments of `releases`.
#[derive(Debug, Args)]
pub struct ReleasesArgs {
    /// Show all changes, with author and time, instead of releases and hosts.
    #[arg(long)]
    pub history: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The settings of `run`.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// The commands of `route`.
#[derive(Debug, Subcommand)]
pub enum RouteCommand {
    /// Show all routes, or the route of a tenant.
    #[command(after_help = "Example:
  switchboard route show --config messenger.toml")]
    Show {
        /// Show only the route that decides what this tenant runs.
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// The settings of `run`.
        #[command(flatten)]
        settings: Box<SettingsArgs>,
    },

    /// Route tenants to a release that is already deployed.
    #[command(after_help = "Examples:
  switchboard route set messenger@0.2.0 --config messenger.toml --percent 50
  switchboard route set 9f86d081 --config messenger.toml --tenant 083839c6-c47c-42a6-9585-76492795d123/GMS/83/1")]
    Set {
        /// The release: NAME@VERSION, or at least the first 4 digits of its digest.
        release: String,
        /// Which tenants run it.
        #[command(flatten)]
        assignment: Assignment,
        /// Whether to wait.
        #[command(flatten)]
        wait: Wait,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// The settings of `run`.
        #[command(flatten)]
        settings: Box<SettingsArgs>,
    },

    /// Remove routes. Their tenants follow the remaining routes.
    #[command(after_help = "Examples:
  switchboard route clear --config messenger.toml --percentage
  switchboard route clear --config messenger.toml --tenant 083839c6-c47c-42a6-9585-76492795d123/GMS/83/1")]
    Clear {
        /// Which routes to remove.
        #[command(flatten)]
        scopes: Scopes,
        /// A note for the history.
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// Whether to wait.
        #[command(flatten)]
        wait: Wait,
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// The settings of `run`.
        #[command(flatten)]
        settings: Box<SettingsArgs>,
    },
}

/// Which routes to remove.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Scopes {
    /// The route of this tenant; repeatable.
    #[arg(long, value_name = "TENANT")]
    pub tenant: Vec<String>,
    /// The route of a percentage of the tenants.
    #[arg(long)]
    pub percentage: bool,
    /// The route of all other tenants. Without it they run the plugin that their hosts have configured, if any.
    #[arg(long)]
    pub default: bool,
}

/// The arguments of `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Restore only the route of this tenant, from its own last change; repeatable.
    #[arg(long, value_name = "TENANT")]
    pub tenant: Vec<String>,
    /// A note for the history.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Whether to wait.
    #[command(flatten)]
    pub wait: Wait,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The settings of `run`.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// The commands of `release`.
#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// Remove releases, except the newest ones, those that a route names or could be rolled back to, and those that a
    /// host has loaded.
    #[command(after_help = "Example:
  switchboard release prune --config messenger.toml --keep 5 --dry-run")]
    Prune(Box<PruneArgs>),
}

/// The arguments of `release prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// How many of the newest releases to keep.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub keep: usize,
    /// Show what would be removed, and remove nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// A note for the history.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The settings of `run`.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Parses a time: `5m`, or a number of seconds.
fn time(text: &str) -> Result<Duration, humantime::DurationError> {
    text.parse().map(Duration::from_secs).or_else(|_| humantime::parse_duration(text))
}

/// Parses a gate's threshold: `10/1000`.
fn gate_threshold(text: &str) -> Result<GateThreshold, String> {
    let parsed = text.split_once('/').and_then(|(failures, messages)| {
        Some(GateThreshold { failures: failures.parse().ok()?, messages: messages.parse().ok()? })
    });
    parsed.filter(|GateThreshold { failures, messages }| (1..=*messages).contains(failures)).ok_or_else(|| {
        "write it as FAILURES/MESSAGES (10/1000), with at least 1 failure and at least as many messages".into()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    fn deploy(arguments: &[&str]) -> Result<DeployArgs, String> {
        let arguments = ["switchboard", "deploy"].iter().chain(arguments);
        match Cli::try_parse_from(arguments).map_err(|error| error.to_string())?.command {
            Command::Deploy(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_release_has_a_gate_unless_the_operator_wants_none() {
        let gate = |arguments: &[&str]| deploy(arguments).map(|args| args.assignment.gate());
        assert_eq!(gate(&["x.wasm"]), Ok(Some(Gate::default())));
        assert_eq!(gate(&["x.wasm", "--no-gate"]), Ok(None));
        let given = gate(&["x.wasm", "--gate", "1/20", "--gate-time", "2m"]);
        assert_eq!(given, Ok(Some(Gate { failures: 1, messages: 20, seconds: 120 })));
        for wrong in ["0/5", "6/5", "5", "a/b"] {
            assert!(gate(&["x.wasm", "--gate", wrong]).unwrap_err().contains("FAILURES/MESSAGES"), "{wrong}");
        }
        assert!(gate(&["x.wasm", "--gate", "1/2", "--no-gate"]).is_err());
    }

    #[test]
    fn the_plugin_is_never_parsed_as_the_time_to_wait() {
        let wait = |arguments: &[&str]| deploy(arguments).map(|args| args.wait.time());
        assert_eq!(wait(&["x.wasm"]), Ok(None));
        assert_eq!(wait(&["--wait", "x.wasm"]), Ok(Some(Duration::ZERO)));
        assert_eq!(wait(&["--wait=5", "x.wasm"]), Ok(Some(Duration::from_secs(5))));
        assert_eq!(wait(&["--wait=5m", "x.wasm"]), Ok(Some(Duration::from_mins(5))));
        assert!(wait(&["--wait=soon", "x.wasm"]).is_err());
    }

    #[test]
    fn a_release_is_routed_to_tenants_or_to_a_percentage() {
        assert!(deploy(&["x.wasm", "--tenant", "a", "--percent", "5"]).is_err());
        assert!(deploy(&["x.wasm", "--percent", "101"]).unwrap_err().contains("0.01 to 100"));
        assert!(Cli::try_parse_from(["switchboard", "route", "clear"]).is_err(), "a scope is required");
    }
}
