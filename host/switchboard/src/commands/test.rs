//! `switchboard test`: runs test vectors on a plugin in the real sandbox, with real state and without a broker.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use similar::TextDiff;
use switchboard_core::record::{Header, Tenant, TenantId};
use switchboard_core::routing::{Release, Routing};
use switchboard_core::state::TenantState;
use switchboard_core::vectors::{self, Failure, Scenario, VectorError};
use switchboard_core::worker::{Answers, Call, MigrateError, Outcome as CallOutcome, Plugins, Runner};
use switchboard_sandbox::{Artifact, InstancePool, Limits, Sandbox, TenantRunner};

use super::Outcome;

/// Runs files of test vectors. Each scenario runs with warm wasm instances and with a fresh wasm instance per message:
/// both must give the outputs of the vectors. Prints each failed step and, as the last line, `N passed, M failed`
/// (steps). Output headers named in `ignored` are not compared.
///
/// # Errors
/// When the plugin or a file of vectors cannot be used.
pub fn test(plugin: &Path, files: &[PathBuf], ignored: &[String]) -> anyhow::Result<Outcome> {
    let limits = Limits::default();
    let artifact = Arc::new(Sandbox::new(limits)?.load_file(plugin)?);
    let mut out = io::stdout().lock();
    let mut counts = StepCounts::default();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        // The error's text includes its causes.
        let unusable = |error: VectorError| anyhow!("{}: {error}", file.display());
        let scenarios = vectors::parse(&text).map_err(unusable)?;
        ensure!(!scenarios.is_empty(), "{}: there are no scenarios to run", file.display());
        for scenario in &scenarios {
            let steps = run(scenario, &artifact, limits, ignored).map_err(unusable)?;
            counts.failed += steps.len();
            counts.passed += scenario.steps.len() - steps.len();
            for failed in steps {
                show(&mut out, file, scenario, &failed)?;
            }
        }
    }
    writeln!(out, "{} passed, {} failed", counts.passed, counts.failed)?;
    Ok(Outcome::from_success(counts.failed == 0))
}

/// How many steps passed and failed.
#[derive(Default)]
struct StepCounts {
    passed: usize,
    failed: usize,
}

/// A step that failed with warm or fresh wasm instances.
struct FailedStep {
    failure: Failure,
    /// Which kind failed, if only one did or each failed differently.
    instances: &'static str,
}

fn run(
    scenario: &Scenario,
    artifact: &Arc<Artifact>,
    limits: Limits,
    ignored: &[String],
) -> Result<Vec<FailedStep>, VectorError> {
    let run = |instances| {
        let mut plugins = WithoutHeaders { plugins: InstancePool::new(Arc::clone(artifact), limits), ignored };
        vectors::run(scenario, artifact.release(), &mut plugins, instances)
    };
    let warm = run(vectors::InstanceReuse::Warm)?.failures;
    let fresh = run(vectors::InstanceReuse::Fresh)?.failures;
    Ok(merge(warm, fresh))
}

/// Removes some headers from all outputs. `P`: the plugins of all tenants, or the runner of one.
struct WithoutHeaders<'a, P> {
    plugins: P,
    ignored: &'a [String],
}

impl<'a> Plugins for WithoutHeaders<'a, InstancePool> {
    type Runner = WithoutHeaders<'a, TenantRunner>;

    fn routing(&mut self) -> Option<Arc<Routing>> {
        self.plugins.routing()
    }

    fn lend(&mut self, tenant: &TenantId) -> Self::Runner {
        WithoutHeaders { plugins: self.plugins.lend(tenant), ignored: self.ignored }
    }

    fn give_back(&mut self, tenant: &TenantId, runner: Self::Runner) {
        self.plugins.give_back(tenant, runner.plugins);
    }

    fn discard(&mut self, tenant: &TenantId) {
        self.plugins.discard(tenant);
    }
}

impl Runner for WithoutHeaders<'_, TenantRunner> {
    fn handle(
        &mut self,
        release: &Arc<Release>,
        call: Call<'_>,
        state: &mut TenantState,
        answers: &Answers,
    ) -> CallOutcome {
        let mut outcome = self.plugins.handle(release, call, state, answers);
        if let CallOutcome::Outputs(outputs) = &mut outcome {
            let is_kept = |header: &Header<'_>| self.ignored.iter().all(|name| name.as_bytes() != header.name);
            for output in outputs {
                output.headers = output.headers.iter().filter(is_kept).collect();
            }
        }
        outcome
    }

    fn migrate(
        &mut self,
        release: &Arc<Release>,
        tenant: &Tenant,
        from: u32,
        state: &mut TenantState,
    ) -> Result<(), MigrateError> {
        self.plugins.migrate(release, tenant, from, state)
    }
}

/// Merges the failures of both runs, so that a step counts once.
fn merge(warm: Vec<Failure>, fresh: Vec<Failure>) -> Vec<FailedStep> {
    let mut steps: Vec<_> = warm
        .into_iter()
        .map(|failure| {
            let other = fresh.iter().find(|other| other.step == failure.step);
            let instances = match other {
                Some(other) if other.actual == failure.actual => "",
                Some(_) => ", in a warm wasm instance; a fresh one fails differently",
                None => ", in a warm wasm instance only: the plugin keeps data in memory between messages",
            };
            FailedStep { failure, instances }
        })
        .collect();
    for failure in fresh {
        if steps.iter().all(|step| step.failure.step != failure.step) {
            let instances = ", in a fresh wasm instance only: the plugin keeps data in memory between messages";
            steps.push(FailedStep { failure, instances });
        }
    }
    steps.sort_by_key(|step| step.failure.step);
    steps
}

/// Prints a failed step as a diff.
fn show(out: &mut impl Write, file: &Path, scenario: &Scenario, step: &FailedStep) -> io::Result<()> {
    let FailedStep { failure, instances } = step;
    writeln!(out, "{}: {}, step {}{instances}", file.display(), scenario.name, failure.step)?;
    writeln!(out, "  in: {}", failure.input)?;
    let diff = TextDiff::from_lines(&failure.expected, &failure.actual);
    for line in diff.unified_diff().header("expected", "actual").to_string().lines() {
        writeln!(out, "  {line}")?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(step: usize, actual: &str) -> Failure {
        Failure { step, input: "IN of t: x".into(), expected: "a\nb\n".into(), actual: actual.into() }
    }

    #[test]
    fn a_step_counts_once_and_says_which_instances_failed() {
        let steps = merge(
            vec![failure(0, "x"), failure(2, "x"), failure(3, "x")],
            vec![failure(0, "x"), failure(1, "x"), failure(2, "y")],
        );
        let failed: Vec<_> = steps.iter().map(|s| (s.failure.step, s.instances.get(..10).unwrap_or(""))).collect();
        assert_eq!(failed, [(0, ""), (1, ", in a fre"), (2, ", in a war"), (3, ", in a war")]);
    }

    #[test]
    fn a_failing_step_is_shown_as_a_diff() {
        let scenario = r#"[{"name": "s", "config": {"tenant_headers": [], "carry_headers": []}, "tenants": {},
            "lookups": null, "steps": []}]"#;
        let scenario = &vectors::parse(scenario).unwrap()[0];
        let mut out = Vec::new();
        let step = FailedStep { failure: failure(7, "a\nc\n"), instances: "" };
        show(&mut out, Path::new("v.json"), scenario, &step).unwrap();
        let expected = "v.json: s, step 7\n  in: IN of t: x\n  --- expected\n  +++ actual\n  @@ -1,2 +1,2 @@\n   a\n  -b\n  +c\n\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
