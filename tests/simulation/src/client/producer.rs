//! The transactional producer.

use std::collections::VecDeque;
use std::time::Duration;

use switchboard_core::record::{Record, Repartitioned, TenantId, from_repartitioned};
use switchboard_core::routing::LastRun;
use switchboard_core::state::decode_key;
use switchboard_core::worker::{Cause, Destination, Fault, GroupOffset, KafkaErrorCode, Partition};

use super::{Line, Turn, World};
use crate::faults::Kind;
use crate::kafka::{Cluster, Error, Membership, NotTaken, Place, ProducerId, Refusal, Request};
use crate::notes::Action;
use crate::plugins::TRACE;

/// Values that contain this are refused by the broker in output topics.
pub(crate) const POISON: &str = "poison";
/// Values that contain this are refused by the broker in any topic.
pub(crate) const TOXIC: &str = "toxic";

/// In Kafka's protocol.
const OFFSET_METADATA_TOO_LARGE: KafkaErrorCode = KafkaErrorCode::new(12);

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

/// What happens to a request of the producer.
enum Delivery {
    Arrives,
    /// It arrives, and the answer is lost.
    Unanswered,
    /// The client gives up. The request arrives some time later, or never.
    GivenUp {
        late: bool,
    },
    /// The first copy is held up on a connection that broke. The client's retry on a new connection arrives.
    Twice,
}

/// The transactional producer.
pub(super) struct Producing<'a> {
    line: Line<'a>,
    /// The transactional id: one for each slot, and the same for all processes that run there.
    transactional_id: ProducerId,
    producer: Option<Producer>,
}

impl<'a> Producing<'a> {
    pub(super) fn new(line: Line<'a>, transactional_id: ProducerId) -> Self {
        Self { line, transactional_id, producer: None }
    }

    fn producer(&mut self) -> Result<&mut Producer, Fault> {
        self.producer.as_mut().ok_or_else(|| Fault::Fatal("there is no producer".into()))
    }

    fn epoch(&mut self) -> Result<i32, Fault> {
        self.producer().map(|producer| producer.epoch)
    }

    /// Writes the first record of the queue.
    fn write(&mut self) {
        let id = self.transactional_id;
        let Some(producer) = &mut self.producer else { return };
        let Some((place, record)) = producer.queue.pop_front() else { return };
        let contains = |word: &str| record.value.as_deref().is_some_and(|value| contains(value, word));
        if contains(TOXIC) || place == Place::Outputs && contains(POISON) {
            producer.failed.get_or_insert(Fault::Refused("a record that no broker takes".into()));
            return;
        }
        match self.line.world.borrow_mut().cluster.produce(id, producer.epoch, place, &record) {
            Ok(()) => producer.begun = true,
            // librdkafka repeats the request by itself.
            Err(Error::Transaction(Refusal::Concurrent)) => producer.queue.push_front((place, record)),
            Err(error) => {
                tracing::trace!(client = self.line.id, "produce {error:?}");
                producer.failed.get_or_insert(fault(error));
            }
        }
    }

    fn delivery(&self) -> Delivery {
        if !self.line.strikes(Kind::Request) {
            return Delivery::Arrives;
        }
        let dice = self.line.on(|cluster| cluster.random.u8(0..5));
        match dice {
            0 => Delivery::Unanswered,
            1 => Delivery::GivenUp { late: false },
            2 => Delivery::GivenUp { late: true },
            _ => Delivery::Twice,
        }
    }

    /// Sends a request. The schedule decides what happens to it.
    fn request(
        &mut self,
        request: Request,
        send: impl Fn(&mut Cluster, i32) -> Result<(), Error>,
    ) -> Result<(), Fault> {
        let (id, epoch) = (self.transactional_id, self.epoch()?);
        match self.delivery() {
            Delivery::Arrives => self.line.on(|cluster| send(cluster, epoch)).map_err(fault),
            Delivery::Unanswered => {
                let _ = self.line.on(|cluster| send(cluster, epoch));
                Err(self.given_up())
            }
            Delivery::GivenUp { late } => {
                if late {
                    self.line.on(|cluster| cluster.hold(id, epoch, request));
                }
                Err(self.given_up())
            }
            Delivery::Twice => {
                self.line.on(|cluster| cluster.hold(id, epoch, request));
                self.producer()?.suspect = true;
                self.line.on(|cluster| send(cluster, epoch)).map_err(fault)
            }
        }
    }

    /// The faults by which librdkafka says that the outcome is unknown.
    fn given_up(&self) -> Fault {
        let text = "no answer".into();
        if self.line.on(|cluster| cluster.random.bool()) { Fault::Fatal(text) } else { Fault::TimedOut(text) }
    }

    fn end(&mut self, commit: bool) -> Result<(), Fault> {
        self.line.suspend(Turn::Call);
        if self.line.strikes(Kind::Slow) || self.line.coordinators_move() {
            return self.line.again("EndTxn is under way");
        }
        if !self.producer()?.begun {
            // Nothing was written, so the coordinator gets no request.
            self.producer()?.failed = None;
            return Ok(());
        }
        if commit && self.line.strikes(Kind::Abortable) {
            return Err(Fault::Abortable("the coordinator will not commit".into()));
        }
        // Executors go on meanwhile.
        let takes = self.line.on(|cluster| cluster.random.u64(0..=cluster.slowest_end));
        self.line.suspend(Turn::Wait(Duration::from_millis(takes)));
        let id = self.transactional_id;
        let ended = self.request(Request::End { commit }, |cluster, epoch| {
            cluster.transactions.end(id, epoch, commit).map_err(Error::from)
        });
        self.line.trace(if commit { "commit" } else { "abort" }, &ended);
        self.line.suspend(Turn::Call);
        match ended {
            // The transaction is decided. librdkafka's own retry gets that answer.
            Err(Fault::Retriable(_)) | Ok(()) => {
                let producer = self.producer()?;
                (producer.begun, producer.failed) = (false, None);
                Ok(())
            }
            failed => failed,
        }
    }

    pub(super) fn producer_is_suspect(&self) -> bool {
        self.producer.as_ref().is_none_or(|producer| producer.suspect)
    }

    pub(super) fn renew_producer(&mut self) -> Result<(), Fault> {
        self.producer = None;
        self.line.suspend(Turn::Call);
        if self.line.strikes(Kind::Slow) || self.line.coordinators_move() {
            return self.line.again("InitProducerId is under way");
        }
        match self.line.on(|cluster| cluster.transactions.init(self.transactional_id)) {
            Ok(epoch) => {
                self.line.trace("epoch", &epoch);
                self.line.suspend(Turn::Call);
                let queue = VecDeque::new();
                self.producer = Some(Producer { epoch, suspect: false, queue, failed: None, begun: false });
                Ok(())
            }
            Err(refusal) => {
                self.line.suspend(Turn::Wait(Duration::from_millis(20)));
                Err(fault(refusal.into()))
            }
        }
    }

    pub(super) fn begin(&mut self) -> Result<(), Fault> {
        if self.line.strikes(Kind::Abortable) {
            return Err(Fault::Fatal("the producer is unusable".into()));
        }
        self.line.world.borrow_mut().notes.begin(self.line.id);
        self.producer().map(|producer| producer.failed = None)
    }

    pub(super) fn send(&mut self, destination: Destination<'_>, record: &Record) -> Result<(), Fault> {
        if self.line.strikes(Kind::Slow) {
            return self.line.again("the queue is full");
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
        match destination {
            Destination::Changelog(_) => self.note_change(&record),
            Destination::Shard(_) => self.note_repartitioned(&record),
            Destination::Output(_) | Destination::DeadLetters => {}
        }
        if let Destination::Output(alias) = destination {
            // All outputs are in one log, so each has a header with its topic.
            record.headers.add("topic", alias);
        }
        self.producer()?.queue.push_back((place, record));
        // librdkafka sends batches at any time.
        if self.line.on(|cluster| cluster.random.u8(0..4)) == 0 {
            self.write();
            self.line.suspend(Turn::Call);
        }
        Ok(())
    }

    fn note_change(&self, Record { key, value, .. }: &Record) {
        let Ok((tenant, key)) = decode_key(key.as_deref().unwrap_or_default()) else { return };
        let value = value.as_deref().unwrap_or_default();
        let action = match key {
            LastRun::KEY => Action::LastRun(LastRun::decode(value).expect("as it was encoded")),
            TRACE => Action::Migrations(String::from_utf8_lossy(value).into_owned()),
            _ => return,
        };
        let World { control, notes, .. } = &mut *self.line.world.borrow_mut();
        let applied = control.applied.get(&self.line.id).copied();
        notes.add(self.line.id, applied, Some(TenantId::new(tenant)), action);
    }

    fn note_repartitioned(&self, record: &Record) {
        let Ok(Repartitioned { origin, .. }) = from_repartitioned(record.clone(), &[]) else { return };
        let World { cluster, control, notes, .. } = &mut *self.line.world.borrow_mut();
        let Some(partition) = cluster.source(&origin) else { return };
        let applied = control.applied.get(&self.line.id).copied();
        let read_by = notes.read_by(self.line.id, partition, origin.offset);
        notes.add(self.line.id, applied, None, Action::Repartitioned { origin, read_by });
    }

    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        let notes = self.line.world.borrow_mut().notes.records(self.line.id);
        self.producer()?.queue.extend(notes.into_iter().map(|note| (Place::Notes, note)));
        self.line.suspend(Turn::Call);
        if self.line.strikes(Kind::Slow) {
            self.write();
            return self.line.again("records are not yet written");
        }
        if self.line.strikes(Kind::Abortable) {
            self.write();
            return Err(Fault::Abortable("a record was not written".into()));
        }
        if self.line.strikes(Kind::Request) {
            let (id, epoch) = (self.transactional_id, self.epoch()?);
            if let Some((place, record)) = self.producer()?.queue.pop_front() {
                self.line.on(|cluster| cluster.hold(id, epoch, Request::Produce { place, record }));
            }
            return Err(self.given_up());
        }
        while !self.producer()?.queue.is_empty() && self.producer()?.failed.is_none() {
            let before = self.producer()?.queue.len();
            self.write();
            if self.producer()?.queue.len() == before || self.line.on(|cluster| cluster.random.u8(0..4)) == 0 {
                self.line.suspend(Turn::Call);
            }
        }
        self.producer()?.failed.clone().map_or(Ok(()), Err)
    }

    pub(super) fn send_offsets(
        &mut self,
        membership: impl Fn() -> Option<Membership>,
        offsets: &[(Partition, GroupOffset)],
    ) -> Result<(), Fault> {
        self.line.suspend(Turn::Call);
        if self.line.strikes(Kind::Slow) || self.line.coordinators_move() {
            return self.line.again("TxnOffsetCommit is under way");
        }
        // Kafka accepts offsets without a member id and a generation from anybody, so a client must not send them.
        let membership = membership();
        if membership.is_none() && !switchboard_core::mutated!("no-fence") {
            return Err(Fault::NotAMember("no member id or generation".into()));
        }
        // As by brokers with a smaller `offset.metadata.max.bytes`. It is refused as a whole, which brokers may do too.
        let has_map = offsets.iter().any(|(_, offset)| !offset.metadata.is_empty());
        if has_map && self.line.strikes(Kind::Map) {
            return Err(fault(Error::Group(NotTaken::MetadataTooLarge)));
        }
        let id = self.transactional_id;
        let sent = self.request(Request::Offsets { membership, offsets: offsets.to_vec() }, |cluster, epoch| {
            cluster.add_offsets(id, epoch, membership, offsets)
        });
        self.line.trace("send_offsets", &(offsets, &sent));
        self.producer()?.begun = true;
        self.line.suspend(Turn::Call);
        sent
    }

    pub(super) fn commit(&mut self) -> Result<(), Fault> {
        self.end(true)
    }

    pub(super) fn abort(&mut self) -> Result<(), Fault> {
        self.producer()?.queue.clear();
        self.end(false)
    }

    /// Drops the producer.
    pub(super) fn close(&mut self) {
        self.producer = None;
    }
}

fn contains(value: &[u8], word: &str) -> bool {
    value.windows(word.len()).any(|window| window == word.as_bytes())
}

/// The fault that librdkafka reports for an answer.
fn fault(error: Error) -> Fault {
    match error {
        Error::Transaction(Refusal::Concurrent) => Fault::Retriable("CONCURRENT_TRANSACTIONS".into()),
        Error::Transaction(Refusal::OtherProducer) => Fault::Fatal("INVALID_PRODUCER_ID_MAPPING".into()),
        Error::Transaction(Refusal::Fenced) => Fault::Fenced("PRODUCER_FENCED".into()),
        Error::Transaction(Refusal::NoTransaction) => Fault::Fatal("INVALID_TXN_STATE".into()),
        Error::Group(NotTaken::Stale) => Fault::Abortable("ILLEGAL_GENERATION".into()),
        Error::Group(NotTaken::MetadataTooLarge) => {
            Fault::Abortable(Cause::new("OFFSET_METADATA_TOO_LARGE", Some(OFFSET_METADATA_TOO_LARGE)))
        }
        Error::Group(NotTaken::Fenced) => Fault::FencedInstance("FENCED_INSTANCE_ID".into()),
    }
}
