//! The releases of `tests/guests/releases` as components: they take turns, migrate, and fail as they are meant to.

use std::collections::BTreeMap;
use std::sync::Arc;

use switchboard_core::record::{Coordinates, Headers, Offset, Record, Tenant, TenantId};
use switchboard_core::routing::{Availability, OnFailure, RouteTable, Routing};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, Outcome, Plugins as _, Query, Runner as _};
use switchboard_sandbox::{Artifact, InstancePool, Limits, LoadError, Sandbox};
use switchboard_sandbox::{RoutingSnapshot, RoutingWatch};

use crate::support::hostile_path;

fn load(name: &str) -> Result<Arc<Artifact>, LoadError> {
    let path = hostile_path().ancestors().nth(2).unwrap().join(format!("{name}.wasm"));
    let build =
        "cargo build --profile guests --target wasm32-wasip2 -p releases --examples; the messenger by `make build`";
    assert!(path.exists(), "{} is missing: `make test` builds it, or `{build}`", path.display());
    Sandbox::new(Limits::default()).unwrap().load_file(&path).map(Arc::new)
}

/// A tenant, and the releases that run it in turn.
struct Bench {
    instances: InstancePool,
    artifacts: BTreeMap<&'static str, Arc<Artifact>>,
    state: TenantState,
    tenant: Tenant,
    answers: Answers,
    offset: Offset,
}

impl Bench {
    fn new(names: &[&'static str]) -> Self {
        let artifacts: BTreeMap<_, _> = names.iter().map(|name| (*name, load(name).unwrap())).collect();
        let ready = |artifact: &Arc<Artifact>| (artifact.digest(), Availability::Ready(Arc::clone(artifact.release())));
        let releases = artifacts.values().map(ready).collect();
        let routing = Arc::new(Routing::new(RouteTable::default(), None, None, releases, OnFailure::Keep));
        let published = artifacts.values().map(|artifact| (artifact.digest(), Arc::clone(artifact))).collect();
        let watch = RoutingWatch::new(RoutingSnapshot { routing, artifacts: published });
        let mut answers = Answers::default();
        for (id, name) in [("1", "Ann"), ("2", "Bob")] {
            let entry = format!(
                r#"{{"data":{{"type":"characters","id":"{id}","attributes":{{"name":"{name}","worldId":1}}}}}}"#
            );
            answers.insert(Query { source: "characters".into(), key: id.into() }, Some(entry.into_bytes()));
        }
        let tenant = Tenant { id: TenantId::new("t"), headers: Headers::new(), texts: vec![] };
        let instances = InstancePool::subscribed(&watch, Limits::default());
        Self { instances, artifacts, state: TenantState::default(), tenant, answers, offset: Offset::ZERO }
    }

    fn handle(&mut self, release: &str, topic: &str, value: &str) -> Outcome {
        let source = Coordinates { topic: topic.into(), partition: 0.into(), offset: self.offset };
        self.offset = self.offset.next();
        let record = Record { value: Some(value.into()), ..Record::default() };
        let call = Call { tenant: &self.tenant, record: &record, origin: &source };
        let mut runner = self.instances.lend(&self.tenant.id);
        let outcome = runner.handle(self.artifacts[release].release(), call, &mut self.state, &self.answers);
        self.instances.give_back(&self.tenant.id, runner);
        outcome
    }

    fn migrate(&mut self, release: &str, from: u32) -> Result<(), String> {
        let mut runner = self.instances.lend(&self.tenant.id);
        let migrated = runner.migrate(self.artifacts[release].release(), &self.tenant, from, &mut self.state);
        self.instances.give_back(&self.tenant.id, runner);
        migrated.map_err(|error| error.to_string())
    }

    /// The value of a header of the first output.
    fn header(&mut self, release: &str, topic: &str, value: &str, name: &str) -> Option<String> {
        let Outcome::Outputs(outputs) = self.handle(release, topic, value) else { panic!("{value}") };
        let found = outputs[0].headers.iter().find(|header| header.name == name.as_bytes())?.value?.to_vec();
        Some(String::from_utf8(found).unwrap())
    }

    fn keys(&self) -> Vec<String> {
        self.state.list("", None, usize::MAX).into_iter().map(|(key, _)| key).collect()
    }
}

const MESSENGERS: [&str; 3] = ["release/messenger", "guests/examples/messenger_2", "guests/examples/messenger_back"];

#[test]
fn a_messenger_migrates_to_rooms_with_names_and_back() {
    let [old, new, back] = MESSENGERS;
    let mut bench = Bench::new(&MESSENGERS);
    let versions = bench.artifacts.values().map(|artifact| artifact.manifest().state_version);
    assert_eq!(versions.collect::<Vec<_>>(), [2, 1, 1]);
    let migrates = [old, new, back].map(|name| bench.artifacts[name].release().migrates.clone());
    assert_eq!(migrates, [vec![], vec![1], vec![2]]);

    let commands = "COMMAND_TOPIC_MESSENGER";
    let create = |actor: u32| format!(r#"{{"actorId":{actor},"type":"CREATE"}}"#);
    assert_eq!(bench.header(old, commands, &create(1), "ROOM"), None);
    let before = bench.keys();
    bench.migrate(new, 1).unwrap();
    let join = r#"{"actorId":2,"type":"JOIN","body":{"messengerId":1000000000}}"#;
    assert_eq!(bench.header(new, commands, join, "ROOM"), Some("Ann's room".into()));
    let leave = r#"{"actorId":2,"type":"LEAVE","body":{"messengerId":1000000000}}"#;
    assert_eq!(bench.header(new, commands, leave, "ROOM"), Some("Ann's room".into()));
    assert_eq!(bench.header(new, commands, &create(2), "ROOM"), Some("Bob's room".into()));
    assert!(bench.keys().contains(&"room/1000000001".to_owned()), "{:?}", bench.keys());
    bench.migrate(back, 2).unwrap();
    let leave = r#"{"actorId":2,"type":"LEAVE","body":{"messengerId":1000000001}}"#;
    assert_eq!(bench.header(back, commands, leave, "ROOM"), None);
    let after: Vec<_> = bench.keys().into_iter().filter(|key| key != "character/0000000002").collect();
    assert_eq!(after, before);
}

#[test]
fn each_output_names_the_release_that_made_it() {
    let (first, second) = ("guests/examples/tagged_1", "guests/examples/tagged_2");
    let mut bench = Bench::new(&[first, second]);
    for (release, version) in [(first, "1.0.0"), (second, "2.0.0"), (second, "2.0.0"), (first, "1.0.0")] {
        assert_eq!(bench.header(release, "IN", "a note", "RELEASE"), Some(version.into()));
        assert_eq!(bench.artifacts[release].manifest().version, version);
    }
    // Both releases share one count.
    let Outcome::Outputs(outputs) = bench.handle(second, "IN", "b note") else { panic!() };
    assert!(outputs[1].value.as_ref().unwrap().starts_with(b"b 5 "));
}

#[test]
fn each_bad_release_fails_in_its_own_way() {
    let error = load("guests/examples/looping").err().map(|error| error.to_string()).unwrap();
    assert!(
        error.ends_with("it fails when asked what it is (describe): limit: more than 200000000 units of fuel"),
        "{error}"
    );

    let names = ["guests/examples/trapping", "guests/examples/unwilling", "guests/examples/further_topic"];
    let [trapping, unwilling, further] = names;
    let mut bench = Bench::new(&names);
    let mut ends = |value: &str| matches!(bench.handle(trapping, "IN", value), Outcome::Failed(_));
    // The release traps for every third id.
    let ended: Vec<_> = (0..9).map(|id| ends(&format!("{id} note"))).collect();
    assert_eq!(ended.iter().filter(|ended| **ended).count(), 3, "{ended:?}");
    assert_eq!(ended[..3], ended[3..6]);

    let mut bench = Bench::new(&names);
    assert_eq!(bench.migrate(unwilling, 1), Err("invalid: as built".into()));
    bench.state.reject_message();
    assert_eq!(bench.keys(), [""; 0]);
    assert_eq!(bench.header(further, "IN2", "a note", "RELEASE"), Some("5.0.0".into()));
    for release in [unwilling, further] {
        assert_eq!(bench.artifacts[release].manifest().consumes, ["IN", "IN2"]);
    }
}
