//! What workers did in their transactions. The topics do not show all of it: a message may be settled without any output.
//!
//! A note is a record of a log that no worker knows. It is written with the transaction that it is about, and so committed
//! or aborted with it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use switchboard_core::record::{Class, Coordinates, Offset, Record, TenantId, Timestamp};
use switchboard_core::routing::{Digest, LastRun};
use switchboard_core::worker::{Load, Observer, Partition, Settled, Verdict};

use crate::client::World;
use crate::kafka::{ClientId, Cluster, Place};
use crate::plugins::number;

/// What a worker did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// A message is settled. `release`: the one that handled it, or skipped it. `dead`: why it is a dead letter. `read_by`: the
    /// routing of its process when it read the source record itself. `taken_by`: the same, or when it read the record in the
    /// shard.
    Settled {
        origin: Coordinates,
        release: Option<u8>,
        dead: Option<Class>,
        read_by: Option<usize>,
        taken_by: Option<usize>,
    },
    /// The tenant's entry in the changelog.
    LastRun(LastRun),
    /// The migrations that the tenant's state has seen, in the changelog.
    Migrations(String),
    /// A record was sent to the repartition topic. `read_by`: the routing of its process when it was read, as `Note::applied`.
    Repartitioned { origin: Coordinates, read_by: Option<usize> },
}

#[derive(Debug, Clone)]
pub(crate) struct Note {
    /// The client, and the number of its transaction.
    pub(crate) transaction: (ClientId, u32),
    /// The routing of the process: an index of `Control::handed`.
    pub(crate) applied: Option<usize>,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) action: Action,
}

/// All notes, whether their transactions are committed or not.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    all: Vec<Note>,
    /// The current transaction of each client.
    transactions: BTreeMap<ClientId, u32>,
    /// Notes of the current transaction that the producer does not have yet.
    staged: BTreeMap<ClientId, Vec<Note>>,
    /// The routing of a client when it read a record of a source topic.
    read_by: BTreeMap<(ClientId, Partition, Offset), usize>,
    /// The same, also when it read the record in a shard, and the first time that it did.
    taken_by: BTreeMap<(ClientId, Partition, Offset), usize>,
    /// How often a tenant's messages had to wait for another routing.
    pub(crate) waits: u64,
    /// What each client has to do.
    pub(crate) loads: BTreeMap<ClientId, Load>,
}

impl Notes {
    pub(crate) fn begin(&mut self, client: ClientId) {
        *self.transactions.entry(client).or_default() += 1;
        self.staged.remove(&client);
    }

    pub(crate) fn add(&mut self, client: ClientId, applied: Option<usize>, tenant: Option<TenantId>, action: Action) {
        let transaction = (client, self.transactions.get(&client).copied().unwrap_or(0));
        self.staged.entry(client).or_default().push(Note { transaction, applied, tenant, action });
    }

    /// A client read a record: in its source, or in a shard.
    pub(crate) fn read(
        &mut self,
        client: ClientId,
        (partition, offset): (Partition, Offset),
        from_source: bool,
        applied: usize,
    ) {
        if from_source {
            self.read_by.insert((client, partition, offset), applied);
        }
        self.taken_by.entry((client, partition, offset)).or_insert(applied);
    }

    /// The routing of a client when it read this record.
    pub(crate) fn read_by(&self, client: ClientId, partition: Partition, offset: Offset) -> Option<usize> {
        self.read_by.get(&(client, partition, offset)).copied()
    }

    /// The staged notes as records for the log of notes.
    pub(crate) fn records(&mut self, client: ClientId) -> Vec<Record> {
        let first = self.all.len();
        self.all.append(&mut self.staged.remove(&client).unwrap_or_default());
        let record = |place: usize| Record {
            timestamp: i64::try_from(place).ok().map(Timestamp::from_millis),
            ..Record::default()
        };
        (first..self.all.len()).map(record).collect()
    }

    /// The notes of committed transactions, in order, one list for each transaction.
    pub(crate) fn committed(&self, cluster: &Cluster) -> Vec<Vec<&Note>> {
        let mut transactions: Vec<Vec<&Note>> = Vec::new();
        let mut places = BTreeMap::new();
        for (_, record) in cluster.logs[&Place::Notes].committed() {
            let place = record.timestamp.and_then(|place| usize::try_from(place.as_millis()).ok());
            let note = &self.all[place.expect("as `records` wrote it")];
            let place = *places.entry(note.transaction).or_insert(transactions.len());
            if place == transactions.len() {
                transactions.push(Vec::new());
            }
            transactions[place].push(note);
        }
        transactions
    }
}

/// A worker's observer.
pub(crate) struct Witness {
    pub(crate) world: Rc<RefCell<World>>,
    pub(crate) id: ClientId,
}

impl Observer for Witness {
    fn settled(&mut self, Settled { origin, tenant, release, verdict }: Settled<'_>) {
        let World { cluster, control, notes, .. } = &mut *self.world.borrow_mut();
        let release = release.map(|release| number(release.digest));
        let dead = if let Verdict::DeadLetter(letter) = verdict { Some(letter.class) } else { None };
        let source = cluster.source(origin);
        let read_by = source.and_then(|source| notes.read_by(self.id, source, origin.offset));
        let taken_by = source.and_then(|source| notes.taken_by.get(&(self.id, source, origin.offset)).copied());
        let action = Action::Settled { origin: origin.clone(), release, dead, read_by, taken_by };
        notes.add(self.id, control.applied.get(&self.id).copied(), tenant.cloned(), action);
    }

    fn load(&mut self, load: &Load) {
        self.world.borrow_mut().notes.loads.insert(self.id, *load);
    }

    fn waits(&mut self, _: &TenantId, _: Option<Digest>, _: &str) {
        self.world.borrow_mut().notes.waits += 1;
    }
}
