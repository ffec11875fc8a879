//! The order of begin, send, flush, offsets, commit and abort. No other module calls these.
//!
//! An open transaction is a value that only `commit` and `abort` consume. Staged state becomes committed state only in
//! exchange for the receipt that `commit` returns.

use std::time::Duration;

use super::fault::{Cause, Fault};
use super::ports::{Clock, Destination, GroupOffset, Partition, Producer};
use crate::record::Record;

/// How long a transaction may be open (`transaction.timeout.ms`). The outcome of a call that is retried for longer is
/// unknown.
pub(super) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The proof of an acknowledged commit.
#[derive(Debug)]
pub struct Receipt(());

#[cfg(feature = "mutations")]
impl Receipt {
    /// A receipt before there is a commit: a mistake.
    pub(super) fn premature() -> Option<Self> {
        mutated!("promote-before-commit").then_some(Self(()))
    }
}

/// How a transaction ended without a commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing of it is visible. Its results are sent again; `renew`: by a new producer, whose epoch ends the transaction for sure.
    Aborted { fault: Fault, renew: bool },
    /// It may be committed or not, and others may have taken over. Only what Kafka holds is certain.
    Unclear(Cause),
    /// Another process has our identity.
    Fenced(Cause),
}

/// An open transaction.
pub(super) struct Transaction<'a, B: Producer> {
    broker: &'a mut B,
    began: Duration,
}

impl<'a, B: Producer> Transaction<'a, B> {
    /// Opens a transaction.
    pub(super) fn begin(broker: &'a mut B) -> Result<Self, Failure> {
        match broker.begin() {
            Ok(()) => {
                let began = broker.now();
                Ok(Self { broker, began })
            }
            Err(Fault::Fenced(why) | Fault::FencedInstance(why)) => Err(Failure::Fenced(why)),
            Err(fault) => Err(Failure::Aborted { fault, renew: true }),
        }
    }

    /// Hands a record over. After a fault the transaction can only be aborted.
    pub(super) fn send(&mut self, destination: Destination<'_>, record: &Record) -> Result<(), Fault> {
        again(self.broker, |broker| broker.send(destination, record))
    }

    /// Waits until all that was handed over is written.
    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        again(self.broker, B::flush)
    }

    /// Writes all records, then the offsets, then commits. Aborts the transaction if that fails.
    pub(super) fn commit(mut self, offsets: &[(Partition, GroupOffset)]) -> Result<Receipt, Failure> {
        // The offsets go last. Once they are pending, the next owner of the shard waits for the end of this transaction, and
        // by then its changelog records must be written.
        // Rule: send-offsets-last.
        if let Err(fault) = self.flush() {
            return Err(self.abort(fault, false));
        }
        // Rule: send-membership-with-offsets.
        if !self.broker.is_live_member() && !mutated!("no-fence") {
            let fault =
                Fault::Abortable("this member is no longer in the group; its offsets would not be fenced".into());
            return Err(self.abort(fault, false));
        }
        if mutated!("offsets-outside-the-transaction") {
            let committed = again(self.broker, B::commit).and_then(|()| self.broker.begin());
            committed.map_err(|fault| Failure::Unclear(fault.to_string().into()))?;
        }
        if !offsets.is_empty()
            && let Err(fault) = again(self.broker, |broker| broker.send_offsets(offsets))
        {
            return Err(self.abort(fault, true));
        }
        match again(self.broker, B::commit) {
            Ok(()) => Ok(Receipt(())),
            // The coordinator answered that it will not commit: none of these leaves a commit behind.
            Err(fault @ (Fault::Abortable(_) | Fault::Refused(_) | Fault::NotAMember(_))) => {
                Err(self.abort(fault, true))
            }
            Err(Fault::Fenced(why)) => Err(self.fenced(why)),
            Err(Fault::FencedInstance(why)) => Err(Failure::Fenced(why)),
            Err(Fault::Retriable(why) | Fault::TimedOut(why) | Fault::Fatal(why)) => Err(Failure::Unclear(why)),
        }
    }

    /// Aborts because of `fault`. `renew`: the next transaction needs a new producer in any case.
    pub(super) fn abort(self, fault: Fault, renew: bool) -> Failure {
        match fault {
            Fault::Fenced(why) => return self.fenced(why),
            Fault::FencedInstance(why) => return Failure::Fenced(why),
            _ => {}
        }
        let broken = matches!(fault, Fault::Fatal(_));
        // A request that timed out may still arrive.
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

impl<B: Producer> Transaction<'_, B> {
    /// The coordinator aborts a transaction that is open for too long, and raises the epoch. That fences a process that was
    /// stopped in the middle of a transaction, though nobody else has its transactional id. Such a process may go on. If
    /// another process does have the id, one of the two is fenced again, in a transaction that is not old.
    fn fenced(&self, why: Cause) -> Failure {
        let open = self.broker.now().saturating_sub(self.began);
        if open >= TRANSACTION_TIMEOUT {
            let text = format!("the transaction was open for {open:.1?}, the broker ended it: {why}");
            return Failure::Unclear(Cause { text, ..why });
        }
        Failure::Fenced(why)
    }
}

/// Repeats a call while its fault is retriable, up to `TRANSACTION_TIMEOUT`.
pub(super) fn again<B: Clock, T>(broker: &mut B, mut call: impl FnMut(&mut B) -> Result<T, Fault>) -> Result<T, Fault> {
    let mut started = None;
    loop {
        match call(broker) {
            Err(Fault::Retriable(why)) => {
                let now = broker.now();
                if now.saturating_sub(*started.get_or_insert(now)) >= TRANSACTION_TIMEOUT {
                    return Err(Fault::TimedOut(why));
                }
            }
            result => return result,
        }
    }
}
