//! A request that was held up in the network arrives when nobody remembers it.
//!
//! A broker takes an EndTxn request for the transaction that its producer has open at that time, whichever it was sent
//! for: it names the producer id and epoch only. So after a connection was lost the next transaction needs a new epoch.

use std::process::Command;

use anyhow::{Result, ensure};
use switchboard_tests::app::LONG;
use switchboard_tests::host::{mutant, switchboard};
use switchboard_tests::proxy::Api;

use crate::stage::Stage;

/// Runs a host whose end of a transaction is held back and arrives while a later transaction is open, which the host does
/// not live to end. Returns the ids of the lines that are there in the end, and the error that the broker gave the late
/// request.
fn a_late_end(host: impl Fn() -> Result<Command>) -> Result<(Vec<u32>, i16)> {
    let command = host()?;
    let stage = Stage::new()?;
    let mut first = Stage::start("late", command, stage.proxy())?;
    stage.send(1)?;
    assert_eq!(stage.ids(1)?, [1]);

    // The end of the transaction that routes the record: the retry on a new connection succeeds.
    let end = stage.network.hold(Api::EndTxn);
    stage.send(2)?;
    let version = end.wait(LONG)?;
    ensure!(
        version < 5,
        "with EndTxn v5 each transaction has an epoch of its own (KIP-890): this case is none any more"
    );
    let offsets = stage.network.hold(Api::TxnOffsetCommit);
    end.cut();
    // The transaction that processes it has written its outputs, and its offsets are under way.
    offsets.wait(LONG)?;
    let answer = end.deliver()?;
    first.kill()?;
    drop(offsets);

    let mut second = Stage::start("late", host()?, stage.proxy())?;
    stage.send(3)?;
    let ids = stage.ids(3)?;
    assert!(second.terminate(LONG)?.success());
    // Correlation id, throttle time (4 bytes each), then the error.
    Ok((ids, i16::from_be_bytes([answer[8], answer[9]])))
}

#[test]
fn an_end_of_a_transaction_that_arrives_late_ends_no_other_one() -> Result<()> {
    let (ids, error) = a_late_end(switchboard)?;
    assert_eq!(ids, [1, 2, 3]);
    assert_ne!(error, 0, "the broker refused the late request");
    Ok(())
}

/// The same without the rule: the broker commits half a transaction, and the next host does it again.
#[test]
fn without_a_new_epoch_after_doubt_it_does() -> Result<()> {
    let (ids, error) = a_late_end(|| mutant("no-new-epoch-after-doubt"))?;
    assert_eq!(error, 0, "the broker took the late request");
    assert_eq!(ids, [1, 2, 2, 3]);
    Ok(())
}
