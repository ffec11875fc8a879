//! A worker with all its fakes, and what tests ask them.

use std::cell::{RefCell, RefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use switchboard_core::record::{
    ControlPosition, Coordinates, HeaderKind, Headers, Offset, OutputLimits, OutputRules, PartitionIndex, Record,
    ShardId, TenantHeader, TenantId, TenantSchema, Timestamp, shard_of, to_repartitioned,
};
use switchboard_core::routing::Routing;
use switchboard_core::state::StateLimits;
use switchboard_core::worker::{BatchLimits, FatalError, Next, Partition, StartFrom, Worker, WorkerConfig};

use super::fake_broker::{FakeBroker, Kafka};
use super::fake_plugins::{FakeLookups, FakePlugins, Names, Notes, release};

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
    worker: Worker<FakeBroker, FakePlugins, FakeLookups, Notes>,
    kafka: Rc<RefCell<Kafka>>,
    names: Rc<RefCell<Names>>,
    pub(crate) notes: Rc<RefCell<Vec<String>>>,
    pub(crate) discarded: Rc<RefCell<Vec<String>>>,
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

impl Rig {
    /// A worker that these shards are assigned to, with a source topic of this many partitions. Nothing is read yet.
    pub(crate) fn with(config: WorkerConfig, source_partitions: u32, assigned: &[ShardId]) -> Self {
        let mut kafka = Kafka::new();
        kafka.assignment = assigned.to_vec();
        kafka.partition_counts = vec![source_partitions];
        let (kafka, names) = (Rc::new(RefCell::new(kafka)), Rc::new(RefCell::new(Names::default())));
        let (notes, discarded) = (Rc::default(), Rc::default());
        let routing = Rc::new(RefCell::new(Some(Arc::new(Routing::fixed(Arc::new(release(1)))))));
        let plugins =
            FakePlugins { kafka: Rc::clone(&kafka), discarded: Rc::clone(&discarded), routing: Rc::clone(&routing) };
        let worker = Worker::new(
            config,
            1,
            FakeBroker(Rc::clone(&kafka)),
            plugins,
            FakeLookups { kafka: Rc::clone(&kafka), names: Rc::clone(&names) },
            Notes(Rc::clone(&notes)),
        );
        Self { worker, kafka, names, notes, discarded, routing }
    }

    /// The worker takes this routing at its next step.
    pub(crate) fn reroute(&self, routing: Routing) {
        *self.routing.borrow_mut() = Some(Arc::new(routing));
    }

    /// A worker that has taken over all partitions. The calls up to here are forgotten.
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
        rig.run();
        rig.kafka().calls.clear();
        rig
    }

    pub(crate) fn kafka(&self) -> RefMut<'_, Kafka> {
        self.kafka.borrow_mut()
    }

    pub(crate) fn names(&self) -> RefMut<'_, Names> {
        self.names.borrow_mut()
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
            let before = self.kafka().calls.len();
            if let Next::After(wait) = self.step()? {
                self.kafka().now += wait;
            }
            quiet = if self.kafka().calls.len() == before { quiet + 1 } else { 0 };
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
