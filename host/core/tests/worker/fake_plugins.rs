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
    Answers, Call, Clock as _, Executors, Fetch, Finished, Job, LookupError, Lookups, MigrateError, Observer, Outcome,
    Plugins, Query, Runner, Settled, Verdict,
};

use super::fake_broker::{FakeBroker, Kafka};

/// `count` counts the messages of a tenant in its state, and sends tenant and count: `a1`. Other commands:
/// `big` (an output of 1,000 bytes), `reject`, `trap`, `elsewhere`, `state` (all its keys), `say TEXT`, `many TEXT ..`, `slow`, `look KEY ..`, `choosy KEY`, `undeclared`.
#[derive(Clone)]
pub(crate) struct FakePlugins {
    pub(crate) kafka: Rc<RefCell<Kafka>>,
    /// Tenant and value of each message that was handled, in this order.
    pub(crate) ran: Rc<RefCell<Vec<String>>>,
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

/// The first release, with other topics.
pub(crate) fn consuming(topics: &[&str]) -> Release {
    let mut release = release(1);
    release.manifest.consumes = topics.iter().map(|topic| (*topic).to_owned()).collect();
    release
}

fn output(topic: &str, text: &str) -> Outbound {
    Outbound { topic: topic.into(), key: None, value: Some(text.into()), headers: Headers::new() }
}

fn query(source: &str, key: &str) -> Query {
    Query { source: source.into(), key: key.into() }
}

impl Plugins for FakePlugins {
    type Runner = Self;

    fn routing(&mut self) -> Option<Arc<Routing>> {
        self.routing.borrow_mut().take()
    }

    fn lend(&mut self, _: &TenantId) -> Self {
        self.clone()
    }

    fn give_back(&mut self, _: &TenantId, _: Self) {}

    fn discard(&mut self, tenant: &TenantId) {
        self.discarded.borrow_mut().push(tenant.to_string());
    }
}

impl Runner for FakePlugins {
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
        self.ran.borrow_mut().push(format!("{} {text}", call.tenant.id));
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
            "big" => Outcome::Outputs(vec![output("OUT", &"x".repeat(1000))]),
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
}

/// Executors that run a job when it is handed over, and finish it then or when a test says so.
pub(crate) struct FakeExecutors {
    pub(crate) kafka: Rc<RefCell<Kafka>>,
    pub(crate) lookups: FakeLookups,
    pub(crate) finished: VecDeque<Finished<FakePlugins>>,
    pub(crate) held: Rc<RefCell<Held>>,
}

/// What executors hold back.
#[derive(Default)]
pub(crate) struct Held {
    /// The tenants whose jobs and fetches do not finish.
    tenants: Vec<String>,
    /// The tenants whose fetches do not finish.
    fetches: Vec<String>,
    /// How many messages a job runs at most.
    pub(crate) most_messages: Option<usize>,
    /// The tenant of each job that was handed over, and the time that its jobs had taken.
    pub(crate) submitted: Vec<(String, Duration)>,
    /// Jobs and fetches that have not finished, with their tenants.
    out: Vec<(String, Finished<FakePlugins>)>,
    /// Jobs and fetches that finish now.
    done: VecDeque<Finished<FakePlugins>>,
}

impl Held {
    /// Jobs and fetches of this tenant do not finish from now on.
    pub(crate) fn hold(&mut self, tenant: &str) {
        self.tenants.push(tenant.into());
    }

    /// Fetches of this tenant do not finish from now on.
    pub(crate) fn hold_fetches(&mut self, tenant: &str) {
        self.fetches.push(tenant.into());
    }

    /// Further jobs and fetches of this tenant finish. Those that are out do not.
    pub(crate) fn hold_no_more(&mut self, tenant: &str) {
        self.tenants.retain(|held| held != tenant);
        self.fetches.retain(|held| held != tenant);
    }

    /// All jobs and fetches of this tenant finish.
    pub(crate) fn finish(&mut self, tenant: &str) {
        self.hold_no_more(tenant);
        let (done, out): (Vec<_>, Vec<_>) = std::mem::take(&mut self.out).into_iter().partition(|(of, _)| of == tenant);
        self.done.extend(done.into_iter().map(|(_, finished)| finished));
        self.out = out;
    }

    /// How many jobs and fetches are out.
    pub(crate) fn out(&self) -> usize {
        self.out.len()
    }
}

impl FakeExecutors {
    fn finish(&mut self, tenant: &Tenant, finished: Finished<FakePlugins>) {
        let (mut held, tenant) = (self.held.borrow_mut(), tenant.id.to_string());
        let is_fetch = matches!(finished, Finished::Fetch(_));
        if held.tenants.contains(&tenant) || is_fetch && held.fetches.contains(&tenant) {
            held.out.push((tenant, finished));
        } else {
            self.finished.push_back(finished);
        }
    }
}

impl Executors<FakePlugins> for FakeExecutors {
    fn submit(&mut self, mut job: Job<FakePlugins>) {
        let broker = FakeBroker(Rc::clone(&self.kafka));
        let mut left = self.held.borrow().most_messages.unwrap_or(usize::MAX);
        self.held.borrow_mut().submitted.push((job.tenant().id.to_string(), job.used()));
        job.run(
            &self.lookups,
            || broker.now(),
            |_| {
                left -= 1;
                left > 0
            },
        );
        self.finish(&job.tenant().clone(), Finished::Job(job));
    }

    fn fetch(&mut self, mut fetch: Fetch) {
        let broker = FakeBroker(Rc::clone(&self.kafka));
        fetch.run(&self.lookups, || broker.now());
        self.finish(&fetch.tenant().clone(), Finished::Fetch(fetch));
    }

    fn finished(&mut self) -> Option<Finished<FakePlugins>> {
        self.held.borrow_mut().done.pop_front().or_else(|| self.finished.pop_front())
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
    fn known(&self, _: &Tenant, query: &Query) -> Option<Option<Vec<u8>>> {
        self.names.borrow().known.get(&query.key).map(|answer| Some(answer.as_bytes().to_vec()))
    }

    fn fetch(&self, _: &Tenant, query: &Query, attempt: u32, budget: Duration) -> Result<Option<Vec<u8>>, LookupError> {
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
