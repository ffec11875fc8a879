//! What workers did in their transactions, beside what readers of the topics see: a message may be settled without any
//! output. Notes are records of a log that no worker knows, written and committed with the transaction that they tell
//! of.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use switchboard_core::record::{Coordinates, Offset, Record, TenantId, Timestamp};
use switchboard_core::routing::{Digest, LastRun};
use switchboard_core::worker::{Observer, Partition, Settled, Verdict};

use crate::client::World;
use crate::kafka::{ClientId, Cluster, Place};
use crate::plugins::number;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A message is done with; `release`: the one that it was meant for, if it came to that.
    Settled { source: Coordinates, release: Option<u8>, dead: bool },
    /// The tenant's entry in the changelog.
    LastRun(LastRun),
    /// A message is in the repartition topic; what its process went by when it read it, as `Note::applied`.
    Repartitioned { source: Coordinates, read_by: Option<usize> },
}

#[derive(Debug, Clone)]
pub(crate) struct Note {
    /// Of a client the one with this number.
    pub(crate) transaction: (ClientId, u32),
    /// What the process went by: its place in `Control::handed`.
    pub(crate) applied: Option<usize>,
    pub(crate) tenant: Option<TenantId>,
    pub(crate) deed: Deed,
}

/// All notes, of whatever became of their transactions.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    all: Vec<Note>,
    /// The current transaction of each client.
    transactions: BTreeMap<ClientId, u32>,
    /// Taken since then, and not yet handed to the producer.
    staged: BTreeMap<ClientId, Vec<Note>>,
    /// What a client went by when it read a source's record.
    read_by: BTreeMap<(ClientId, Partition, Offset), usize>,
    /// How often a tenant's messages had to wait for another routing.
    pub(crate) waits: u64,
}

impl Notes {
    pub(crate) fn begin(&mut self, client: ClientId) {
        *self.transactions.entry(client).or_default() += 1;
        self.staged.remove(&client);
    }

    pub(crate) fn add(&mut self, client: ClientId, applied: Option<usize>, tenant: Option<TenantId>, deed: Deed) {
        let transaction = (client, self.transactions.get(&client).copied().unwrap_or(0));
        self.staged.entry(client).or_default().push(Note { transaction, applied, tenant, deed });
    }

    /// A client was given a source's record.
    pub(crate) fn read(&mut self, client: ClientId, partition: Partition, offset: Offset, applied: usize) {
        self.read_by.insert((client, partition, offset), applied);
    }

    /// What it went by when it was.
    pub(crate) fn read_by(&self, client: ClientId, partition: Partition, offset: Offset) -> Option<usize> {
        self.read_by.get(&(client, partition, offset)).copied()
    }

    /// As records for the log of notes.
    pub(crate) fn records(&mut self, client: ClientId) -> Vec<Record> {
        let first = self.all.len();
        self.all.append(&mut self.staged.remove(&client).unwrap_or_default());
        let record = |place: usize| Record {
            timestamp: i64::try_from(place).ok().map(Timestamp::from_millis),
            ..Record::default()
        };
        (first..self.all.len()).map(record).collect()
    }

    /// Those of committed transactions, in order, a transaction at a time.
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
        let World { control, notes, .. } = &mut *self.world.borrow_mut();
        let release = release.map(|release| number(release.digest));
        let dead = matches!(verdict, Verdict::DeadLetter(_));
        let deed = Deed::Settled { source: origin.clone(), release, dead };
        notes.add(self.id, control.applied.get(&self.id).copied(), tenant.cloned(), deed);
    }

    fn waits(&mut self, _: &TenantId, _: Option<Digest>, _: &str) {
        self.world.borrow_mut().notes.waits += 1;
    }
}
