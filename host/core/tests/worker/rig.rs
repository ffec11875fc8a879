//! A worker with all its fakes, and what tests ask them.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use switchboard_core::record::{
    ControlPosition, Coordinates, HeaderKind, Headers, Offset, OutputLimits, OutputRules, PartitionIndex, Record,
    ShardId, TenantHeader, TenantId, TenantSchema, Timestamp, shard_of, to_repartitioned,
};
use switchboard_core::routing::{LastRun, Routing};
use switchboard_core::state::{StateLimits, encode_key};
use switchboard_core::worker::{BatchLimits, FatalError, Next, Partition, StartFrom, Worker, WorkerConfig};

use super::fake_broker::{FakeBroker, Kafka};
use super::fake_plugins::{FakeExecutors, FakeLookups, FakePlugins, Held, Names, Notes, release};

pub(crate) const SOURCE: Partition = Partition::Source { topic: 0, index: PartitionIndex::new(0).unwrap() };
/// The shards of the tenants `A` and `B`, and of `D`, as `the_tenants_have_the_shards_that_the_tests_assume` checks. `SOURCE`
/// is anchored to the first one.
pub(crate) const A: ShardId = ShardId::new(0).unwrap();
pub(crate) const D: ShardId = ShardId::new(1).unwrap();
pub(crate) const SHARD_A: Partition = Partition::Shard(A);
pub(crate) const SHARD_D: Partition = Partition::Shard(D);

/// More steps than any script here needs.
const MOST_STEPS: usize = 200;

pub(crate) struct Rig {
    worker: Worker<FakeBroker, FakePlugins, FakeExecutors, Notes>,
    kafka: Rc<RefCell<Kafka>>,
    names: Rc<RefCell<Names>>,
    held: Rc<RefCell<Held>>,
    pub(crate) notes: Rc<RefCell<Vec<String>>>,
    pub(crate) discarded: Rc<RefCell<Vec<String>>>,
    ran: Rc<RefCell<Vec<String>>>,
    routing: Rc<RefCell<Option<Arc<Routing>>>>,
}

pub(crate) fn config() -> WorkerConfig {
    WorkerConfig {
        app: "app".into(),
        shards: 2,
        tenants: TenantSchema::new(vec![TenantHeader { name: "T".into(), kind: HeaderKind::Text }]),
        outputs: OutputRules { carry_headers: Vec::new(), limits: OutputLimits::default() },
        state: StateLimits::default(),
        lookups_a_message: 3,
        lookup_time: Duration::from_secs(30),
        batch: BatchLimits { records: 4, bytes: 1 << 20, time: Duration::from_millis(100) },
        start_from: StartFrom::Earliest,
        offset_renewal: Duration::from_hours(1),
    }
}

pub(crate) fn message(tenant: &str, command: &str) -> Record {
    let headers = [("T", Some(tenant))].into_iter().collect();
    Record { key: None, value: Some(command.into()), headers, timestamp: Some(Timestamp::from_millis(7)) }
}

pub(crate) fn text(record: &Record) -> String {
    String::from_utf8(record.value.clone().unwrap_or(b"null".to_vec())).unwrap()
}

pub(crate) fn header(headers: &Headers, name: &str) -> String {
    headers.last(name).map_or("none".into(), |header| String::from_utf8(header.value.unwrap().to_vec()).unwrap())
}

/// The names of so many tenants of this shard. They never ran before.
pub(crate) fn tenants_of(shard: ShardId, count: usize) -> Vec<String> {
    let names = (0..).map(|number| format!("T{number}"));
    names.filter(|name| shard_of(&TenantId::new(name.as_str()), 2) == shard).take(count).collect()
}

impl Rig {
    /// A worker that these shards are assigned to, with a source topic of this many partitions. Nothing is read yet.
    pub(crate) fn with(config: WorkerConfig, source_partitions: u32, assigned: &[ShardId]) -> Self {
        let mut kafka = Kafka::new();
        kafka.assignment = assigned.to_vec();
        kafka.partition_counts = vec![source_partitions];
        let (kafka, names) = (Rc::new(RefCell::new(kafka)), Rc::new(RefCell::new(Names::default())));
        let (notes, discarded, ran) = (Rc::default(), Rc::default(), Rc::default());
        let routing = Rc::new(RefCell::new(Some(Arc::new(Routing::fixed(Arc::new(release(1)))))));
        let plugins = FakePlugins {
            kafka: Rc::clone(&kafka),
            ran: Rc::clone(&ran),
            discarded: Rc::clone(&discarded),
            routing: Rc::clone(&routing),
        };
        let held = Rc::default();
        let executors = FakeExecutors {
            kafka: Rc::clone(&kafka),
            lookups: FakeLookups { kafka: Rc::clone(&kafka), names: Rc::clone(&names) },
            finished: std::collections::VecDeque::new(),
            held: Rc::clone(&held),
        };
        let worker =
            Worker::new(config, 1, FakeBroker(Rc::clone(&kafka)), plugins, executors, Notes(Rc::clone(&notes)));
        Self { worker, kafka, names, held, notes, discarded, ran, routing }
    }

    /// The worker takes this routing at its next step.
    pub(crate) fn reroute(&self, routing: Routing) {
        *self.routing.borrow_mut() = Some(Arc::new(routing));
    }

    /// A worker that has taken over all partitions, and whose tenants ran before. The calls up to here are forgotten.
    pub(crate) fn ready() -> Self {
        Self::ready_with(config())
    }

    pub(crate) fn ready_with(config: WorkerConfig) -> Self {
        Self::taken_over(config, 0, &[A, D])
    }

    /// A worker that also reads a source, whose direct paths to both shards are open. The barriers are the first records of
    /// the shards.
    pub(crate) fn with_source() -> Self {
        Self::with_source_and(config())
    }

    pub(crate) fn with_source_and(config: WorkerConfig) -> Self {
        Self::taken_over(config, 1, &[A, D])
    }

    /// A worker that owns one of the shards. The records of the other one take the hop.
    pub(crate) fn with_source_and_half() -> Self {
        Self::taken_over(config(), 1, &[A])
    }

    fn taken_over(config: WorkerConfig, source_partitions: u32, assigned: &[ShardId]) -> Self {
        let mut rig = Self::with(config, source_partitions, assigned);
        rig.tenants_ran_before();
        rig.run();
        rig.kafka().calls.clear();
        rig
    }

    /// The tenants ran the first release before, so it takes nothing over.
    fn tenants_ran_before(&self) {
        let mut kafka = self.kafka();
        let entry = LastRun { release: release(1).digest, state_version: 1, route: None }.encode();
        for (tenant, shard) in [("A", A), ("B", A), ("D", D)] {
            let key = encode_key(&TenantId::new(tenant), LastRun::KEY);
            kafka.changelogs.entry(shard).or_default().push((key, Some(entry.clone())));
            kafka.committed.insert(Partition::Shard(shard), Offset::ZERO);
        }
    }

    pub(crate) fn kafka(&self) -> RefMut<'_, Kafka> {
        self.kafka.borrow_mut()
    }

    pub(crate) fn names(&self) -> RefMut<'_, Names> {
        self.names.borrow_mut()
    }

    pub(crate) fn held(&self) -> RefMut<'_, Held> {
        self.held.borrow_mut()
    }

    /// Records of the source topic.
    pub(crate) fn produce(&self, messages: &[(&str, &str)]) {
        let mut kafka = self.kafka();
        let log = kafka.logs.entry(SOURCE).or_default();
        log.extend(messages.iter().map(|(tenant, command)| message(tenant, command)));
    }

    /// Records of the repartition topic, from the offsets 0, 1, .. of the source topic.
    pub(crate) fn repartitioned(&self, messages: &[(&str, &str)]) {
        self.repartitioned_from("IN", None, messages);
    }

    /// The same from another topic, by a worker that had read changes of routes up to this one.
    pub(crate) fn repartitioned_from(&self, alias: &str, routes: Option<ControlPosition>, messages: &[(&str, &str)]) {
        let mut kafka = self.kafka();
        for (tenant, command) in messages {
            let shard = Partition::Shard(shard_of(&TenantId::new(*tenant), 2));
            let log = kafka.logs.entry(shard).or_default();
            let source = Coordinates {
                topic: Arc::from(alias),
                partition: 0.into(),
                offset: Offset::try_from(log.len()).unwrap(),
            };
            log.push(to_repartitioned(message(tenant, command), &source, routes));
        }
    }

    pub(crate) fn step(&mut self) -> Result<Next, FatalError> {
        self.worker.step()
    }

    /// Steps until nothing happens any more, or `MOST_STEPS` times.
    pub(crate) fn try_run(&mut self) -> Result<(), FatalError> {
        let mut quiet = 0;
        for _ in 0..MOST_STEPS {
            let before = self.kafka().progress();
            if let Next::After(wait) = self.step()? {
                self.kafka().now += wait;
            }
            quiet = if self.kafka().progress() == before { quiet + 1 } else { 0 };
            if quiet == 3 {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn run(&mut self) {
        self.try_run().expect("the worker goes on");
    }

    /// Runs a second later, when the worker repeats its questions.
    pub(crate) fn later(&mut self) {
        self.kafka().now += Duration::from_secs(1);
        self.run();
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.kafka().calls.clone()
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.kafka().calls.iter().filter(|made| *made == call).count()
    }

    /// The calls between each begin and its commit.
    pub(crate) fn committed_transactions(&self) -> Vec<Vec<String>> {
        let (mut all, mut open) = (Vec::new(), Vec::new());
        for call in self.calls() {
            match call.as_str() {
                "begin" => open.clear(),
                "commit" => all.push(std::mem::take(&mut open)),
                _ => open.push(call),
            }
        }
        all
    }

    pub(crate) fn outputs(&self) -> Vec<String> {
        self.kafka().visible.iter().filter(|(to, _)| to == "OUT").map(|(_, record)| text(record)).collect()
    }

    /// Class and value of each dead letter.
    pub(crate) fn dead_letters(&self) -> Vec<(String, String)> {
        let kafka = self.kafka();
        let letters = kafka.visible.iter().filter(|(to, _)| to == "dead-letters");
        letters.map(|(_, record)| (header(&record.headers, "switchboard-class"), text(record))).collect()
    }

    /// Tenant and value of each message that was handled since the last call, in the order of the calls.
    pub(crate) fn ran(&self) -> Vec<String> {
        std::mem::take(&mut *self.ran.borrow_mut())
    }

    /// The offset that the group has for a partition, with its map: `3,runs=..`.
    pub(crate) fn committed_with_map(&self, partition: Partition) -> String {
        let kafka = self.kafka();
        let metadata = kafka.metadata.get(&partition).and_then(|metadata| metadata.strip_prefix("v=1"));
        format!("{}{}", kafka.committed[&partition], metadata.expect("the worker committed it"))
    }

    pub(crate) fn committed(&self, partition: Partition) -> Option<i64> {
        self.kafka().committed.get(&partition).copied().map(Offset::get)
    }
}

/// Pairs of text as `Rig::dead_letters` gives them.
pub(crate) fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(class, value)| ((*class).into(), (*value).into())).collect()
}

#[test]
fn the_tenants_have_the_shards_that_the_tests_assume() {
    let shard = |tenant: &str| Partition::Shard(shard_of(&TenantId::new(tenant), 2));
    assert_eq!(["A", "B", "D"].map(shard), [SHARD_A, SHARD_A, SHARD_D]);
}
