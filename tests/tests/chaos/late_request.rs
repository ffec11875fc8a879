//! Can a delayed EndTxn request end a later transaction?
//!
//! An EndTxn request names only the producer's id and epoch. A broker applies it to the transaction that the producer
//! has open at that time, even if the request was sent for an earlier one. So after a lost connection the next
//! transaction needs a new epoch.

use std::process::Command;

use anyhow::{Result, ensure};
use switchboard_tests::app::WAIT_LIMIT;
use switchboard_tests::host::{mutant, switchboard};
use switchboard_tests::proxy::Api;

use crate::proxied_broker::ProxiedBroker;

/// Runs a host whose EndTxn request is held back and arrives while a later transaction is open. The host is killed
/// before it ends that transaction. Returns the ids of all lines at the end, and the broker's error code for the late
/// request.
fn delay_end_of_transaction(host: impl Fn() -> Result<Command>) -> Result<(Vec<u32>, i16)> {
    let command = host()?;
    let setup = ProxiedBroker::new()?;
    let mut first = ProxiedBroker::start("late", command, setup.proxy())?;
    setup.send(1)?;
    assert_eq!(setup.ids(1)?, [1]);
    // From here on a record is one transaction: it goes directly to its shard. The transaction of record 2 is the first of
    // that kind, and none that belongs to the opening of the path follows it.
    first.wait_for("its direct path", WAIT_LIMIT, |line| line.contains("direct paths open=1"))?;
    setup.send(2)?;
    assert_eq!(setup.ids(2)?, [1, 2]);

    // The end of a record's transaction. Its retry on a new connection succeeds.
    let end = setup.network.hold(Api::EndTxn);
    setup.send(3)?;
    let version = end.wait(WAIT_LIMIT)?;
    ensure!(version < 5, "with EndTxn v5 each transaction has an epoch of its own (KIP-890), so this test is obsolete");
    let offsets = setup.network.hold(Api::TxnOffsetCommit);
    setup.send(4)?;
    end.cut();
    // The next record's transaction has written its outputs, and is sending its offsets.
    offsets.wait(WAIT_LIMIT)?;
    let answer = end.deliver()?;
    first.kill()?;
    drop(offsets);

    let mut second = ProxiedBroker::start("late", host()?, setup.proxy())?;
    setup.send(5)?;
    let ids = setup.ids(5)?;
    assert!(second.terminate(WAIT_LIMIT)?.success());
    // Correlation id, throttle time (4 bytes each), then the error.
    Ok((ids, i16::from_be_bytes([answer[8], answer[9]])))
}

#[test]
fn a_late_end_of_a_transaction_ends_no_other_transaction() -> Result<()> {
    let (ids, error) = delay_end_of_transaction(switchboard)?;
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    assert_ne!(error, 0, "the broker refused the late request");
    Ok(())
}

/// The same without a new epoch: the broker commits half a transaction, and the next host repeats it.
#[test]
fn without_a_new_epoch_a_late_end_of_a_transaction_ends_another() -> Result<()> {
    let (ids, error) = delay_end_of_transaction(|| mutant("no-new-epoch-after-doubt"))?;
    assert_eq!(error, 0, "the broker accepted the late request");
    assert_eq!(ids, [1, 2, 3, 4, 4, 5]);
    Ok(())
}
