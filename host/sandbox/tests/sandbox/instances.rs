//! What an instance keeps from message to message, and when it is replaced.

use std::sync::Arc;

use switchboard_core::record::Record;
use switchboard_core::vectors;
use switchboard_core::worker::{Outcome, Query};
use switchboard_sandbox::{InstancePool, Limits, Sandbox};

use crate::support::{Bench, hostile_path};

#[test]
fn a_message_arrives_unchanged() {
    let record = Record {
        key: Some(vec![0, 0xff]),
        value: Some(b"message".to_vec()),
        headers: [("a", Some(&[0xfe][..])), ("b", None), ("a", Some(&[]))].into_iter().collect(),
        timestamp: None,
    };
    let Outcome::Outputs(outputs) = Bench::new().handle_record("t/GMS/83/1", &record) else { panic!() };
    let expected = "Message { topic: \"IN\", tenant: \"t/GMS/83/1\", key: Some([0, 255]), value: Some([109, 101, 115, \
                    115, 97, 103, 101]), headers: [Header { name: \"a\", value: Some([254]) }, Header { name: \"b\", \
                    value: None }, Header { name: \"a\", value: Some([]) }], timestamp: 0 }";
    assert_eq!(String::from_utf8(outputs[0].value.clone().unwrap()).unwrap(), expected);
}

#[test]
fn an_instance_stays_warm_after_outputs_and_is_replaced_after_anything_else() {
    let mut bench = Bench::new();
    let query = Query { source: "names".into(), key: "1".into() };
    for (message, expected) in [
        ("invalid no", Outcome::Rejected("no".into())),
        ("unusable answer", Outcome::UnusableAnswer("answer".into())),
        ("lookup names 1", Outcome::Missing(query)),
    ] {
        assert_eq!(bench.says("t", "calls"), "0", "before {message}");
        assert_eq!(bench.says("t", "calls"), "1", "before {message}");
        assert_eq!(bench.handle("t", message), expected);
    }
    assert_eq!(bench.says("t", "calls"), "0");
    bench.discard("t");
    assert_eq!(bench.says("t", "calls"), "0");
}

#[test]
fn a_lookup_is_answered_from_the_answers_of_the_message() {
    let mut bench = Bench::new();
    let query = |source: &str, key: &str| Query { source: source.into(), key: key.into() };
    bench.answers.insert(query("names", "1"), Some(b"Ann".to_vec()));
    bench.answers.insert(query("names", "2"), None);
    assert_eq!(bench.says("t", "lookup names 1"), "Some(\"Ann\")");
    assert_eq!(bench.says("t", "lookup names 2"), "None");
    assert_eq!(bench.handle("t", "lookup names 3"), Outcome::Missing(query("names", "3")));
    // The worker, not the sandbox, checks that the manifest declares the source.
    assert_eq!(bench.handle("t", "lookup else 1"), Outcome::Missing(query("else", "1")));
}

#[test]
fn state_belongs_to_a_tenant_and_survives_its_instance() {
    let mut bench = Bench::new();
    bench.says("t", "state a=1 b=2 c=3");
    bench.says("t", "state b d=4");
    bench.discard("t");
    assert_eq!(bench.says("t", "list "), r#"["a", "c", "d"]"#);
    assert_eq!(bench.says("t", "list d"), r#"["d"]"#);
    assert_eq!(bench.says("u", "list "), "[]");
}

#[test]
fn the_least_recently_used_tenant_loses_its_instance_but_no_state() {
    let mut bench = Bench::with(|limits| limits.warm_instances = 2);
    let calls: Vec<_> = ["a", "b", "a", "c", "a", "b", "c"].map(|tenant| bench.says(tenant, "calls")).into();
    assert_eq!(calls, ["0", "0", "1", "0", "2", "0", "0"]);
    assert_eq!(bench.instances.warm(), 2);
    let counts: Vec<_> = ["a", "b", "c", "a", "b", "c"].map(|tenant| bench.says(tenant, "count")).into();
    assert_eq!(counts, ["1", "1", "1", "2", "2", "2"]);
}

#[test]
fn instances_are_dropped_when_their_memories_have_grown_too_much() {
    let mut bench = Bench::with(|limits| limits.warm_memory_bytes = 100 << 20);
    for tenant in ["a", "b", "c"] {
        bench.says(tenant, "leak 30");
    }
    assert_eq!(bench.instances.warm(), 3);
    bench.says("d", "leak 30");
    assert_eq!(bench.instances.warm(), 3);
    assert_eq!(["b", "c", "d", "a"].map(|tenant| bench.says(tenant, "calls")), ["1", "1", "1", "0"]);
    bench.fails("d", "trap");
    bench.discard("c");
    bench.says("e", "leak 30");
    assert_eq!(bench.instances.warm(), 4, "dropped instances no longer count");
}

#[test]
fn a_failed_message_leaves_no_state_behind_in_warm_and_in_fresh_instances() {
    let step = |tenant: &str, value: &str, output: Option<&str>| {
        let (out, letter) = match output {
            Some(text) => (format!(r#"{{"topic": "OUT", "value": {{"text": "{text}"}}}}"#), ""),
            None => (String::new(), r#", "dead_letter": "hint""#),
        };
        format!(
            r#"{{"in": {{"topic": "IN", "tenant": "{tenant}", "value": {{"text": "{value}"}}}}, "out": [{out}]{letter}}}"#
        )
    };
    let mut steps = vec![step("a", "count", Some("1")), step("b", "count", Some("1"))];
    for (index, failing) in
        ["stage-and-trap", "fill", "loop", "grow 70", "invalid", "unusable", "lookup else 1", "panic"]
            .iter()
            .enumerate()
    {
        let count = Some((index + 2).to_string());
        steps.push(step("a", failing, None));
        steps.push(step("a", "list ", Some(r#"[\"count\"]"#)));
        steps.push(step("a", "count", count.as_deref()));
    }
    steps.push(step("b", "count", Some("2")));
    let file = format!(
        r#"[{{"name": "s", "config": {{"tenant_headers": [["T", "text"]], "carry_headers": []}}, "lookups": null,
            "tenants": {{"a": [["T", {{"text": "a"}}]], "b": [["T", {{"text": "b"}}]]}}, "steps": [{}]}}]"#,
        steps.join(",")
    );
    let sandbox = Sandbox::new(Limits::default()).unwrap();
    let artifact = Arc::new(sandbox.load_file(&hostile_path()).unwrap());
    for kind in [vectors::InstanceReuse::Warm, vectors::InstanceReuse::Fresh] {
        let mut instances = InstancePool::new(Arc::clone(&artifact), Limits::default());
        let scenario = &vectors::parse(&file).unwrap()[0];
        let report = vectors::run(scenario, artifact.release(), &mut instances, kind).unwrap();
        assert_eq!(report.failures, [], "{kind:?}");
    }
}
