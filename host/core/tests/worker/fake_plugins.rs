//! A plugin that does what a message's value says, lookups with scripted answers, and an observer that takes notes.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use switchboard_core::record::{Class, DeadLetter, Headers, Outbound, Tenant, TenantId};
use switchboard_core::routing::Manifest;
use switchboard_core::routing::{Digest, Release, Routing};
use switchboard_core::state::{StateLimits, TenantState};
use switchboard_core::worker::{
    Answers, Call, LookupError, Lookups, MigrateError, Observer, Outcome, Plugins, Query, Settled, Verdict,
};

use super::fake_broker::Kafka;

/// `count` counts the messages of a tenant in its state, and sends tenant and count: `a1`. Other commands:
/// `reject`, `trap`, `elsewhere`, `state` (all its keys), `say TEXT`, `many TEXT ..`, `slow`, `look KEY ..`, `choosy KEY`, `undeclared`.
pub(crate) struct FakePlugins {
    pub(crate) kafka: Rc<RefCell<Kafka>>,
    pub(crate) discarded: Rc<RefCell<Vec<String>>>,
    /// The next routing.
    pub(crate) routing: Rc<RefCell<Option<Arc<Routing>>>>,
}

/// The release of this number and version. Outputs of all but the first have the version: `a1@2`.
pub(crate) fn release(number: u8) -> Release {
    let manifest = Manifest {
        name: "fake".into(),
        version: number.to_string(),
        consumes: vec!["IN".into()],
        produces: vec!["OUT".into()],
        lookups: vec!["names".into()],
        state_version: 1,
    };
    Release::new(Digest::new([number; 32]), manifest)
}

fn output(topic: &str, text: &str) -> Outbound {
    Outbound { topic: topic.into(), key: None, value: Some(text.into()), headers: Headers::new() }
}

fn query(source: &str, key: &str) -> Query {
    Query { source: source.into(), key: key.into() }
}

impl Plugins for FakePlugins {
    fn routing(&mut self) -> Option<Arc<Routing>> {
        self.routing.borrow_mut().take()
    }

    /// Doubles the count and notes the old version. Fails half-way for tenants with `F` in their names.
    fn migrate(
        &mut self,
        _: &Arc<Release>,
        tenant: &Tenant,
        from: u32,
        state: &mut TenantState,
    ) -> Result<(), MigrateError> {
        let n: u32 = state.get("n").map_or(0, |n| std::str::from_utf8(n).unwrap().parse().unwrap());
        state.set("n", (n * 2).to_string().into_bytes(), &StateLimits::default()).unwrap();
        if tenant.id.as_str().contains('F') {
            return Err(MigrateError::Rejected("half way".into()));
        }
        state.set("from", from.to_string().into_bytes(), &StateLimits::default()).unwrap();
        Ok(())
    }

    fn handle(
        &mut self,
        release: &Arc<Release>,
        call: Call<'_>,
        state: &mut TenantState,
        answers: &Answers,
    ) -> Outcome {
        let text = String::from_utf8(call.record.value.clone().unwrap_or_default()).unwrap();
        let (command, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let before = state.get("n").map_or(0, |n| std::str::from_utf8(n).unwrap().parse::<u32>().unwrap());
        // Staged in any case. The host decides whether it is kept.
        state.set("n", (before + 1).to_string().into_bytes(), &StateLimits::default()).unwrap();
        let by = if release.digest == Digest::new([1; 32]) {
            String::new()
        } else {
            format!("@{}", release.manifest.version)
        };
        let count = format!("{}{}{by}", call.tenant.id, before + 1);
        match command {
            "count" => Outcome::Outputs(vec![output("OUT", &count)]),
            "reject" => Outcome::Rejected("a test says so".into()),
            "trap" => Outcome::Failed(DeadLetter::new(Class::Trap, "unreachable")),
            "elsewhere" => Outcome::Outputs(vec![output("OUT", &count), output("ELSEWHERE", &count)]),
            "state" => {
                let entries = state.list("", None, 9).into_iter();
                let entries: Vec<_> = entries.map(|(k, v)| format!("{k}={}", String::from_utf8_lossy(&v))).collect();
                Outcome::Outputs(vec![output("OUT", &entries.join(" "))])
            }
            "say" => Outcome::Outputs(vec![output("OUT", rest)]),
            "many" => Outcome::Outputs(rest.split(' ').map(|text| output("OUT", text)).collect()),
            "slow" => {
                self.kafka.borrow_mut().now += Duration::from_millis(60);
                Outcome::Outputs(vec![output("OUT", &count)])
            }
            "undeclared" => Outcome::Missing(query("strangers", "x")),
            "look" | "choosy" => {
                let mut said = count;
                for key in rest.split(' ') {
                    let Some(answer) = answers.get(&query("names", key)) else {
                        return Outcome::Missing(query("names", key));
                    };
                    let answer = answer.map_or("nobody".into(), String::from_utf8_lossy);
                    if command == "choosy" && answer == "bad" {
                        return Outcome::UnusableAnswer("bad".into());
                    }
                    said = format!("{said}:{answer}");
                }
                Outcome::Outputs(vec![output("OUT", &said)])
            }
            other => panic!("no such command: {other}"),
        }
    }

    fn discard(&mut self, tenant: &TenantId) {
        self.discarded.borrow_mut().push(tenant.to_string());
    }
}

/// The answers of a key, one after the other. `Err`: there is no answer.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) known: BTreeMap<String, &'static str>,
    pub(crate) answers: BTreeMap<String, VecDeque<Result<Option<&'static str>, &'static str>>>,
    /// The key and the attempt of each request.
    pub(crate) asked: Vec<(String, u32)>,
    /// How long an answer takes.
    pub(crate) takes: Duration,
    pub(crate) budgets: Vec<Duration>,
}

pub(crate) struct FakeLookups {
    pub(crate) kafka: Rc<RefCell<Kafka>>,
    pub(crate) names: Rc<RefCell<Names>>,
}

impl Lookups for FakeLookups {
    fn known(&mut self, _: &Tenant, query: &Query) -> Option<Option<Vec<u8>>> {
        self.names.borrow().known.get(&query.key).map(|answer| Some(answer.as_bytes().to_vec()))
    }

    fn fetch(
        &mut self,
        _: &Tenant,
        query: &Query,
        attempt: u32,
        budget: Duration,
    ) -> Result<Option<Vec<u8>>, LookupError> {
        let (kafka, names) = (&mut *self.kafka.borrow_mut(), &mut *self.names.borrow_mut());
        kafka.calls.push(format!("fetch {}", query.key));
        kafka.now += names.takes;
        names.asked.push((query.key.clone(), attempt));
        names.budgets.push(budget);
        let answer = names.answers.get_mut(&query.key).and_then(VecDeque::pop_front);
        let answer = answer.unwrap_or(Err("no answer")).map_err(LookupError::new)?;
        Ok(answer.map(|text| text.as_bytes().to_vec()))
    }
}

/// One line for each report to the observer.
pub(crate) struct Notes(pub(crate) Rc<RefCell<Vec<String>>>);

impl Observer for Notes {
    fn settled(&mut self, Settled { origin, tenant, verdict, .. }: Settled<'_>) {
        let tenant = tenant.map_or("unknown", TenantId::as_str);
        let verdict = match verdict {
            Verdict::Outputs(outputs) => format!("{} outputs", outputs.len()),
            Verdict::DeadLetter(letter) => letter.class.to_string(),
            Verdict::Waits(_) => panic!("a message that waits is not settled"),
        };
        self.0.borrow_mut().push(format!("{origin} {tenant} {verdict}"));
    }

    fn runs_fallback(&mut self, tenant: &TenantId, wanted: Digest, on: Digest, why: &str) {
        let number = |digest: Digest| digest.bytes()[0];
        self.0.borrow_mut().push(format!("{tenant} runs {} instead of {}: {why}", number(on), number(wanted)));
    }

    fn waits(&mut self, tenant: &TenantId, missing_release: Option<Digest>, why: &str) {
        let missing_release = missing_release
            .map(|missing_release| format!(" (missing release {})", missing_release.bytes()[0]))
            .unwrap_or_default();
        self.0.borrow_mut().push(format!("{tenant} waits: {why}{missing_release}"));
    }

    fn committed(&mut self) {
        self.0.borrow_mut().push("committed".into());
    }

    fn aborted(&mut self) {
        self.0.borrow_mut().push("aborted".into());
    }
}
