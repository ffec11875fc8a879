//! The worker's Kafka client: what librdkafka does between a call and the brokers, and what can fail there.
//!
//! Other processes run before a call takes effect, and before it returns. `suspend` gives the turn back to the schedule. The
//! schedule may never resume the process (a crash), or resume it late (a stopped process).
//!
//! `consumer` is the half that reads, `producer` the half that writes in transactions.

mod consumer;
mod producer;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corosensei::Yielder;
use switchboard_core::record::{Offset, Record, ShardId};
use switchboard_core::worker::{
    Changelog, Clock, Consumer, Destination, Event, Fault, GroupOffset, NotNow, Partition, Producer, Restored, Start,
};

use crate::control::Control;
use crate::executors::{Takeovers, Wake, Work};
use crate::faults::{Faults, Kind};
use crate::kafka::{ClientId, Cluster, ProducerId};
use crate::notes::Notes;
use consumer::Consuming;
use producer::Producing;

pub(crate) use producer::{POISON, TOXIC};

/// Why a worker gives its turn back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Turn {
    /// It is in the middle of a call.
    Call,
    /// It waits for this time.
    Wait(Duration),
}

/// How long a call takes before it returns `Fault::Retriable`.
const CALL: Duration = Duration::from_secs(1);

/// Everything that the workers of a schedule share.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) faults: Faults,
    pub(crate) control: Control,
    pub(crate) notes: Notes,
    pub(crate) takeovers: Takeovers,
    /// What the executors did.
    pub(crate) work: Work,
    /// When the last job finishes. An abandoned job holds its messages in memory, and its worker may have no room until then.
    pub(crate) busy_until: Duration,
    /// The inputs that may be handled again, as an operator lost the list of settled records.
    pub(crate) again: BTreeSet<usize>,
    /// What was committed before an operator damaged it.
    pub(crate) originals: BTreeMap<Partition, GroupOffset>,
    /// Something that no worker may do.
    pub(crate) problem: Option<String>,
}

impl World {
    pub(crate) fn new(cluster: Cluster, faults: Faults, control: Control) -> Self {
        Self {
            cluster,
            faults,
            control,
            notes: Notes::default(),
            takeovers: Takeovers::default(),
            work: Work::default(),
            busy_until: Duration::ZERO,
            again: BTreeSet::new(),
            originals: BTreeMap::new(),
            problem: None,
        }
    }
}

/// How a process reaches the brokers, and gives its turn back.
#[derive(Clone)]
struct Line<'a> {
    world: Rc<RefCell<World>>,
    turn: &'a Yielder<(), Turn>,
    id: ClientId,
    wake: Wake,
}

impl Line<'_> {
    /// For `--trace`.
    fn trace(&self, call: &str, what: &dyn std::fmt::Debug) {
        tracing::trace!(client = self.id, now = ?self.on(|cluster| cluster.now), "{call} {what:?}");
    }

    fn suspend(&self, turn: Turn) {
        self.turn.suspend(turn);
    }

    fn on<T>(&self, act: impl FnOnce(&mut Cluster) -> T) -> T {
        act(&mut self.world.borrow_mut().cluster)
    }

    /// Whether the schedule has a fault for this call.
    fn strikes(&self, kind: Kind) -> bool {
        let World { cluster, faults, .. } = &mut *self.world.borrow_mut();
        faults.strikes(kind, cluster)
    }

    /// Whether the coordinators are on their way to another broker. The schedule may send them there now.
    fn coordinators_move(&self) -> bool {
        let starts = self.strikes(Kind::Coordinator);
        self.on(|cluster| {
            if starts {
                cluster.coordinators_back = cluster.now + Duration::from_millis(cluster.random.u64(1..4000));
            }
            cluster.now < cluster.coordinators_back
        })
    }

    /// The call takes some time and has to be repeated.
    fn again<T>(&self, what: &str) -> Result<T, Fault> {
        self.suspend(Turn::Wait(CALL));
        Err(Fault::Retriable(what.into()))
    }

    fn not_now<T>(&self, what: &str) -> Result<T, NotNow> {
        self.suspend(Turn::Wait(CALL / 2));
        Err(NotNow(what.into()))
    }
}

pub(crate) struct Client<'a> {
    line: Line<'a>,
    consuming: Consuming<'a>,
    producing: Producing<'a>,
}

impl<'a> Client<'a> {
    /// For a member of the group that is to join.
    pub(crate) fn new(
        world: Rc<RefCell<World>>,
        turn: &'a Yielder<(), Turn>,
        id: ClientId,
        transactional_id: ProducerId,
        wake: Wake,
    ) -> Self {
        let line = Line { world, turn, id, wake };
        let consuming = Consuming::new(line.clone(), transactional_id);
        let producing = Producing::new(line.clone(), transactional_id);
        Self { line, consuming, producing }
    }
}

impl Clock for Client<'_> {
    fn now(&self) -> Duration {
        self.line.on(|cluster| cluster.now)
    }
}

impl Consumer for Client<'_> {
    fn join(&mut self) -> Result<(), Fault> {
        self.consuming.join()
    }

    fn leave(&mut self) {
        self.consuming.leave();
    }

    fn consume(&mut self, aliases: &[Arc<str>], consumed: &[usize]) {
        self.consuming.consume(aliases, consumed);
    }

    fn partition_count(&mut self, topic: usize) -> u32 {
        self.consuming.partition_count(topic)
    }

    fn poll(&mut self, wait: Duration) -> Event {
        let event = self.consuming.poll(wait);
        if let Event::Record(consumed) = &event {
            let World { cluster, control, notes, .. } = &mut *self.line.world.borrow_mut();
            let source = match consumed.partition {
                Partition::Source { .. } => Some((self.consuming.at_brokers(consumed.partition), consumed.offset)),
                Partition::Shard(_) => cluster.repartitioned(&consumed.record),
            };
            let from_source = matches!(consumed.partition, Partition::Source { .. });
            let applied = control.applied.get(&self.line.id).expect("a worker without a routing has not joined");
            if let Some((source, offset)) = source {
                notes.read(self.line.id, (source, offset), from_source, *applied);
            }
        }
        event
    }

    fn stable_offsets(&mut self, partitions: &[Partition]) -> Result<Vec<Option<GroupOffset>>, NotNow> {
        self.consuming.stable_offsets(partitions)
    }

    fn log_bounds(&mut self, partition: Partition) -> Result<Range<Offset>, NotNow> {
        Ok(self.consuming.log_bounds(partition))
    }

    fn accept_assignment(&mut self) {
        self.consuming.accept_assignment();
    }

    fn give_back(&mut self, shards: &[ShardId]) {
        self.consuming.give_back(shards);
    }

    fn start(&mut self, starts: &[Start]) {
        self.consuming.start(starts);
    }

    fn stop(&mut self, sources: &[Partition]) {
        self.consuming.stop(sources);
    }

    fn pause(&mut self, partitions: &[Partition]) {
        self.consuming.pause(partitions);
    }

    fn seek(&mut self, partition: Partition, offset: Offset) {
        self.consuming.seek(partition, offset);
    }

    fn resume(&mut self, partitions: &[Partition]) {
        self.consuming.resume(partitions);
    }
}

impl Changelog for Client<'_> {
    fn changelog_end(&mut self, shard: ShardId) -> Result<Offset, NotNow> {
        self.consuming.changelog_end(shard)
    }

    fn changelog_stable_bounds(&mut self, shard: ShardId) -> Result<Range<Offset>, NotNow> {
        Ok(self.consuming.changelog_stable_bounds(shard))
    }

    fn start_restore(&mut self, shard: ShardId, bounds: Range<Offset>) {
        self.consuming.start_restore(shard, bounds);
    }

    fn poll_restore(&mut self, _: Duration) -> Restored {
        self.consuming.poll_restore()
    }

    fn stop_restore(&mut self, shard: ShardId) {
        self.consuming.stop_restore(shard);
    }
}

impl Producer for Client<'_> {
    fn is_live_member(&self) -> bool {
        self.consuming.is_live_member()
    }

    fn producer_is_suspect(&self) -> bool {
        self.producing.producer_is_suspect()
    }

    fn renew_producer(&mut self) -> Result<(), Fault> {
        self.producing.renew_producer()
    }

    fn drop_producer(&mut self) {
        self.producing.close();
    }

    fn begin(&mut self) -> Result<(), Fault> {
        self.producing.begin()
    }

    fn send(&mut self, destination: Destination<'_>, record: &Record) -> Result<(), Fault> {
        self.producing.send(destination, record)
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.producing.flush()
    }

    fn send_offsets(&mut self, offsets: &[(Partition, GroupOffset)]) -> Result<(), Fault> {
        let offsets: Vec<_> =
            offsets.iter().map(|(partition, offset)| (self.consuming.at_brokers(*partition), offset.clone())).collect();
        self.producing.send_offsets(|| self.consuming.membership(), &offsets)
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.producing.commit()
    }

    fn abort(&mut self) -> Result<(), Fault> {
        self.producing.abort()
    }
}
