//! Runs scenarios on a plugin.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::format::{Scenario, Step, StepError, VectorError, optional};
use crate::record::{
    Class, Coordinates, DeadLetter, Header, Offset, Outgoing, OutputLimits, OutputRules, Record, Timestamp,
};
use crate::routing::Release;
use crate::state::{Shard, StateLimits};
use crate::worker::{Answers, BatchLimits, Call, Need, Plugins, Query, StartFrom, Verdict, WorkerConfig, process};

/// Whether an instance is reused from message to message, as in the host, or each message has a fresh one. Both must
/// produce the same bytes: the memory of a guest is never state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceReuse {
    /// Reused, as in the host.
    Warm,
    /// Fresh for each message.
    Fresh,
}

/// A step with an unexpected outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The position of the step in the scenario, from 0.
    pub step: usize,
    /// The consumed record, for people.
    pub input: String,
    /// The expected outcome, one fact a line, for people or for a diff.
    pub expected: String,
    /// The actual outcome, in the same form.
    pub actual: String,
}

/// The result of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The number of steps that passed.
    pub passed: usize,
    /// The steps that failed.
    pub failures: Vec<Failure>,
}

/// Runs a scenario. A failed step does not end it.
///
/// # Errors
/// If the scenario contradicts itself, or has a record of a topic that the plugin does not consume.
pub fn run(
    scenario: &Scenario,
    release: &Arc<Release>,
    plugins: &mut impl Plugins,
    instances: InstanceReuse,
) -> Result<Report, VectorError> {
    let release = Arc::clone(release);
    let mut bench = Bench { scenario, config: config(scenario), release, shard: Shard::default(), instances };
    let mut report = Report { passed: 0, failures: Vec::new() };
    for (index, step) in scenario.steps.iter().enumerate() {
        let failure = bench.step(index, step, plugins).map_err(|error| VectorError::Step {
            scenario: scenario.name.clone(),
            step: index,
            error,
        })?;
        match failure {
            None => report.passed += 1,
            Some(failure) => report.failures.push(failure),
        }
    }
    Ok(report)
}

fn config(scenario: &Scenario) -> WorkerConfig {
    WorkerConfig {
        app: "test".into(),
        shards: 1,
        tenants: scenario.config.tenant_schema(),
        outputs: OutputRules { carry_headers: scenario.config.carry_headers.clone(), limits: OutputLimits::default() },
        state: StateLimits::default(),
        lookups_a_message: 100,
        lookup_time: Duration::ZERO,
        batch: BatchLimits::default(),
        start_from: StartFrom::Earliest,
        offset_renewal: Duration::MAX,
    }
}

struct Bench<'a> {
    scenario: &'a Scenario,
    config: WorkerConfig,
    release: Arc<Release>,
    shard: Shard,
    instances: InstanceReuse,
}

impl Bench<'_> {
    fn step(&mut self, index: usize, step: &Step, plugins: &mut impl Plugins) -> Result<Option<Failure>, StepError> {
        let (input, manifest) = (&step.input, &self.release.manifest);
        if !manifest.consumes.contains(&input.topic) {
            return Err(StepError::NotConsumed {
                plugin: manifest.name.clone(),
                consumes: manifest.consumes.join(", "),
                topic: input.topic.clone(),
            });
        }
        let offset = Offset::try_from(index)?;
        let record = Record {
            key: optional(input.key.as_ref())?,
            value: optional(input.value.as_ref())?,
            headers: input.record_headers(self.scenario)?,
            timestamp: Some(Timestamp::from_millis(offset.get())),
        };
        let origin = Coordinates { topic: input.topic.as_str().into(), partition: 0.into(), offset };
        let expected = self.expected(step)?;
        let actual = match self.verdict(&record, &origin, plugins) {
            Ok(outputs) => describe(outputs.into_iter().map(|o| (o.topic.to_string(), visible(o.record)))),
            Err(_) if step.dead_letter.is_some() && step.out.is_empty() => return Ok(None),
            Err(letter) => format!("dead letter ({letter})\n"),
        };
        let input = format!("{} of {}: {}", input.topic, input.tenant, bytes(record.value.as_deref()));
        Ok((actual != expected).then_some(Failure { step: index, input, expected, actual }))
    }

    fn expected(&self, step: &Step) -> Result<String, StepError> {
        if let Some(hint) = &step.dead_letter {
            return Ok(format!("dead letter ({hint})\n"));
        }
        let outputs = step.out.iter().map(|output| {
            let record = Record {
                key: optional(output.key.as_ref())?,
                value: optional(output.value.as_ref())?,
                headers: self.scenario.expected_headers(&step.input, output)?,
                timestamp: None,
            };
            Ok((output.topic.clone(), record))
        });
        Ok(describe(outputs.collect::<Result<Vec<_>, StepError>>()?))
    }

    /// The verdict that the worker would reach with the scenario's answers.
    fn verdict(
        &mut self,
        record: &Record,
        origin: &Coordinates,
        plugins: &mut impl Plugins,
    ) -> Result<Vec<Outgoing>, DeadLetter> {
        let tenant = self.config.tenants.decode(&record.headers)?;
        if self.instances == InstanceReuse::Fresh {
            plugins.discard(&tenant.id);
        }
        let (mut state, mut runner) = (self.shard.take(&tenant.id), plugins.lend(&tenant.id));
        let mut answers = Answers::default();
        let verdict = loop {
            let call = Call { tenant: &tenant, record, origin };
            let verdict = process(&self.config, &mut runner, &self.release, &mut state, call, &answers);
            match verdict {
                Verdict::Waits(Need::Answer(query)) => {
                    let answer = self.answer(&query);
                    answers.insert(query, answer);
                }
                verdict => break verdict,
            }
        };
        state.accept();
        self.shard.put(&tenant.id, state);
        plugins.give_back(&tenant.id, runner);
        match verdict {
            Verdict::Outputs(outputs) => Ok(outputs),
            Verdict::DeadLetter(letter) => Err(letter),
            // The answers of a scenario do not change.
            Verdict::Waits(Need::BetterAnswers(reason)) => Err(DeadLetter::new(Class::Lookup, reason)),
            Verdict::Waits(Need::Answer(_)) => unreachable!("answered above"),
        }
    }

    fn answer(&self, query: &Query) -> Option<Vec<u8>> {
        let document = self.scenario.lookups.as_ref()?.get(&query.source)?.get(&query.key)?;
        Some(document.get().as_bytes().to_vec())
    }
}

/// The record without the trace context, which the host chooses, and with sorted headers, whose order is free.
fn visible(mut record: Record) -> Record {
    let hosts = |header: &Header<'_>| header.name == b"traceparent" || header.name == b"tracestate";
    let mut headers: Vec<_> = record.headers.iter().filter(|header| !hosts(header)).collect();
    headers.sort();
    record.headers = headers.into_iter().collect();
    record
}

fn describe(records: impl IntoIterator<Item = (String, Record)>) -> String {
    let mut text = String::new();
    for (topic, record) in records {
        let Record { key, value, headers, .. } = record;
        let (key, value) = (bytes(key.as_deref()), bytes(value.as_deref()));
        writeln!(text, "{topic}\n  key    {key}\n  value  {value}").expect("writing to a String does not fail");
        for Header { name, value } in headers.iter() {
            writeln!(text, "  header {} = {}", bytes(Some(name)), bytes(value))
                .expect("writing to a String does not fail");
        }
    }
    if text.is_empty() { "nothing\n".into() } else { text }
}

/// Printable text as it is, other bytes as hexadecimal digits.
fn bytes(bytes: Option<&[u8]>) -> String {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => "null".into(),
        Some((_, Ok(text))) if !text.is_empty() && !text.chars().any(char::is_control) => text.into(),
        Some((bytes, _)) => format!("0x{}", hex::encode(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::parse;
    use super::*;
    use crate::record::{Headers, Outbound, Tenant, TenantId};
    use crate::routing::{Digest, Manifest, Routing};
    use crate::state::TenantState;
    use crate::worker::{MigrateError, Outcome, Runner};

    /// Counts its messages in its state, and knows the lookup source `names`.
    struct Counter;

    impl Plugins for Counter {
        type Runner = Self;

        fn routing(&mut self) -> Option<Arc<Routing>> {
            None
        }

        fn lend(&mut self, _: &TenantId) -> Self {
            Self
        }

        fn give_back(&mut self, _: &TenantId, _: Self) {}

        fn discard(&mut self, _: &TenantId) {}
    }

    impl Runner for Counter {
        fn migrate(&mut self, _: &Arc<Release>, _: &Tenant, _: u32, _: &mut TenantState) -> Result<(), MigrateError> {
            unreachable!("nothing here has two versions")
        }

        fn handle(&mut self, _: &Arc<Release>, call: Call<'_>, state: &mut TenantState, answers: &Answers) -> Outcome {
            let value = call.record.value.as_deref().unwrap_or_default();
            if value == b"bad" {
                return Outcome::Rejected("it is bad".into());
            }
            let query = Query { source: "names".into(), key: "1".into() };
            let Some(name) = answers.get(&query) else { return Outcome::Missing(query) };
            let count = state.get("n").map_or(0, |bytes| bytes[0]) + 1;
            state.set("n", vec![count], &StateLimits::default()).unwrap();
            let value = [&[b'0' + count], name.unwrap_or(b"-")].concat();
            Outcome::Outputs(vec![Outbound {
                topic: "OUT".into(),
                key: None,
                value: Some(value),
                headers: Headers::new(),
            }])
        }
    }

    fn run_steps(steps: &str) -> Result<Report, VectorError> {
        let file = format!(
            r#"[{{"name": "s", "config": {{"tenant_headers": [["T", "text"]], "carry_headers": []}},
                "tenants": {{"t": [["T", {{"text": "x"}}]]}}, "lookups": {{"names": {{"1": "Ann"}}}}, "steps": [{steps}]}}]"#
        );
        let list = |name: &str| vec![name.to_owned()];
        let manifest = Manifest {
            name: "counter".into(),
            version: "1.0.0".into(),
            consumes: list("IN"),
            produces: list("OUT"),
            lookups: list("names"),
            state_version: 1,
        };
        let release = Arc::new(Release::new(Digest::new([0; 32]), manifest));
        run(&parse(&file)?[0], &release, &mut Counter, InstanceReuse::Warm)
    }

    fn step(value: &str, out: &str, more: &str) -> String {
        format!(r#"{{"in": {{"topic": "IN", "tenant": "t", "value": {value}}}, "out": [{out}] {more}}}"#)
    }

    #[test]
    fn steps_are_counted_and_a_failed_one_says_both_sides() {
        let good = step("null", r#"{"topic": "OUT", "value": {"text": "1\"Ann\""}}"#, "");
        let wrong = step(r#"{"text": "a"}"#, r#"{"topic": "OUT", "value": {"hex": "ff"}}"#, "");
        let bad = step(r#"{"text": "bad"}"#, "", r#", "dead_letter": "hint""#);
        let report = run_steps(&[good, wrong, bad].join(",")).unwrap();
        assert_eq!(report.passed, 2);
        let [failure] = &report.failures[..] else { panic!("{report:?}") };
        assert_eq!((failure.step, failure.input.as_str()), (1, "IN of t: a"));
        assert_eq!(failure.expected, "OUT\n  key    null\n  value  0xff\n  header T = x\n");
        assert_eq!(failure.actual, "OUT\n  key    null\n  value  2\"Ann\"\n  header T = x\n");
    }

    #[test]
    fn an_unexpected_dead_letter_fails_and_a_missing_one_too() {
        let unexpected = step(r#"{"text": "bad"}"#, "", "");
        let missing = step("null", "", r#", "dead_letter": "hint""#);
        let report = run_steps(&[unexpected, missing].join(",")).unwrap();
        let sides: Vec<_> = report.failures.iter().map(|f| (f.expected.as_str(), &f.actual[..11])).collect();
        assert_eq!(sides, [("nothing\n", "dead letter"), ("dead letter (hint)\n", "OUT\n  key  ")]);
    }

    #[test]
    fn contradictions_are_errors_that_name_the_place() {
        for (step, expected) in [
            (r#"{"in": {"topic": "ELSE", "tenant": "t"}, "out": []}"#, "consumes IN, not \"ELSE\""),
            (r#"{"in": {"topic": "IN", "tenant": "u"}, "out": []}"#, "no tenant \"u\""),
            (r#"{"in": {"topic": "IN", "tenant": "t", "key": {}}, "out": []}"#, "bytes are one of"),
            (r#"{"in": {"topic": "IN", "tenant": "t", "key": {"hex": "0"}}, "out": []}"#, "hex \"0\""),
            (r#"{"in": {"topic": "IN", "tenant": "t", "kee": null}, "out": []}"#, "unknown field `kee`"),
        ] {
            let error = run_steps(step).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
