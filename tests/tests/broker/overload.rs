//! Is the host's memory bounded when it gets more input than it can process, and are all outputs in order?

use anyhow::{Result, ensure};
use switchboard_tests::app::{App, WAIT_LIMIT, answers};
use switchboard_tests::client::Record;

const TENANTS: usize = 8;
const ROUNDS: usize = 1000;
const ORDINARY_VALUE_BYTES: usize = 10 << 10;
/// A broker's default maximum.
const LARGE_VALUE_BYTES: usize = 1 << 20;
const LARGE_RECORDS: usize = 96;
/// The number of rounds before the backlog.
const WARM_UP_ROUNDS: usize = 20;

/// `--batch-bytes`, and the limit of the bytes read ahead.
const BATCH_LIMIT_BYTES: u64 = 1 << 20;

fn padded(app: &App, tenant: &str, partition: usize, number: usize, bytes: usize) -> Result<Record> {
    let mut record = app.word(tenant, &format!("burn 100 {number} "));
    record.value.iter_mut().for_each(|value| value.resize(bytes, b'x'));
    record.partition = Some(i32::try_from(partition)?);
    Ok(record)
}

#[test]
fn waiting_input_is_bounded_and_its_outputs_are_in_order() -> Result<()> {
    let app = App::hostile("overload", &["IN"], i32::try_from(TENANTS)?)?.topic_with("OUT", &[])?;
    let limit = BATCH_LIMIT_BYTES.to_string();
    let read_ahead = format!("queued.max.messages.kbytes={}", BATCH_LIMIT_BYTES >> 10);
    let flags = ["--members", "1", "--batch-bytes", &limit, "--kafka", &read_ahead];
    let mut host = app.run("overload", &flags)?;
    let tenant = |number: usize| (format!("tenant-{}", number % TENANTS), number % TENANTS);

    // Warm-up: the memory that the host needs without a backlog, large records included.
    for turn in 0..WARM_UP_ROUNDS {
        let mut records = vec![padded(&app, "large", turn % TENANTS, turn, LARGE_VALUE_BYTES)?];
        for number in turn * TENANTS..(turn + 1) * TENANTS {
            let (tenant, partition) = tenant(number);
            records.push(padded(&app, &tenant, partition, number, ORDINARY_VALUE_BYTES)?);
        }
        app.client.produce(&records)?;
        app.wait_for("OUT", (turn + 1) * (TENANTS + 1))?;
    }
    let (_, before) = host.memory()?;

    // Every partition begins with large records, which a single fetch could return together.
    for turn in 0..LARGE_RECORDS / TENANTS {
        let large = (0..TENANTS).map(|partition| padded(&app, "large", partition, turn, LARGE_VALUE_BYTES));
        app.client.produce(&large.collect::<Result<Vec<_>>>()?)?;
    }
    for turn in WARM_UP_ROUNDS..ROUNDS {
        let numbers = turn * TENANTS..(turn + 1) * TENANTS;
        let records = numbers.map(|number| {
            let (tenant, partition) = tenant(number);
            padded(&app, &tenant, partition, number, ORDINARY_VALUE_BYTES)
        });
        app.client.produce(&records.collect::<Result<Vec<_>>>()?)?;
    }
    app.wait_for("OUT", TENANTS * ROUNDS + LARGE_RECORDS + WARM_UP_ROUNDS)?;

    let (_, most) = host.memory()?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    let outputs = app.client.read_all(app.topic("OUT"))?;
    ensure!(outputs.len() == TENANTS * ROUNDS + LARGE_RECORDS + WARM_UP_ROUNDS, "{} outputs", outputs.len());
    for number in 0..TENANTS {
        let expected: Vec<_> = (0..ROUNDS).map(|turn| (turn * TENANTS + number).to_string()).collect();
        assert_eq!(answers(&outputs, &tenant(number).0), expected, "tenant-{number}");
    }
    // The records read ahead, one fetch, two batches, and one more in the producer. Each may exceed its limit by one
    // record. Memory holds each of them several times: as received, as a record, in a request, and in the allocator's
    // free lists.
    let held = 6 * (5 * BATCH_LIMIT_BYTES + 5 * LARGE_VALUE_BYTES as u64);
    let came = (TENANTS * ROUNDS * ORDINARY_VALUE_BYTES + LARGE_RECORDS * LARGE_VALUE_BYTES) as u64;
    let grown = most.saturating_sub(before);
    eprintln!("the peak grew by {} MiB, for {} MiB of input", grown >> 20, came >> 20);
    ensure!(held < came / 2, "too little input for a result");
    ensure!(grown <= held, "the peak grew by {} MiB, but at most {} MiB are expected", grown >> 20, held >> 20);
    Ok(())
}
