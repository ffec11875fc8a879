//! The commands about releases and routes. All take the settings of `run`: the brokers and the application's name, and for
//! `deploy` what a plugin may be.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use switchboard_core::routing::{Gate, Percent};

use super::RunArgs;

#[derive(Debug, Args)]
pub struct DeployArgs {
    /// The plugin's component.
    #[arg(value_name = "PLUGIN")]
    pub artifact: PathBuf,
    #[command(flatten)]
    pub assignment: Assignment,
    /// The artifact's minisign signature [default: PLUGIN.minisig, where that exists].
    #[arg(long, value_name = "FILE")]
    pub signature: Option<PathBuf>,
    #[command(flatten)]
    pub wait: Wait,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub settings: RunArgs,
}

/// Whether a change is followed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Wait {
    /// Follow the change until all living hosts go by it, for at most a minute; with a time (30, 5m) go on for so long and look at
    /// what becomes of it.
    #[arg(long, value_name = "TIME", value_parser = time, num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    wait: Option<Duration>,
}

impl Wait {
    /// For how long it is followed after all hosts go by it; `None`: it is not.
    pub fn time(self) -> Option<Duration> {
        self.wait
    }
}

/// Who shall run a release, and until when it is on probation.
#[derive(Debug, Args)]
pub struct Assignment {
    /// For this tenant, whatever other routes say; repeatable.
    #[arg(long, value_name = "TENANT", conflicts_with = "percent")]
    pub tenant: Vec<String>,
    /// For a part of the tenants: 0.01 to 100. A growing part keeps those that it has.
    #[arg(long, value_name = "PERCENT")]
    pub percent: Option<Percent>,
    /// At so many failures among its first so many messages a host sends its tenants back [default: 10/1000].
    #[arg(long, value_name = "FAILURES/MESSAGES", value_parser = gate, conflicts_with = "no_gate")]
    pub gate: Option<(u64, u64)>,
    /// For how long failures count [default: 10m].
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "no_gate")]
    pub gate_time: Option<Duration>,
    /// Only an operator sends its tenants back.
    #[arg(long)]
    pub no_gate: bool,
    /// A word for the history.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
}

impl Assignment {
    /// The gate that was asked for.
    pub fn gate(&self) -> Option<Gate> {
        let mut gate = Gate::default();
        if let Some((failures, messages)) = self.gate {
            (gate.failures, gate.messages) = (failures, messages);
        }
        if let Some(time) = self.gate_time {
            gate.seconds = time.as_secs().max(1);
        }
        (!self.no_gate).then_some(gate)
    }
}

#[derive(Debug, Args)]
pub struct ReleasesArgs {
    /// What was done, by whom and when, instead of what there is.
    #[arg(long)]
    pub history: bool,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub settings: RunArgs,
}

#[derive(Debug, Subcommand)]
pub enum RouteCommand {
    /// Show all routes, or that by which a tenant runs.
    #[command(after_help = "Example:
  switchboard route show --config messenger.toml")]
    Show {
        /// Only the route by which this tenant runs.
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Box<RunArgs>,
    },

    /// Have tenants run a release that was deployed before.
    #[command(after_help = "Examples:
  switchboard route set messenger@0.2.0 --config messenger.toml --percent 50
  switchboard route set 9f86d081 --config messenger.toml --tenant 083839c6-c47c-42a6-9585-76492795d123/GMS/83/1")]
    Set {
        /// NAME@VERSION, or the first digits of its digest, at least 4.
        release: String,
        #[command(flatten)]
        assignment: Assignment,
        #[command(flatten)]
        wait: Wait,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Box<RunArgs>,
    },

    /// Take routes away: their tenants run what the remaining ones say.
    #[command(after_help = "Examples:
  switchboard route clear --config messenger.toml --percentage
  switchboard route clear --config messenger.toml --tenant 083839c6-c47c-42a6-9585-76492795d123/GMS/83/1")]
    Clear {
        #[command(flatten)]
        scopes: Scopes,
        /// A word for the history.
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        #[command(flatten)]
        wait: Wait,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        settings: Box<RunArgs>,
    },
}

/// Which routes.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Scopes {
    /// That of this tenant; repeatable.
    #[arg(long, value_name = "TENANT")]
    pub tenant: Vec<String>,
    /// That of a part of the tenants.
    #[arg(long)]
    pub percentage: bool,
    /// That of all other tenants: they run the artifact of their hosts' config files, if there is one.
    #[arg(long)]
    pub default: bool,
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Only the route of this tenant, by its own last change; repeatable.
    #[arg(long, value_name = "TENANT")]
    pub tenant: Vec<String>,
    /// A word for the history.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    #[command(flatten)]
    pub wait: Wait,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub settings: RunArgs,
}

#[derive(Debug, Subcommand)]
pub enum ReleaseCommand {
    /// Remove all but the newest releases, those that a route names or would go back to, and those that a host has.
    #[command(after_help = "Example:
  switchboard release prune --config messenger.toml --keep 5 --dry-run")]
    Prune(Box<PruneArgs>),
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// How many of the newest are kept.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub keep: usize,
    /// Only tell what would be removed.
    #[arg(long)]
    pub dry_run: bool,
    /// A word for the history.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub settings: RunArgs,
}

/// A time; a number without a unit is one of seconds.
fn time(text: &str) -> Result<Duration, humantime::DurationError> {
    text.parse().map(Duration::from_secs).or_else(|_| humantime::parse_duration(text))
}

fn gate(text: &str) -> Result<(u64, u64), String> {
    let parsed =
        text.split_once('/').and_then(|(failures, messages)| Some((failures.parse().ok()?, messages.parse().ok()?)));
    match parsed {
        Some((failures, messages)) if 0 < failures && failures <= messages => Ok((failures, messages)),
        _ => Err("write it as FAILURES/MESSAGES, 10/1000: at least 1 failure, and no more than messages".into()),
    }
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
    fn a_gate_is_there_unless_it_is_refused() {
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
    fn the_time_to_wait_is_never_taken_for_the_plugin() {
        let wait = |arguments: &[&str]| deploy(arguments).map(|args| args.wait.time());
        assert_eq!(wait(&["x.wasm"]), Ok(None));
        assert_eq!(wait(&["--wait", "x.wasm"]), Ok(Some(Duration::ZERO)));
        assert_eq!(wait(&["--wait=5", "x.wasm"]), Ok(Some(Duration::from_secs(5))));
        assert_eq!(wait(&["--wait=5m", "x.wasm"]), Ok(Some(Duration::from_mins(5))));
        assert!(wait(&["--wait=soon", "x.wasm"]).is_err());
    }

    #[test]
    fn a_release_is_for_tenants_or_for_a_percentage() {
        assert!(deploy(&["x.wasm", "--tenant", "a", "--percent", "5"]).is_err());
        assert!(deploy(&["x.wasm", "--percent", "101"]).unwrap_err().contains("0.01 to 100"));
        assert!(Cli::try_parse_from(["switchboard", "route", "clear"]).is_err(), "which one?");
    }
}
