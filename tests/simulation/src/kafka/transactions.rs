//! The transaction coordinator: producer epochs, and how transactions end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Place;
use super::log::ProducerId;

/// `transaction.timeout.ms` of our producers.
const TIME_OUT: Duration = Duration::from_secs(10);

/// How many epochs a producer id has. Kafka's has 32,768; then the transactional id gets a new producer id. Epochs are
/// counted on here, so an epoch tells its producer id too.
const EPOCHS: i32 = 24;

/// Why the transaction coordinator refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// CONCURRENT_TRANSACTIONS: the markers of the last one are still being written. Ask again.
    Concurrent,
    /// There is a newer epoch.
    Fenced,
    /// INVALID_PRODUCER_ID_MAPPING: the epochs of the producer id ran out, and the transactional id has another one.
    OtherProducer,
    /// INVALID_TXN_STATE: there is no such transaction.
    NoTransaction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Ongoing {
        since: Duration,
    },
    /// PrepareCommit or PrepareAbort: decided, but not yet marked everywhere.
    Ending {
        commit: bool,
    },
    Ended {
        commit: bool,
    },
}

#[derive(Debug)]
struct Transaction {
    epoch: i32,
    state: State,
    /// The logs that get a marker at the end.
    places: BTreeSet<Place>,
}

/// The transaction coordinator. It knows producer epochs, which logs a transaction wrote to, and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    by_producer: BTreeMap<ProducerId, Transaction>,
}

impl Transactions {
    /// InitProducerId: a new epoch, once the transaction that the last one left open is aborted and marked.
    pub(crate) fn init(&mut self, producer: ProducerId) -> Result<i32, Refusal> {
        let fresh = Transaction { epoch: -1, state: State::Idle, places: BTreeSet::new() };
        let transaction = self.by_producer.entry(producer).or_insert(fresh);
        match transaction.state {
            State::Ongoing { .. } => {
                // The coordinator aborts with an epoch of its own. It fences the old one.
                transaction.epoch += 1;
                transaction.state = State::Ending { commit: false };
                Err(Refusal::Concurrent)
            }
            State::Ending { .. } => Err(Refusal::Concurrent),
            State::Idle | State::Ended { .. } => {
                transaction.epoch += 1;
                transaction.state = State::Idle;
                Ok(transaction.epoch)
            }
        }
    }

    fn current(&mut self, producer: ProducerId, epoch: i32) -> Result<&mut Transaction, Refusal> {
        match self.by_producer.get_mut(&producer) {
            Some(transaction) if transaction.epoch == epoch => Ok(transaction),
            Some(transaction) if transaction.epoch / EPOCHS != epoch / EPOCHS => Err(Refusal::OtherProducer),
            _ => Err(Refusal::Fenced),
        }
    }

    /// AddPartitionsToTxn, AddOffsetsToTxn: the first one begins the transaction.
    pub(crate) fn add(&mut self, producer: ProducerId, epoch: i32, place: Place, now: Duration) -> Result<(), Refusal> {
        let transaction = self.current(producer, epoch)?;
        match transaction.state {
            State::Ending { .. } => return Err(Refusal::Concurrent),
            State::Ongoing { .. } => {}
            State::Idle | State::Ended { .. } => {
                transaction.state = State::Ongoing { since: now };
                transaction.places.clear();
            }
        }
        transaction.places.insert(place);
        Ok(())
    }

    /// Whether a request may still write here. Brokers ask the coordinator (KIP-890, part 1).
    pub(crate) fn verify(&mut self, producer: ProducerId, epoch: i32, place: Place) -> Result<(), Refusal> {
        let transaction = self.current(producer, epoch)?;
        let ongoing = matches!(transaction.state, State::Ongoing { .. });
        if ongoing && transaction.places.contains(&place) { Ok(()) } else { Err(Refusal::NoTransaction) }
    }

    /// EndTxn. It names a transaction by producer id and epoch alone.
    pub(crate) fn end(&mut self, producer: ProducerId, epoch: i32, commit: bool) -> Result<(), Refusal> {
        let transaction = self.current(producer, epoch)?;
        match transaction.state {
            State::Ongoing { .. } => {
                transaction.state = State::Ending { commit };
                Ok(())
            }
            State::Ending { commit: was } if was == commit => Err(Refusal::Concurrent),
            State::Ended { commit: was } if was == commit => Ok(()),
            _ => Err(Refusal::NoTransaction),
        }
    }

    /// Aborts transactions that are open for too long, with an epoch of the coordinator's own.
    pub(crate) fn time_out(&mut self, now: Duration) {
        for transaction in self.by_producer.values_mut() {
            if matches!(transaction.state, State::Ongoing { since } if now > since + TIME_OUT) {
                transaction.epoch += 1;
                transaction.state = State::Ending { commit: false };
            }
        }
    }

    /// The logs whose markers are not written yet.
    pub(crate) fn unmarked(&self) -> Vec<(ProducerId, Place)> {
        let ending = self.by_producer.iter().filter(|(_, txn)| matches!(txn.state, State::Ending { .. }));
        ending.flat_map(|(producer, txn)| txn.places.iter().map(|place| (*producer, *place))).collect()
    }

    /// The marker of a log is written. Returns whether it commits.
    pub(crate) fn marked(&mut self, producer: ProducerId, place: Place) -> bool {
        let transaction = self.by_producer.get_mut(&producer).expect("it is being ended");
        let State::Ending { commit } = transaction.state else { unreachable!("only these are marked") };
        transaction.places.remove(&place);
        if transaction.places.is_empty() {
            transaction.state = State::Ended { commit };
        }
        commit
    }

    /// Whether no transaction is open and all markers are written.
    pub(crate) fn is_quiet(&self) -> bool {
        self.by_producer.values().all(|txn| matches!(txn.state, State::Idle | State::Ended { .. }))
    }
}
