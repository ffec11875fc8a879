//! The commands that change which release tenants run, one after the other, at random from a seed.

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

/// Tenants of one pin.
const PINNED: usize = 3;
/// Where each deployment brings an artifact, only so many tenants are ever pinned: pinned artifacts stay loaded.
const PINNED_FRESH: usize = 5;
/// Deployments between two removals of what nobody needs, where each brings an artifact.
const PRUNE: usize = 25;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
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

impl Kind {
    /// As one would type it.
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

/// Who changes routes.
#[derive(Debug)]
pub struct Swaps {
    app: String,
    bootstrap: String,
    random: Rng,
    fresh: bool,
    pub artifacts: Artifacts,
    /// Every route that there is, by its scope, as the commands have told.
    routes: BTreeMap<String, Value>,
    /// How long each command took, by kind.
    pub times: BTreeMap<Kind, Vec<Duration>>,
    /// Commands that found nothing to do, or to undo.
    pub refused: usize,
    /// Commands that brokers did not answer in time, and waits that took too long: what has come of them is in the topic.
    pub given_up: Vec<String>,
    deployed: usize,
}

/// What a command refuses to do for good reasons, after another one was given up or undone.
const REFUSALS: [&str; 5] =
    ["nothing was changed", "there is no route", "there is no change", "has been removed", "cannot try it"];
/// What a command says when brokers do not answer in time.
const GIVEN_UP: [&str; 4] = ["do not answer", "was not read to its end", "nothing was changed within", "is not known"];

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Done,
    /// It was waited for; the offset of the change's record.
    Awaited(Offset),
    /// Nothing is known but what the control topic says.
    Failed,
}

/// A command that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    kind: Kind,
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
    /// The releases 0 and 1 are made; 0 is what the hosts have on file.
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

    /// Begins with what the seed has next.
    pub fn begin(&mut self) -> Result<Running> {
        let kind = self.draw();
        self.begin_with(kind)
    }

    /// Begins with something of this kind.
    pub fn begin_with(&mut self, kind: Kind) -> Result<Running> {
        let arguments = self.arguments(kind)?;
        let line = arguments.join(" ");
        let (output, log) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut command = switchboard()?;
        command
            .args(&arguments)
            .args(["--json", "--app", &self.app, "--tenant-header", "TENANT=text"])
            .env("BOOTSTRAP_SERVERS", &self.bootstrap)
            .stdout(output.try_clone()?)
            .stderr(log.try_clone()?);
        let (started, process) = (Instant::now(), Process::start(&mut command)?);
        Ok(Running { kind, line, process, output, log, started, took: None })
    }

    /// Takes in how a command has ended.
    pub fn end(&mut self, running: Running) -> Result<End> {
        let Running { kind, line, mut process, mut output, mut log, took, .. } = running;
        let status = process.ended()?.with_context(|| format!("switchboard {line} still runs"))?;
        self.times.entry(kind).or_default().extend(took);
        let (said, why) = (read(&mut output)?, read(&mut log)?);
        let says = |texts: &[&str]| texts.iter().any(|text| why.contains(text));
        if !status.success() {
            if says(&GIVEN_UP) || said.contains("\"time-out\"") {
                self.given_up.push(format!("{line}: {}", why.lines().next_back().unwrap_or(&said)));
            } else if says(&REFUSALS) {
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
        if kind != Kind::DeployAndWait {
            return Ok(End::Done);
        }
        ensure!(entry["rollout"]["result"] == "done", "switchboard {line} said {entry}");
        let offset = entry["offset"].as_i64().with_context(|| format!("no offset in {entry}"))?;
        Ok(End::Awaited(offset.try_into()?))
    }

    /// Takes every route that there is from the control topic.
    pub fn learn(&mut self, control: &RegistryState) -> Result<()> {
        let routes = control.routed().map(|(scope, value, _)| Ok((scope.to_string(), serde_json::to_value(value)?)));
        self.routes = routes.collect::<Result<_>>()?;
        Ok(())
    }

    fn draw(&mut self) -> Kind {
        if self.fresh && self.deployed >= PRUNE {
            return Kind::Prune;
        }
        let pinned = self.routes.keys().any(|scope| scope.starts_with("tenant/"));
        loop {
            let kind = match self.random.u32(..100) {
                0..10 => Kind::Deploy,
                10..20 => Kind::DeployAndWait,
                20..26 => Kind::DeployToTenants,
                26..32 => Kind::DeployToPercentage,
                32..50 => Kind::Set,
                50..62 => Kind::SetTenants,
                62..74 => Kind::SetPercentage,
                74..78 if self.routes.contains_key("default") => Kind::ClearDefault,
                78..86 if pinned => Kind::ClearTenants,
                86..90 if self.routes.contains_key("percentage") => Kind::ClearPercentage,
                90..100 => Kind::Rollback,
                _ => continue,
            };
            // There is nothing to set routes to before something was deployed.
            let early = self.deployed == 0 && !matches!(kind, Kind::Deploy | Kind::DeployAndWait);
            // Of many artifacts each is deployed once.
            let again = self.fresh && matches!(kind, Kind::Set | Kind::SetTenants | Kind::SetPercentage);
            match kind {
                _ if early => {}
                Kind::Set if again => return Kind::Deploy,
                Kind::SetTenants if again => return Kind::DeployToTenants,
                Kind::SetPercentage if again => return Kind::DeployToPercentage,
                kind => return kind,
            }
        }
    }

    fn arguments(&mut self, kind: Kind) -> Result<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        Ok(match kind {
            Kind::Deploy => [words(&["deploy"]), vec![self.artifact("default")?]].concat(),
            Kind::DeployAndWait => [words(&["deploy", "--wait"]), vec![self.artifact("default")?]].concat(),
            Kind::DeployToTenants => {
                let tenants = self.tenants();
                [words(&["deploy"]), vec![self.artifact(&tenants[0])?], flags(&tenants)].concat()
            }
            Kind::DeployToPercentage => {
                let percent = self.percent();
                [words(&["deploy"]), vec![self.artifact("percentage")?], percent].concat()
            }
            Kind::Set => [words(&["route", "set"]), vec![self.release("default")]].concat(),
            Kind::SetTenants => {
                let tenants = self.tenants();
                [words(&["route", "set"]), vec![self.release(&tenants[0])], flags(&tenants)].concat()
            }
            Kind::SetPercentage => {
                let percent = self.percent();
                [words(&["route", "set"]), vec![self.release("percentage")], percent].concat()
            }
            Kind::ClearDefault => words(&["route", "clear", "--default"]),
            Kind::ClearPercentage => words(&["route", "clear", "--percentage"]),
            Kind::ClearTenants => {
                let mut pinned: Vec<_> =
                    self.routes.keys().filter(|scope| scope.starts_with("tenant/")).cloned().collect();
                self.random.shuffle(&mut pinned);
                pinned.truncate(PINNED);
                [words(&["route", "clear"]), flags(&pinned)].concat()
            }
            Kind::Rollback => words(&["rollback"]),
            Kind::Prune => {
                self.deployed = 0;
                words(&["release", "prune", "--keep", "5"])
            }
        })
    }

    /// The file of an artifact that changes a route.
    fn artifact(&mut self, scope: &str) -> Result<String> {
        let number = if self.fresh { self.artifacts.make()? } else { self.other(scope) };
        self.deployed += 1;
        Ok(self.artifacts.path(number).display().to_string())
    }

    /// A release that changes a route.
    fn release(&self, scope: &str) -> String {
        self.artifacts.digests()[self.other(scope)].to_string()
    }

    /// Of the two releases that are swapped the one that a route does not name.
    fn other(&self, scope: &str) -> usize {
        let digests = self.artifacts.digests();
        let named = |scope: &str, number: usize| {
            self.routes.get(scope).is_some_and(|route| route["release"] == digests[number].to_string())
        };
        match scope {
            // What all others run cannot be tried by a percentage.
            "percentage" => usize::from(named("default", 0)),
            scope => usize::from(!named(scope, 1)),
        }
    }

    /// Scopes of some tenants.
    fn tenants(&mut self) -> Vec<String> {
        let among = if self.fresh { PINNED_FRESH } else { load::TENANTS };
        let tenants = self.random.choose_multiple(0..among, PINNED);
        tenants.into_iter().map(|tenant| format!("tenant/{}", load::name(tenant))).collect()
    }

    /// Growing, until it is cleared or starts anew.
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
