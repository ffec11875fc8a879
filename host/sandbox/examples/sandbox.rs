//! Measures the sandbox: load (with and without the cache of compiled code), warm call, fresh instance. A call includes
//! that its runner is lent and given back. Part of `make bench`.
//!
//! `cargo run --release -p switchboard-sandbox --example sandbox COMPONENT TOPIC VALUE`. The plugin must handle that value
//! without a failure.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use switchboard_core::record::{Coordinates, Headers, Record, Tenant, TenantId, Timestamp};
use switchboard_core::routing::Release;
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, Outcome, Plugins as _, Query, Runner as _};
use switchboard_sandbox::{Artifact, InstancePool, Limits, Sandbox};

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [component, topic, value] = &arguments[..] else {
        eprintln!("usage: sandbox COMPONENT TOPIC VALUE");
        std::process::exit(2);
    };
    measure(Path::new(component), topic, value);
}

fn measure(component: &Path, topic: &str, value: &str) {
    let sandbox = Sandbox::new(Limits::default()).unwrap();
    let start = Instant::now();
    let artifact = Arc::new(sandbox.load_file(component).unwrap());
    println!("load (compile and describe): {:.1?}", start.elapsed());
    let directory = tempfile::tempdir().unwrap();
    let sandbox = sandbox.with_cache(&directory.path().join("code"));
    for what in ["compile, keep", "read compiled code"] {
        let start = Instant::now();
        sandbox.load_file(component).unwrap();
        println!("load ({what} and describe): {:.1?}", start.elapsed());
    }
    let headers = [
        ("TENANT_ID", "61cc3717-e260-57fa-b286-57354c3748ff"),
        ("REGION", "GMS"),
        ("MAJOR_VERSION", "\0S"),
        ("MINOR_VERSION", "\0\x01"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let headers = headers.into_iter().map(|(name, value)| (name, Some(value))).collect();
    let record = Record {
        key: None,
        value: Some(value.into()),
        headers,
        timestamp: Some(Timestamp::from_millis(1_700_000_000_000)),
    };
    for (what, tenants, rounds) in [("one tenant", 1, 200_000), ("1,900 tenants in turn", 1900, 100)] {
        let mut worker = Worker::new(&artifact, tenants, topic);
        let start = Instant::now();
        worker.handle_all(&record);
        println!("{what}: first call {:.1?}", start.elapsed() / u32::try_from(tenants).unwrap());
        let start = Instant::now();
        for _ in 0..rounds {
            worker.handle_all(&record);
        }
        println!("{what}: warm call {:.2?}", start.elapsed() / rounds / u32::try_from(tenants).unwrap());
        if tenants > 1 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let resident = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
            let mappings = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
            println!("{what}: {resident}, {mappings} mappings");
        }
    }
    let mut worker = Worker::new(&artifact, 1, topic);
    let rounds = 20_000;
    let start = Instant::now();
    for _ in 0..rounds {
        worker.instances.discard(&worker.tenants[0].0.id);
        worker.handle_all(&record);
    }
    println!("fresh instance, call and drop: {:.1?}", start.elapsed() / rounds);
}

struct Worker {
    release: Arc<Release>,
    instances: InstancePool,
    tenants: Vec<(Tenant, TenantState)>,
    answers: Answers,
    source: Coordinates,
}

impl Worker {
    fn new(artifact: &Arc<Artifact>, tenants: usize, topic: &str) -> Self {
        let tenant = |number| Tenant {
            id: TenantId::new(format!("61cc3717-e260-57fa-b286-57354c3748ff/GMS/83/{number}")),
            headers: Headers::new(),
            texts: vec![],
        };
        let mut answers = Answers::default();
        let bob = br#"{"data":{"type":"characters","id":"2","attributes":{"name":"Bob","worldId":1}}}"#;
        answers.insert(Query { source: "characters".into(), key: "2".into() }, Some(bob.to_vec()));
        Self {
            release: Arc::clone(artifact.release()),
            instances: InstancePool::new(Arc::clone(artifact), Limits::default()),
            tenants: (0..tenants).map(|number| (tenant(number), TenantState::default())).collect(),
            answers,
            source: Coordinates { topic: topic.into(), partition: 0.into(), offset: 0.into() },
        }
    }

    fn handle_all(&mut self, record: &Record) {
        for (tenant, state) in &mut self.tenants {
            self.source.offset = self.source.offset.next();
            let call = Call { tenant, record, origin: &self.source };
            let mut runner = self.instances.lend(&tenant.id);
            let outcome = black_box(runner.handle(&self.release, call, state, &self.answers));
            self.instances.give_back(&tenant.id, runner);
            assert!(matches!(outcome, Outcome::Outputs(_)), "{outcome:?}");
        }
    }
}
