//! The commands that change the releases of tenants, one after the other, at random from a seed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use serde_json::Value;
use switchboard_core::record::Offset;
use switchboard_core::registry::RegistryState;

use super::artifacts::Artifacts;
use super::load;
use crate::host::switchboard;
use crate::process::Process;

/// The number of tenants that one command pins.
const TENANTS_PER_PIN: usize = 3;
/// The number of tenants that may be pinned when each deployment brings a new artifact. Pinned artifacts stay loaded.
const PINNABLE_TENANTS_WHEN_FRESH: usize = 5;
/// The number of deployments between two prunes, when each deployment brings a new artifact.
const DEPLOYMENTS_PER_PRUNE: usize = 25;

/// The kinds of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SwapKind {
    Deploy,
    DeployAndWait,
    DeployToTenants,
    DeployToPercentage,
    Set,
    SetTenants,
    SetPercentage,
    ClearDefault,
    ClearTenants,
    ClearPercentage,
    Rollback,
    Prune,
}

impl SwapKind {
    /// The command as an operator types it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::DeployAndWait => "deploy --wait",
            Self::DeployToTenants => "deploy --tenant",
            Self::DeployToPercentage => "deploy --percent",
            Self::Set => "route set",
            Self::SetTenants => "route set --tenant",
            Self::SetPercentage => "route set --percent",
            Self::ClearDefault => "route clear --default",
            Self::ClearTenants => "route clear --tenant",
            Self::ClearPercentage => "route clear --percentage",
            Self::Rollback => "rollback",
            Self::Prune => "release prune",
        }
    }
}

/// Runs the commands that change routes.
#[derive(Debug)]
pub struct Swaps {
    app: String,
    bootstrap: String,
    random: Rng,
    fresh: bool,
    pub artifacts: Artifacts,
    /// All routes by their scope, from the outputs of the commands.
    routes: BTreeMap<String, Value>,
    /// The duration of each command, by kind.
    pub times: BTreeMap<SwapKind, Vec<Duration>>,
    /// The number of commands with nothing to change or to undo.
    pub refused: usize,
    /// Commands that the brokers did not answer in time, and waits that took too long. The control topic shows their
    /// effect.
    pub given_up: Vec<String>,
    deployed: usize,
}

/// Texts of valid refusals, which follow a command that was given up or undone.
const REFUSAL_TEXTS: [&str; 5] =
    ["nothing was changed", "there is no route", "there is no change", "has been removed", "cannot try it"];
/// Texts of a command that the brokers did not answer in time.
const GIVEN_UP_TEXTS: [&str; 4] =
    ["do not answer", "was not read to its end", "nothing was changed within", "is not known"];

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Done,
    /// All hosts apply the change. The offset is that of the change's record.
    Awaited(Offset),
    /// Only the control topic shows the effect.
    Failed,
}

/// A running command. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    kind: SwapKind,
    line: String,
    process: Process,
    output: File,
    log: File,
    started: Instant,
    took: Option<Duration>,
}

impl Running {
    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        let ended = self.process.ended()?.is_some();
        if ended && self.took.is_none() {
            self.took = Some(self.started.elapsed());
        }
        Ok(ended)
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "switchboard {}", self.line)
    }
}

impl Swaps {
    /// The artifacts must contain the releases 0 and 1. Release 0 is the hosts' `--plugin`.
    pub fn new(app: &str, bootstrap: &str, artifacts: Artifacts, seed: u64, fresh: bool) -> Self {
        Self {
            app: app.to_owned(),
            bootstrap: bootstrap.to_owned(),
            random: Rng::with_seed(seed),
            fresh,
            artifacts,
            routes: BTreeMap::new(),
            times: BTreeMap::new(),
            refused: 0,
            given_up: Vec::new(),
            deployed: 0,
        }
    }

    /// Starts the command that the seed draws next.
    pub fn begin(&mut self) -> Result<Running> {
        let kind = self.draw();
        self.begin_with(kind)
    }

    /// Starts a command of this kind.
    pub fn begin_with(&mut self, kind: SwapKind) -> Result<Running> {
        let arguments = self.arguments(kind)?;
        let line = arguments.join(" ");
        let output = tempfile::tempfile()?;
        let log = tempfile::tempfile()?;
        let mut command = switchboard()?;
        command
            .args(&arguments)
            .args(["--json", "--app", &self.app, "--tenant-header", "TENANT=text"])
            .env("BOOTSTRAP_SERVERS", &self.bootstrap)
            .stdout(output.try_clone()?)
            .stderr(log.try_clone()?);
        let started = Instant::now();
        let process = Process::start(&mut command)?;
        Ok(Running { kind, line, process, output, log, started, took: None })
    }

    /// Evaluates the end of a command.
    pub fn end(&mut self, running: Running) -> Result<End> {
        let Running { kind, line, mut process, mut output, mut log, took, .. } = running;
        let status = process.ended()?.with_context(|| format!("switchboard {line} still runs"))?;
        self.times.entry(kind).or_default().extend(took);
        let said = read(&mut output)?;
        let why = read(&mut log)?;
        let says = |texts: &[&str]| texts.iter().any(|text| why.contains(text));
        if !status.success() {
            if says(&GIVEN_UP_TEXTS) || said.contains("\"time-out\"") {
                self.given_up.push(format!("{line}: {}", why.lines().next_back().unwrap_or(&said)));
            } else if says(&REFUSAL_TEXTS) {
                self.refused += 1;
            } else {
                bail!("switchboard {line} ended with {status}: {said} {why}");
            }
            return Ok(End::Failed);
        }
        let entry: Value = serde_json::from_str(&said).with_context(|| format!("switchboard {line} said {said:?}"))?;
        for touched in entry["routes"].as_array().into_iter().flatten() {
            let scope = touched["route"].as_str().context("a route has a scope")?.to_owned();
            match &touched["after"] {
                Value::Null => drop(self.routes.remove(&scope)),
                after => drop(self.routes.insert(scope, after.clone())),
            }
        }
        if kind != SwapKind::DeployAndWait {
            return Ok(End::Done);
        }
        ensure!(entry["rollout"]["result"] == "done", "switchboard {line} said {entry}");
        let offset = entry["offset"].as_i64().with_context(|| format!("no offset in {entry}"))?;
        Ok(End::Awaited(offset.try_into()?))
    }

    /// Replaces the known routes by those of the control topic.
    pub fn learn(&mut self, control: &RegistryState) -> Result<()> {
        let routes = control.routed().map(|route| Ok((route.scope.to_string(), serde_json::to_value(route.value)?)));
        self.routes = routes.collect::<Result<_>>()?;
        Ok(())
    }

    fn draw(&mut self) -> SwapKind {
        if self.fresh && self.deployed >= DEPLOYMENTS_PER_PRUNE {
            return SwapKind::Prune;
        }
        let pinned = self.routes.keys().any(|scope| scope.starts_with("tenant/"));
        loop {
            let kind = match self.random.u32(..100) {
                0..10 => SwapKind::Deploy,
                10..20 => SwapKind::DeployAndWait,
                20..26 => SwapKind::DeployToTenants,
                26..32 => SwapKind::DeployToPercentage,
                32..50 => SwapKind::Set,
                50..62 => SwapKind::SetTenants,
                62..74 => SwapKind::SetPercentage,
                74..78 if self.routes.contains_key("default") => SwapKind::ClearDefault,
                78..86 if pinned => SwapKind::ClearTenants,
                86..90 if self.routes.contains_key("percentage") => SwapKind::ClearPercentage,
                90..100 => SwapKind::Rollback,
                _ => continue,
            };
            // No route can be set before the first deployment.
            let early = self.deployed == 0 && !matches!(kind, SwapKind::Deploy | SwapKind::DeployAndWait);
            // A new artifact is deployed once, and no route is set to it again.
            let again = self.fresh && matches!(kind, SwapKind::Set | SwapKind::SetTenants | SwapKind::SetPercentage);
            match kind {
                _ if early => {}
                SwapKind::Set if again => return SwapKind::Deploy,
                SwapKind::SetTenants if again => return SwapKind::DeployToTenants,
                SwapKind::SetPercentage if again => return SwapKind::DeployToPercentage,
                kind => return kind,
            }
        }
    }

    fn arguments(&mut self, kind: SwapKind) -> Result<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        Ok(match kind {
            SwapKind::Deploy => [words(&["deploy"]), vec![self.artifact("default")?]].concat(),
            SwapKind::DeployAndWait => [words(&["deploy", "--wait"]), vec![self.artifact("default")?]].concat(),
            SwapKind::DeployToTenants => {
                let tenants = self.tenants();
                [words(&["deploy"]), vec![self.artifact(&tenants[0])?], flags(&tenants)].concat()
            }
            SwapKind::DeployToPercentage => {
                let percent = self.percent();
                [words(&["deploy"]), vec![self.artifact("percentage")?], percent].concat()
            }
            SwapKind::Set => [words(&["route", "set"]), vec![self.release("default")]].concat(),
            SwapKind::SetTenants => {
                let tenants = self.tenants();
                [words(&["route", "set"]), vec![self.release(&tenants[0])], flags(&tenants)].concat()
            }
            SwapKind::SetPercentage => {
                let percent = self.percent();
                [words(&["route", "set"]), vec![self.release("percentage")], percent].concat()
            }
            SwapKind::ClearDefault => words(&["route", "clear", "--default"]),
            SwapKind::ClearPercentage => words(&["route", "clear", "--percentage"]),
            SwapKind::ClearTenants => {
                let mut pinned: Vec<_> =
                    self.routes.keys().filter(|scope| scope.starts_with("tenant/")).cloned().collect();
                self.random.shuffle(&mut pinned);
                pinned.truncate(TENANTS_PER_PIN);
                [words(&["route", "clear"]), flags(&pinned)].concat()
            }
            SwapKind::Rollback => words(&["rollback"]),
            SwapKind::Prune => {
                self.deployed = 0;
                words(&["release", "prune", "--keep", "5"])
            }
        })
    }

    /// The file of an artifact that differs from the route's.
    fn artifact(&mut self, scope: &str) -> Result<String> {
        let number = if self.fresh { self.artifacts.make()? } else { self.other(scope) };
        self.deployed += 1;
        Ok(self.artifacts.path(number).display().to_string())
    }

    /// A release that differs from the route's.
    fn release(&self, scope: &str) -> String {
        self.artifacts.digests()[self.other(scope)].to_string()
    }

    /// The one of the two alternating releases that the route does not name.
    fn other(&self, scope: &str) -> usize {
        let digests = self.artifacts.digests();
        let named = |scope: &str, number: usize| {
            self.routes.get(scope).is_some_and(|route| route["release"] == digests[number].to_string())
        };
        match scope {
            // A percentage cannot get the release that all other tenants run.
            "percentage" => usize::from(named("default", 0)),
            scope => usize::from(!named(scope, 1)),
        }
    }

    /// The scopes of some tenants.
    fn tenants(&mut self) -> Vec<String> {
        let among = if self.fresh { PINNABLE_TENANTS_WHEN_FRESH } else { load::TENANTS };
        let tenants = self.random.choose_multiple(0..among, TENANTS_PER_PIN);
        tenants.into_iter().map(|tenant| format!("tenant/{}", load::name(tenant))).collect()
    }

    /// A percentage that grows, and starts again at a small value after it was cleared or reached 90.
    fn percent(&mut self) -> Vec<String> {
        let now = self.routes.get("percentage").and_then(|share| share["percent"].as_str()?.parse::<f64>().ok());
        let percent = now.filter(|now| *now < 90.0).unwrap_or(0.0) + f64::from(self.random.u32(500..1000)) / 100.0;
        vec!["--percent".to_owned(), format!("{percent:.2}")]
    }
}

fn read(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn flags(scopes: &[String]) -> Vec<String> {
    let names = scopes.iter().map(|scope| scope.trim_start_matches("tenant/").to_owned());
    names.flat_map(|name| ["--tenant".to_owned(), name]).collect()
}
