//! Not a test, a measurement: `cargo test --release -p switchboard --test sandbox -- --ignored --nocapture speed`.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use switchboard::sandbox::{Artifact, Instances, Limits, Sandbox};
use switchboard_core::envelope::{Coordinates, Header, Record, Tenant, TenantId};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, Outcome, Plugins as _, Query};

use crate::handmade::Handmade;
use crate::support::hostile_path;

#[test]
#[ignore = "a measurement"]
fn speed() {
    let header = |name: &str, value: &str| Header::new(name, value);
    let headers = vec![
        header("TENANT_ID", "61cc3717-e260-57fa-b286-57354c3748ff"),
        header("REGION", "GMS"),
        header("MAJOR_VERSION", "\0S"),
        header("MINOR_VERSION", "\0\x01"),
        header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let create = r#"{"transactionId":"2f1e9b3c-7a44-4c1e-9d0e-5b1f6f1c2d3e","actorId":2,"type":"CREATE","body":{}}"#;
    measure("hostile", "IN", &headers, "count");
    measure("messenger", "COMMAND_TOPIC_MESSENGER", &headers, create);
}

/// Linux allows a process 65,530 mappings. Alone in its process: allocations of others would fail meanwhile.
#[test]
#[ignore = "takes a gigabyte"]
fn more_instances_than_the_machine_has_room_for() {
    let limits = Limits { warm_instances: 100_000, ..Limits::default() };
    let artifact = Arc::new(Sandbox::new(limits).unwrap().load(&Handmade::default().build()).unwrap());
    let mut worker = Worker::new(&artifact, 70_000, "IN");
    worker.instances = Instances::new(artifact, limits);
    worker.round(&Record::default());
    println!("{} instances are warm in the end", worker.instances.warm());
}

fn measure(name: &str, topic: &str, headers: &[Header], value: &str) {
    let sandbox = Sandbox::new(Limits::default()).unwrap();
    let path = hostile_path().with_file_name(Path::new(name).with_extension("wasm"));
    let start = Instant::now();
    let artifact = Arc::new(sandbox.load_file(&path).unwrap());
    println!("{name}: load {:?}", start.elapsed());
    let record =
        Record { key: None, value: Some(value.into()), headers: headers.to_vec(), timestamp: Some(1_700_000_000_000) };
    for (what, tenants, rounds) in [("one tenant", 1, 200_000), ("1,900 tenants in turn", 1900, 100)] {
        let mut worker = Worker::new(&artifact, tenants, topic);
        let start = Instant::now();
        worker.round(&record);
        println!("  {what}: first call {:?}", start.elapsed() / u32::try_from(tenants).unwrap());
        let start = Instant::now();
        for _ in 0..rounds {
            worker.round(&record);
        }
        println!("  {what}: warm call {:?}", start.elapsed() / rounds / u32::try_from(tenants).unwrap());
        if tenants > 1 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let resident = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
            let mappings = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
            println!("  {what}: {resident}, {mappings} mappings");
        }
    }
    let mut worker = Worker::new(&artifact, 1, topic);
    let rounds = 20_000;
    let start = Instant::now();
    for _ in 0..rounds {
        worker.instances.discard(&worker.tenants[0].0.id);
        worker.round(&record);
    }
    println!("  fresh instance and call {:?}", start.elapsed() / rounds);
}

struct Worker {
    instances: Instances,
    tenants: Vec<(Tenant, TenantState)>,
    answers: Answers,
    source: Coordinates,
}

impl Worker {
    fn new(artifact: &Arc<Artifact>, tenants: usize, topic: &str) -> Self {
        let tenant = |number| Tenant {
            id: TenantId::new(format!("61cc3717-e260-57fa-b286-57354c3748ff/GMS/83/{number}")),
            headers: vec![],
            texts: vec![],
        };
        let mut answers = Answers::default();
        let bob = br#"{"data":{"type":"characters","id":"2","attributes":{"name":"Bob","worldId":1}}}"#;
        answers.insert(Query { source: "characters".into(), key: "2".into() }, Some(bob.to_vec()));
        Self {
            instances: Instances::new(Arc::clone(artifact), Limits::default()),
            tenants: (0..tenants).map(|number| (tenant(number), TenantState::default())).collect(),
            answers,
            source: Coordinates { topic: topic.into(), partition: 0, offset: 0 },
        }
    }

    fn round(&mut self, record: &Record) {
        for (tenant, state) in &mut self.tenants {
            self.source.offset += 1;
            let call = Call { tenant, record, source: &self.source };
            let outcome = black_box(self.instances.handle(call, state, &self.answers));
            assert!(matches!(outcome, Outcome::Outputs(_)), "{outcome:?}");
        }
    }
}
