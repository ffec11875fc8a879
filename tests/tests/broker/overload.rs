//! More input than the host can do: what it holds of it is bounded, and all of it comes out in order.

use anyhow::{Result, ensure};
use switchboard_tests::app::{App, LONG, answers};
use switchboard_tests::client::Record;

const TENANTS: usize = 8;
const EACH: usize = 1000;
/// Bytes of an ordinary value, and of a large one: as large as a broker takes them by default.
const ORDINARY: usize = 10 << 10;
const LARGE: usize = 1 << 20;
const LARGES: usize = 96;
/// Rounds before the backlog.
const WARM: usize = 20;

/// `--batch-bytes`, and what is read ahead.
const LIMIT: u64 = 1 << 20;

fn padded(app: &App, tenant: &str, partition: usize, number: usize, bytes: usize) -> Result<Record> {
    let mut record = app.word(tenant, &format!("burn 100 {number} "));
    record.value.iter_mut().for_each(|value| value.resize(bytes, b'x'));
    record.partition = Some(i32::try_from(partition)?);
    Ok(record)
}

#[test]
fn what_waits_is_bounded_and_comes_out_in_order() -> Result<()> {
    let app = App::hostile("overload", &["IN"], i32::try_from(TENANTS)?)?.topic_with("OUT", &[])?;
    let limit = LIMIT.to_string();
    let read_ahead = format!("queued.max.messages.kbytes={}", LIMIT >> 10);
    let flags = ["--workers", "1", "--batch-bytes", &limit, "--kafka", &read_ahead];
    let mut host = app.run("overload", &flags)?;
    let tenant = |number: usize| (format!("tenant-{}", number % TENANTS), number % TENANTS);

    // All is warm: what the host needs without a backlog, be it a large record.
    for turn in 0..WARM {
        let mut records = vec![padded(&app, "large", turn % TENANTS, turn, LARGE)?];
        for number in turn * TENANTS..(turn + 1) * TENANTS {
            let (tenant, partition) = tenant(number);
            records.push(padded(&app, &tenant, partition, number, ORDINARY)?);
        }
        app.client.produce(&records)?;
        app.wait_for("OUT", (turn + 1) * (TENANTS + 1))?;
    }
    let (_, before) = host.memory()?;

    // Large ones stand at the front of every partition, where one fetch could bring them all.
    for turn in 0..LARGES / TENANTS {
        let large = (0..TENANTS).map(|partition| padded(&app, "large", partition, turn, LARGE));
        app.client.produce(&large.collect::<Result<Vec<_>>>()?)?;
    }
    for turn in WARM..EACH {
        let numbers = turn * TENANTS..(turn + 1) * TENANTS;
        let records = numbers.map(|number| {
            let (tenant, partition) = tenant(number);
            padded(&app, &tenant, partition, number, ORDINARY)
        });
        app.client.produce(&records.collect::<Result<Vec<_>>>()?)?;
    }
    app.wait_for("OUT", TENANTS * EACH + LARGES + WARM)?;

    let (_, most) = host.memory()?;
    assert!(host.terminate(LONG)?.success());
    let outputs = app.client.read_all(app.topic("OUT"))?;
    ensure!(outputs.len() == TENANTS * EACH + LARGES + WARM, "{} outputs", outputs.len());
    for number in 0..TENANTS {
        let expected: Vec<_> = (0..EACH).map(|turn| (turn * TENANTS + number).to_string()).collect();
        assert_eq!(answers(&outputs, &tenant(number).0), expected, "tenant-{number}");
    }
    // Read ahead, one fetch, two batches, one more in the producer; each may go beyond its limit by one record. All of it
    // is there several times: as it came, as a record, in a request, and in what the allocator keeps.
    let held = 6 * (5 * LIMIT + 5 * LARGE as u64);
    let came = (TENANTS * EACH * ORDINARY + LARGES * LARGE) as u64;
    let grown = most.saturating_sub(before);
    eprintln!("{} MiB more at most, for {} MiB of input", grown >> 20, came >> 20);
    ensure!(held < came / 2, "too little input to say anything");
    ensure!(grown <= held, "{} MiB more at most, expected: {}", grown >> 20, held >> 20);
    Ok(())
}
