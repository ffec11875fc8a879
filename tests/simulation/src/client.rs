//! The worker's Kafka client: what librdkafka does between a call and the brokers, and all that can go wrong there.
//!
//! Before a call takes effect, and before its answer is there, others go on: `suspend` gives the turn back to the
//! schedule, which may never give it again (a crash), or late (a stopped process).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use corosensei::Yielder;
use switchboard_core::envelope::Record;
use switchboard_core::worker::{Broker, Consumed, Destination, Event, Fault, NotNow, Partition, Restored, Start};

use crate::faults::{Faults, Kind};
use crate::kafka::{ClientId, Cluster, Consumer, Error, NotTaken, Place, ProducerId, Refusal, Request};

/// Why a worker gives its turn back.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Turn {
    /// It is in the middle of a call.
    Call,
    /// It waits for so long.
    Wait(Duration),
}

/// Values that contain this are refused by the broker in output topics.
pub(crate) const POISON: &str = "poison";
/// Values that contain this are refused by the broker in any topic.
pub(crate) const TOXIC: &str = "toxic";

/// How long a call waits before it says «again».
const CALL: Duration = Duration::from_secs(1);

/// What all workers of a schedule share.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) faults: Faults,
}

struct Producer {
    epoch: i32,
    suspect: bool,
    /// Handed over, not written yet.
    queue: VecDeque<(Place, Record)>,
    /// Why the transaction can only be aborted.
    failed: Option<Fault>,
    /// Whether the coordinator knows of the transaction.
    begun: bool,
}

/// How a request of the producer fares.
enum Fare {
    Arrives,
    /// It arrives, and the answer is lost.
    Unanswered,
    /// The client gives it up; it arrives some time later, or never.
    GivenUp {
        late: bool,
    },
    /// A first copy is held up on a connection that broke; the client's retry on a new one arrives.
    Twice,
}

pub(crate) struct Client<'a> {
    world: Rc<RefCell<World>>,
    turn: &'a Yielder<(), Turn>,
    id: ClientId,
    /// Stands for the transactional id: one a slot, and all that ever run in it.
    transactional_id: ProducerId,
    instance: Option<u32>,
    producer: Option<Producer>,
    /// Shard -> position in its changelog.
    restoring: BTreeMap<i32, i64>,
}

impl<'a> Client<'a> {
    /// For a member of the group that is to join.
    pub(crate) fn new(
        world: Rc<RefCell<World>>,
        turn: &'a Yielder<(), Turn>,
        id: ClientId,
        transactional_id: ProducerId,
        instance: Option<u32>,
    ) -> Self {
        Self { world, turn, id, transactional_id, instance, producer: None, restoring: BTreeMap::new() }
    }

    /// For `--trace`.
    fn tell(&self, call: &str, what: &dyn std::fmt::Debug) {
        tracing::trace!(client = self.id, now = ?self.on(|cluster| cluster.now), "{call} {what:?}");
    }

    fn suspend(&self, turn: Turn) {
        self.turn.suspend(turn);
    }

    fn on<T>(&self, act: impl FnOnce(&mut Cluster) -> T) -> T {
        act(&mut self.world.borrow_mut().cluster)
    }

    fn on_consumer<T>(&self, act: impl FnOnce(&mut Consumer) -> T) -> T {
        self.on(|cluster| act(cluster.group.client(self.id)))
    }

    /// Whether the schedule has a fault for this call.
    fn strikes(&self, kind: Kind) -> bool {
        let World { cluster, faults } = &mut *self.world.borrow_mut();
        faults.strikes(kind, cluster)
    }

    /// The call takes its time and says «again».
    fn again<T>(&self, what: &str) -> Result<T, Fault> {
        self.suspend(Turn::Wait(CALL));
        Err(Fault::Retriable(what.into()))
    }

    fn not_now<T>(&self, what: &str) -> Result<T, NotNow> {
        self.suspend(Turn::Wait(CALL / 2));
        Err(NotNow(what.into()))
    }

    fn producer(&mut self) -> Result<&mut Producer, Fault> {
        self.producer.as_mut().ok_or_else(|| Fault::Fatal("there is no producer".into()))
    }

    fn epoch(&mut self) -> Result<i32, Fault> {
        self.producer().map(|producer| producer.epoch)
    }

    /// Writes the first of what is queued.
    fn write(&mut self) {
        let id = self.transactional_id;
        let Some(producer) = &mut self.producer else { return };
        let Some((place, record)) = producer.queue.pop_front() else { return };
        let contains = |word: &str| record.value.as_deref().is_some_and(|value| contains(value, word));
        if contains(TOXIC) || place == Place::Outputs && contains(POISON) {
            producer.failed.get_or_insert(Fault::Refused("a record that no broker takes".into()));
            return;
        }
        match self.world.borrow_mut().cluster.produce(id, producer.epoch, place, &record) {
            Ok(()) => producer.begun = true,
            // librdkafka asks again by itself.
            Err(Error::Transaction(Refusal::Concurrent)) => producer.queue.push_front((place, record)),
            Err(error) => {
                tracing::trace!(client = self.id, "produce {error:?}");
                producer.failed.get_or_insert(fault(error));
            }
        }
    }

    fn fare(&self) -> Fare {
        if !self.strikes(Kind::Request) {
            return Fare::Arrives;
        }
        let dice = self.on(|cluster| cluster.random.u8(0..5));
        match dice {
            0 => Fare::Unanswered,
            1 => Fare::GivenUp { late: false },
            2 => Fare::GivenUp { late: true },
            _ => Fare::Twice,
        }
    }

    /// Sends a request of the producer; what becomes of it the schedule says.
    fn request(
        &mut self,
        request: Request,
        send: impl Fn(&mut Cluster, i32) -> Result<(), Error>,
    ) -> Result<(), Fault> {
        let (id, epoch) = (self.transactional_id, self.epoch()?);
        match self.fare() {
            Fare::Arrives => self.on(|cluster| send(cluster, epoch)).map_err(fault),
            Fare::Unanswered => {
                let _ = self.on(|cluster| send(cluster, epoch));
                Err(self.given_up())
            }
            Fare::GivenUp { late } => {
                if late {
                    self.on(|cluster| cluster.hold(id, epoch, request));
                }
                Err(self.given_up())
            }
            Fare::Twice => {
                self.on(|cluster| cluster.hold(id, epoch, request));
                self.producer()?.suspect = true;
                self.on(|cluster| send(cluster, epoch)).map_err(fault)
            }
        }
    }

    /// The ways in which librdkafka tells that it does not know.
    fn given_up(&self) -> Fault {
        let text = "no answer".to_owned();
        if self.on(|cluster| cluster.random.bool()) { Fault::Fatal(text) } else { Fault::TimedOut(text) }
    }

    fn end(&mut self, commit: bool) -> Result<(), Fault> {
        self.suspend(Turn::Call);
        if self.strikes(Kind::Slow) {
            return self.again("EndTxn is under way");
        }
        if !self.producer()?.begun {
            // Nothing was written: the coordinator is not asked.
            self.producer()?.failed = None;
            return Ok(());
        }
        if commit && self.strikes(Kind::Abortable) {
            return Err(Fault::Abortable("the coordinator will not commit".into()));
        }
        let id = self.transactional_id;
        let ended = self.request(Request::End { commit }, |cluster, epoch| {
            cluster.transactions.end(id, epoch, commit).map_err(Error::from)
        });
        self.tell(if commit { "commit" } else { "abort" }, &ended);
        self.suspend(Turn::Call);
        match ended {
            // The decision is made, and librdkafka's own retry is told so.
            Err(Fault::Retriable(_)) | Ok(()) => {
                let producer = self.producer()?;
                (producer.begun, producer.failed) = (false, None);
                Ok(())
            }
            failed => failed,
        }
    }
}

fn contains(value: &[u8], word: &str) -> bool {
    value.windows(word.len()).any(|window| window == word.as_bytes())
}

/// What librdkafka makes of an answer.
fn fault(error: Error) -> Fault {
    match error {
        Error::Transaction(Refusal::Concurrent) => Fault::Retriable("CONCURRENT_TRANSACTIONS".into()),
        Error::Transaction(Refusal::Fenced) => Fault::Fenced("PRODUCER_FENCED".into()),
        Error::Transaction(Refusal::NoTransaction) => Fault::Fatal("INVALID_TXN_STATE".into()),
        Error::Group(NotTaken::Stale) => Fault::Abortable("ILLEGAL_GENERATION".into()),
        Error::Group(NotTaken::Fenced) => Fault::FencedInstance("FENCED_INSTANCE_ID".into()),
    }
}

impl Broker for Client<'_> {
    fn now(&self) -> Duration {
        self.on(|cluster| cluster.now)
    }

    fn poll(&mut self, wait: Duration) -> Event {
        for last in [false, true] {
            if self.strikes(Kind::Consumer) {
                self.on_consumer(|consumer| consumer.fail("the consumer is of no more use"));
            }
            let event = self.on(|cluster| {
                let consumer = cluster.group.client(self.id);
                if let Some(event) = consumer.next_event() {
                    return event;
                }
                let reading: Vec<_> = consumer.reading().collect();
                // What is there does not always come at once.
                if cluster.random.u8(0..6) == 0 {
                    return Event::Nothing;
                }
                let from = cluster.random.usize(0..reading.len().max(1));
                for (partition, position) in reading[from..].iter().chain(&reading[..from]) {
                    let Some((offset, record)) = cluster.logs[&Place::Consumed(*partition)].read(*position) else {
                        continue;
                    };
                    let consumed = Consumed { partition: *partition, offset, record: record.clone() };
                    cluster.group.client(self.id).read(*partition, offset);
                    return Event::Record(consumed);
                }
                Event::Nothing
            });
            if event != Event::Nothing || wait.is_zero() || last {
                if event != Event::Nothing {
                    self.tell("poll", &event);
                }
                return event;
            }
            self.suspend(Turn::Wait(wait));
        }
        Event::Nothing
    }

    fn stable_offsets(&mut self, partitions: &[Partition]) -> Result<Vec<Option<i64>>, NotNow> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        self.suspend(Turn::Call);
        if self.strikes(Kind::Slow) {
            return self.not_now("no answer");
        }
        let offsets = self.on(|cluster| cluster.group.stable_offsets(partitions));
        self.tell("stable_offsets", &(partitions, &offsets));
        self.suspend(Turn::Call);
        match offsets {
            Some(offsets) => Ok(offsets),
            None => self.not_now("UNSTABLE_OFFSET_COMMIT"),
        }
    }

    fn log_bounds(&mut self, partition: Partition) -> Result<Range<i64>, NotNow> {
        Ok(self.on(|cluster| cluster.log(Place::Consumed(partition)).stable_bounds()))
    }

    fn assign(&mut self, starts: &[Start]) {
        self.on_consumer(|consumer| {
            consumer.answer_assigned();
            for start in starts {
                consumer.assign(start.partition, start.offset, start.paused);
            }
        });
    }

    fn unassign(&mut self, partitions: &[Partition]) {
        self.tell("unassign", &partitions);
        self.on(|cluster| cluster.group.answer_revoked(self.id, partitions));
    }

    fn pause(&mut self, partitions: &[Partition]) {
        self.on_consumer(|consumer| partitions.iter().for_each(|partition| consumer.pause(*partition, true)));
    }

    fn resume(&mut self, partitions: &[Partition]) {
        self.on_consumer(|consumer| partitions.iter().for_each(|partition| consumer.pause(*partition, false)));
    }

    fn changelog_end(&mut self, shard: i32) -> Result<i64, NotNow> {
        self.suspend(Turn::Call);
        if self.strikes(Kind::Slow) {
            return self.not_now("no answer");
        }
        let end = self.on(|cluster| cluster.log(Place::Changelog(shard)).high_watermark());
        self.suspend(Turn::Call);
        Ok(end)
    }

    fn changelog_stable_bounds(&mut self, shard: i32) -> Result<Range<i64>, NotNow> {
        self.suspend(Turn::Call);
        Ok(self.on(|cluster| cluster.log(Place::Changelog(shard)).stable_bounds()))
    }

    fn start_restore(&mut self, shard: i32, bounds: Range<i64>) {
        self.restoring.insert(shard, bounds.start);
    }

    fn poll_restore(&mut self, _: Duration) -> Restored {
        self.suspend(Turn::Call);
        let shards: Vec<_> = self.restoring.keys().copied().collect();
        let Some(shard) = self.on(|cluster| cluster.random.choice(shards)) else { return Restored::Nothing };
        if self.strikes(Kind::SlowRestore) {
            return Restored::Nothing;
        }
        let position = self.restoring[&shard];
        let read = self.on(|cluster| {
            let log = cluster.log(Place::Changelog(shard));
            log.read(position).map(|(offset, record)| (offset, record.clone()))
        });
        match read {
            Some((offset, record)) => {
                self.restoring.insert(shard, offset + 1);
                Restored::Record { shard, key: record.key.unwrap_or_default(), value: record.value }
            }
            None => {
                self.tell("restored", &(shard, position));
                Restored::End { shard }
            }
        }
    }

    fn stop_restore(&mut self, shard: i32) {
        self.restoring.remove(&shard);
    }

    fn is_live_member(&self) -> bool {
        self.on_consumer(|consumer| consumer.is_live())
    }

    fn producer_is_suspect(&self) -> bool {
        self.producer.as_ref().is_none_or(|producer| producer.suspect)
    }

    fn renew_producer(&mut self) -> Result<(), Fault> {
        self.producer = None;
        self.suspend(Turn::Call);
        if self.strikes(Kind::Slow) {
            return self.again("InitProducerId is under way");
        }
        match self.on(|cluster| cluster.transactions.init(self.transactional_id)) {
            Ok(epoch) => {
                self.tell("epoch", &epoch);
                self.suspend(Turn::Call);
                let queue = VecDeque::new();
                self.producer = Some(Producer { epoch, suspect: false, queue, failed: None, begun: false });
                Ok(())
            }
            Err(refusal) => {
                self.suspend(Turn::Wait(Duration::from_millis(20)));
                Err(fault(refusal.into()))
            }
        }
    }

    fn begin(&mut self) -> Result<(), Fault> {
        if self.strikes(Kind::Abortable) {
            return Err(Fault::Fatal("the producer is of no more use".into()));
        }
        self.producer().map(|producer| producer.failed = None)
    }

    fn send(&mut self, destination: Destination<'_>, record: &Record) -> Result<(), Fault> {
        if self.strikes(Kind::Slow) {
            return self.again("the queue is full");
        }
        let (place, mut record) = (
            match destination {
                Destination::Output(_) => Place::Outputs,
                Destination::Shard(shard) => Place::Consumed(Partition::Shard(shard)),
                Destination::Changelog(shard) => Place::Changelog(shard),
                Destination::DeadLetters => Place::DeadLetters,
            },
            record.clone(),
        );
        if let Destination::Output(token) = destination {
            // One log for all outputs: each says of which topic it is.
            record.headers.add("topic", token);
        }
        self.producer()?.queue.push_back((place, record));
        // Batches leave when they like.
        if self.on(|cluster| cluster.random.u8(0..4)) == 0 {
            self.write();
            self.suspend(Turn::Call);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Fault> {
        self.suspend(Turn::Call);
        if self.strikes(Kind::Slow) {
            self.write();
            return self.again("records are not yet written");
        }
        if self.strikes(Kind::Abortable) {
            self.write();
            return Err(Fault::Abortable("a record was not written".into()));
        }
        if self.strikes(Kind::Request) {
            let (id, epoch) = (self.transactional_id, self.epoch()?);
            if let Some((place, record)) = self.producer()?.queue.pop_front() {
                self.on(|cluster| cluster.hold(id, epoch, Request::Produce { place, record }));
            }
            return Err(self.given_up());
        }
        while !self.producer()?.queue.is_empty() && self.producer()?.failed.is_none() {
            let before = self.producer()?.queue.len();
            self.write();
            if self.producer()?.queue.len() == before || self.on(|cluster| cluster.random.u8(0..4)) == 0 {
                self.suspend(Turn::Call);
            }
        }
        self.producer()?.failed.clone().map_or(Ok(()), Err)
    }

    fn send_offsets(&mut self, offsets: &[(Partition, i64)]) -> Result<(), Fault> {
        self.suspend(Turn::Call);
        if self.strikes(Kind::Slow) {
            return self.again("TxnOffsetCommit is under way");
        }
        // Kafka takes offsets without a member's id and generation from anybody: a client must not send such.
        let metadata = self.on_consumer(|consumer| consumer.metadata());
        if metadata.is_none() {
            return Err(Fault::NotAMember("no member id or generation".into()));
        }
        let (id, offsets) = (self.transactional_id, offsets.to_vec());
        let sent = self.request(Request::Offsets { metadata, offsets: offsets.clone() }, |cluster, epoch| {
            cluster.add_offsets(id, epoch, metadata, &offsets)
        });
        self.tell("send_offsets", &(&offsets, &sent));
        self.producer()?.begun = true;
        self.suspend(Turn::Call);
        sent
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.end(true)
    }

    fn abort(&mut self) -> Result<(), Fault> {
        self.producer()?.queue.clear();
        self.end(false)
    }

    fn restart(&mut self) -> Result<(), Fault> {
        self.suspend(Turn::Call);
        if self.strikes(Kind::Abortable) {
            return Err(Fault::Fatal("no consumer can be made".into()));
        }
        self.tell("restart", &());
        self.producer = None;
        self.restoring.clear();
        self.on(|cluster| {
            let Cluster { group, random, .. } = cluster;
            group.leave(self.id, random);
            group.clients.insert(self.id, Consumer::new(self.instance));
        });
        Ok(())
    }
}
