//! The order of begin, send, flush, offsets, commit and abort: nobody else calls these.
//!
//! An open transaction is a value that only `commit` and `abort` consume, and committed state can only be had for the
//! receipt that `commit` gives.

use std::collections::BTreeMap;
use std::time::Duration;

use super::broker::{Broker, Cause, Destination, Fault, Partition};
use crate::record::{Offset, Record};

/// How long a transaction may be open (`transaction.timeout.ms`). A call that says «again» for longer has an unknown
/// outcome.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Proof of an acknowledged commit.
#[derive(Debug)]
pub struct Receipt(());

/// How a transaction ended that was not committed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing of it is visible, nor will be once the next producer has its epoch. The batch runs again.
    Aborted { fault: Fault, renew: bool },
    /// It may be committed, or not, and others may have taken over: only what Kafka holds can tell.
    Unclear(Cause),
    /// Our identity is somebody else's.
    Fenced(Cause),
}

/// An open transaction.
pub(super) struct Transaction<'a, B: Broker> {
    broker: &'a mut B,
    began: Duration,
    offsets: BTreeMap<Partition, Offset>,
}

impl<'a, B: Broker> Transaction<'a, B> {
    pub(super) fn begin(broker: &'a mut B) -> Result<Self, Failure> {
        match broker.begin() {
            Ok(()) => {
                let began = broker.now();
                Ok(Self { broker, began, offsets: BTreeMap::new() })
            }
            Err(Fault::Fenced(why) | Fault::FencedInstance(why)) => Err(Failure::Fenced(why)),
            Err(fault) => Err(Failure::Aborted { fault, renew: true }),
        }
    }

    pub(super) fn began(&self) -> Duration {
        self.began
    }

    pub(super) fn now(&self) -> Duration {
        self.broker.now()
    }

    /// Hands a record over. After a fault the transaction can only be aborted.
    pub(super) fn send(&mut self, destination: Destination<'_>, record: &Record) -> Result<(), Fault> {
        again(self.broker, |broker| broker.send(destination, record))
    }

    /// Waits until all that was handed over is written.
    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        again(self.broker, B::flush)
    }

    /// The record at `offset` is done with.
    pub(super) fn consumed(&mut self, partition: Partition, offset: Offset) {
        self.offsets.insert(partition, offset.next());
    }

    /// The partition is read from this offset on.
    pub(super) fn starts_at(&mut self, partition: Partition, offset: Offset) {
        self.offsets.entry(partition).or_insert(offset);
    }

    /// Writes all records, then the offsets, then commits. A transaction that is not committed is aborted.
    pub(super) fn commit(mut self) -> Result<Receipt, Failure> {
        // Offsets last: once they are pending the next owner waits for this transaction's end, so that all it wrote to
        // the changelog is there to be waited for.
        if let Err(fault) = self.flush() {
            return Err(self.abort(fault, false));
        }
        if !self.broker.is_live_member() {
            let fault =
                Fault::Abortable("this member is no longer in the group; its offsets would not be fenced".into());
            return Err(self.abort(fault, false));
        }
        let offsets: Vec<_> = self.offsets.iter().map(|(partition, offset)| (*partition, *offset)).collect();
        if !offsets.is_empty()
            && let Err(fault) = again(self.broker, |broker| broker.send_offsets(&offsets))
        {
            return Err(self.abort(fault, true));
        }
        match again(self.broker, B::commit) {
            Ok(()) => Ok(Receipt(())),
            // The coordinator answered that it will not commit: these never leave a commit behind.
            Err(fault @ (Fault::Abortable(_) | Fault::Refused(_) | Fault::NotAMember(_))) => {
                Err(self.abort(fault, true))
            }
            Err(Fault::Fenced(why)) => Err(self.fenced(why)),
            Err(Fault::FencedInstance(why)) => Err(Failure::Fenced(why)),
            Err(Fault::Retriable(why) | Fault::TimedOut(why) | Fault::Fatal(why)) => Err(Failure::Unclear(why)),
        }
    }

    /// Aborts because of `fault`; `renew`: the next transaction wants a new producer in any case.
    pub(super) fn abort(self, fault: Fault, renew: bool) -> Failure {
        match fault {
            Fault::Fenced(why) => return self.fenced(why),
            Fault::FencedInstance(why) => return Failure::Fenced(why),
            _ => {}
        }
        let broken = matches!(fault, Fault::Fatal(_));
        // A request that was given up may still arrive.
        let renew = renew || broken || matches!(fault, Fault::TimedOut(_));
        match if broken { Ok(()) } else { again(self.broker, B::abort) } {
            Ok(()) => Failure::Aborted { fault, renew },
            Err(Fault::Fenced(why)) => self.fenced(why),
            Err(Fault::FencedInstance(why)) => Failure::Fenced(why),
            // A new producer's epoch ends it.
            Err(_) => Failure::Aborted { fault, renew: true },
        }
    }
}

impl<B: Broker> Transaction<'_, B> {
    /// The coordinator ends what is open for too long, with an epoch of its own: whoever was stopped in the middle of a
    /// transaction is fenced by that, and may go on under its name. If somebody else has that name by now, one of the
    /// two is fenced again, in a transaction that is not old.
    fn fenced(&self, why: Cause) -> Failure {
        let open = self.broker.now().saturating_sub(self.began);
        if open >= PATIENCE {
            let text = format!("the transaction was open for {open:.1?}, the broker ended it: {why}");
            return Failure::Unclear(Cause { text, ..why });
        }
        Failure::Fenced(why)
    }
}

/// Makes a call until it is not «again» any more, or patience ends.
pub(super) fn again<B: Broker, T>(
    broker: &mut B,
    mut call: impl FnMut(&mut B) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut started = None;
    loop {
        match call(broker) {
            Err(Fault::Retriable(why)) => {
                let now = broker.now();
                if now.saturating_sub(*started.get_or_insert(now)) >= PATIENCE {
                    return Err(Fault::TimedOut(why));
                }
            }
            result => return result,
        }
    }
}
