//! A worker with the hostile plugin, and a log to read.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use switchboard_core::record::{Class, Coordinates, Headers, Offset, Record, Tenant, TenantId, Timestamp};
use switchboard_core::state::{StateLimits, TenantState};
use switchboard_core::worker::{Answers, Call, Outcome, Plugins as _, Runner as _};
use switchboard_sandbox::{Artifact, InstancePool, Limits, Sandbox};

static HOSTILE: LazyLock<Arc<Artifact>> = LazyLock::new(|| {
    let sandbox = Sandbox::new(Limits::default()).unwrap();
    let path = hostile_path();
    let build = "cargo build --release --target wasm32-wasip2 -p hostile";
    assert!(path.exists(), "{} is missing: `make test` builds it, or `{build}`", path.display());
    Arc::new(sandbox.load_file(&path).unwrap())
});

pub(crate) fn hostile_path() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    target.join("wasm32-wasip2/release/hostile.wasm")
}

pub(crate) fn hostile() -> &'static Arc<Artifact> {
    &HOSTILE
}

/// A worker with the hostile plugin. It numbers its messages.
pub(crate) struct Bench {
    pub(crate) instances: InstancePool,
    states: BTreeMap<String, TenantState>,
    pub(crate) answers: Answers,
    /// Offset of the next message, and its timestamp.
    pub(crate) offset: Offset,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    /// With other limits.
    pub(crate) fn with(change: impl Fn(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        let instances = InstancePool::new(Arc::clone(&HOSTILE), limits);
        Self { instances, states: BTreeMap::new(), answers: Answers::default(), offset: Offset::ZERO }
    }

    pub(crate) fn handle(&mut self, tenant: &str, value: &str) -> Outcome {
        let record = Record {
            value: Some(value.into()),
            timestamp: Some(Timestamp::from_millis(self.offset.get())),
            ..Record::default()
        };
        self.handle_record(tenant, &record)
    }

    pub(crate) fn handle_record(&mut self, tenant: &str, record: &Record) -> Outcome {
        let source = Coordinates { topic: "IN".into(), partition: 0.into(), offset: self.offset };
        self.offset = self.offset.next();
        let state = self.states.entry(tenant.to_owned()).or_default();
        let tenant = Tenant { id: TenantId::new(tenant), headers: Headers::new(), texts: vec![] };
        let mut runner = self.instances.lend(&tenant.id);
        let call = Call { tenant: &tenant, record, origin: &source };
        let outcome = runner.handle(HOSTILE.release(), call, state, &self.answers);
        self.instances.give_back(&tenant.id, runner);
        if !matches!(outcome, Outcome::Outputs(_)) {
            state.reject_message();
        }
        outcome
    }

    /// The entries of a tenant's state, as `key=value`.
    pub(crate) fn state(&self, tenant: &str) -> Vec<String> {
        let entries = self.states.get(tenant).map_or(Vec::new(), |state| state.list("", None, usize::MAX));
        entries.iter().map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(value))).collect()
    }

    /// Migrates a tenant's state. The state's only entry is `migration`: what the plugin does during the migration.
    pub(crate) fn migrate(&mut self, tenant: &str, from: u32, migration: &str) -> Result<(), String> {
        let mut state = TenantState::default();
        state.set("migration", migration.into(), &StateLimits::default()).unwrap();
        let id = Tenant { id: TenantId::new(tenant), headers: Headers::new(), texts: vec![] };
        let mut runner = self.instances.lend(&id.id);
        let result = runner.migrate(HOSTILE.release(), &id, from, &mut state).map_err(|error| error.to_string());
        self.instances.give_back(&id.id, runner);
        if result.is_err() {
            state.reject_message();
        }
        self.states.insert(tenant.to_owned(), state);
        result
    }

    /// The value of the only output.
    pub(crate) fn says(&mut self, tenant: &str, value: &str) -> String {
        match self.handle(tenant, value) {
            Outcome::Outputs(outputs) => {
                let [output] = &outputs[..] else { panic!("{value}: {} outputs", outputs.len()) };
                String::from_utf8(output.value.clone().unwrap()).unwrap()
            }
            other => panic!("{value}: {other:?}"),
        }
    }

    /// Asserts that the message fails and that the tenant's next one succeeds. Returns class and reason.
    pub(crate) fn fails(&mut self, tenant: &str, value: &str) -> (Class, String) {
        let letter = match self.handle(tenant, value) {
            Outcome::Failed(letter) => letter,
            other => panic!("{value}: {other:?}"),
        };
        assert_eq!(self.says(tenant, "echo still here"), "still here", "after {value}");
        (letter.class, letter.reason)
    }

    pub(crate) fn discard(&mut self, tenant: &str) {
        self.instances.discard(&TenantId::new(tenant));
    }
}

/// The log lines that `run` writes.
pub(crate) fn log_of(run: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .without_time()
        .with_ansi(false)
        .with_writer(move || writer.clone());
    tracing::subscriber::with_default(subscriber.finish(), run);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}
