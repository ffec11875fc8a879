//! Do hosts share the work as members of a group, and is nothing lost when members join, leave or take over?

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use switchboard_tests::app::{App, WAIT_LIMIT, answers};
use switchboard_tests::client::Record;
use switchboard_tests::host::Host;
use switchboard_tests::kafka::Kafka;
use switchboard_tests::progress;

const PARTITIONS: i32 = 4;

/// Waits until the host has been assigned partitions.
fn wait_for_partitions(host: &Host) -> Result<()> {
    host.wait_for("its partitions", WAIT_LIMIT, |line| line.contains(" shards assigned")).map(drop)
}

/// Messages `count` of many tenants, spread over all partitions.
fn counts(app: &App, tenants: usize, each: usize) -> Vec<Record> {
    let tenants = (0..tenants * each).map(|number| number % tenants);
    let record = |tenant: usize| Record {
        partition: i32::try_from(tenant).ok().map(|tenant| tenant % PARTITIONS),
        ..app.word(&format!("tenant-{tenant}"), "count")
    };
    tenants.map(record).collect()
}

/// Checks that each tenant has counted to `each`: no message was lost, repeated or overtaken.
fn assert_counted(outputs: &[Record], tenants: usize, each: usize) {
    let expected: Vec<_> = (1..=each).map(|count| count.to_string()).collect();
    for tenant in 0..tenants {
        assert_eq!(answers(outputs, &format!("tenant-{tenant}")), expected, "tenant-{tenant}");
    }
    assert_eq!(outputs.len(), tenants * each);
}

#[test]
fn several_workers_share_the_tenants() -> Result<()> {
    let app = App::hostile("workers", &["IN"], PARTITIONS)?.topic_with("OUT", &[])?;
    app.client.produce(&counts(&app, 40, 25))?;
    let mut host = app.run("workers", &["--members", "3"])?;
    app.client.produce(&counts(&app, 40, 25))?;
    app.wait_for("OUT", 2000)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    assert_counted(&app.client.read_all(app.topic("OUT"))?, 40, 50);
    Ok(())
}

#[test]
fn a_stopped_member_leaves_at_once_whether_idle_or_busy() -> Result<()> {
    let app = App::hostile("leave", &["IN"], PARTITIONS)?.topic_with("OUT", &[])?;
    // The session time-out is longer than any wait of this test, so no progress comes from its end.
    let worker = ["--members", "1", "--batch-records", "20", "--session-timeout-ms", "1200000"];
    let mut idle = app.run("idle", &worker)?;
    let mut busy = app.run("busy", &worker)?;
    wait_for_partitions(&busy)?;

    assert_eq!(idle.terminate(WAIT_LIMIT)?.code(), Some(0));
    app.client.produce(&counts(&app, 20, 1))?;
    app.wait_for("OUT", 20)?;

    let mut last = app.run("last", &worker)?;
    wait_for_partitions(&last)?;
    app.client.produce(&counts(&app, 20, 499))?;
    app.wait_for("OUT", 200)?;
    assert_eq!(busy.terminate(WAIT_LIMIT)?.code(), Some(0));
    app.wait_for("OUT", 20 * 500)?;
    assert!(last.terminate(WAIT_LIMIT)?.success());
    assert_counted(&app.client.read_all(app.topic("OUT"))?, 20, 500);
    Ok(())
}

#[test]
fn of_two_hosts_with_the_same_instance_the_older_ends_and_says_why() -> Result<()> {
    let app = App::hostile("fenced", &["IN"], PARTITIONS)?.topic_with("OUT", &[])?;
    let older = app.run("older", &["--instance", "same"])?;
    app.client.produce(&counts(&app, 10, 10))?;
    app.wait_for("OUT", 100)?;
    let mut newer = app.run("newer", &["--instance", "same"])?;
    app.client.produce(&counts(&app, 10, 10))?;

    let (status, log) = older.end(WAIT_LIMIT)?;
    assert_eq!(status.code(), Some(1));
    let last = log.last().map_or("", String::as_str);
    assert!(last.starts_with("switchboard: another process") && last.contains("--instance"), "{last}");
    app.wait_for("OUT", 200)?;
    assert!(newer.terminate(WAIT_LIMIT)?.success());
    assert_counted(&app.client.read_all(app.topic("OUT"))?, 10, 20);
    Ok(())
}

/// A member of the application's group that is assigned partitions of a source topic, as one of a former version was.
fn former_member(app: &App) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", Kafka::shared().bootstrap())
        .set("group.id", &app.name)
        .set("client.id", format!("{}-former", app.name))
        .set("session.timeout.ms", "6000");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[app.topic("IN")])?;
    progress::wait_until("the former member's assignment", || {
        // Takes part in the rebalance.
        let _ = consumer.poll(Duration::from_millis(100));
        Ok(consumer.assignment()?.count() > 0)
    })?;
    Ok(consumer)
}

#[test]
fn a_group_with_members_of_a_former_version_is_refused_with_what_to_do() -> Result<()> {
    let app = App::hostile("former", &["IN", "OUT"], 2)?;
    let former = former_member(&app)?;
    let (status, log) = app.start("refused", &[])?.end(WAIT_LIMIT)?;
    assert_eq!(status.code(), Some(1));
    let last = log.last().map_or("", String::as_str);
    let assigned = format!("{}-former at /127.0.0.1 is assigned partitions of {}", app.name, app.topic("IN"));
    for word in ["switchboard: the group", &assigned, "Stop all hosts of the older version first"] {
        assert!(last.contains(word), "{word:?} is not in: {last}");
    }
    let (status, lines) = app.doctor(&[])?;
    assert_eq!(status.code(), Some(1));
    assert!(lines.iter().any(|line| line.contains("PROBLEM") && line.contains(&assigned)), "{lines:#?}");

    drop(former);
    app.client.produce(&[app.word("a", "count")])?;
    let mut host = app.run("alone", &[])?;
    app.wait_for("OUT", 1)?;
    // A further host finds the members of this version only.
    let mut second = app.run("second", &[])?;
    assert!(second.terminate(WAIT_LIMIT)?.success());
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}

#[test]
fn a_new_application_can_start_at_the_end_of_its_topics() -> Result<()> {
    let app = App::hostile("latest", &["IN", "OUT"], 1)?;
    app.client.produce(&["echo early", "echo early"].map(|word| app.word("a", word)))?;
    let _host = app.run("latest", &["--start-from", "latest"])?;
    let mut reader = app.client.reader(&[app.topic("OUT")])?;
    // No log line says when the host has found the end. Records that are sent before are early too.
    progress::wait_until("an output", || {
        app.client.produce(&[app.word("a", "echo late")])?;
        Ok(reader.until("an output", Duration::from_millis(500), |outputs| !outputs.is_empty()).is_ok())
    })?;
    let outputs = app.client.read_all(app.topic("OUT"))?;
    assert!(answers(&outputs, "a").iter().all(|answer| *answer == "late"), "{outputs:?}");
    Ok(())
}

#[test]
fn a_partition_with_deleted_unprocessed_records_is_halted_and_the_others_continue() -> Result<()> {
    let app = App::hostile("deleted", &["IN"], 2)?.topic_with("OUT", &[])?;
    let send = |partition, word| -> Result<i64> {
        let record = Record { partition: Some(partition), ..app.word(&format!("tenant-{partition}"), word) };
        Ok(app.client.produce(&[record])?[0].1)
    };
    let mut host = app.run("before", &[])?;
    send(0, "count")?;
    send(1, "count")?;
    app.wait_for("OUT", 2)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());

    send(0, "count")?;
    app.client.delete_records(app.topic("IN"), 0, 2)?;
    send(0, "count")?;
    send(1, "count")?;
    let mut host = app.run("after", &[])?;
    let line = host.wait_for("the halted partition", WAIT_LIMIT, |line| line.contains("partition halted"))?;
    for word in ["ERROR", "committed offset 1", "log's start 2", "restart"] {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
    assert_eq!(answers(&app.wait_for("OUT", 3)?, "tenant-1"), ["1", "2"]);
    send(1, "count")?;
    assert_eq!(answers(&app.wait_for("OUT", 4)?, "tenant-1"), ["1", "2", "3"]);
    assert!(host.terminate(WAIT_LIMIT)?.success());
    let outputs = app.client.read_all(app.topic("OUT"))?;
    let by_tenant: BTreeMap<_, _> =
        ["tenant-0", "tenant-1"].into_iter().map(|tenant| (tenant, answers(&outputs, tenant).len())).collect();
    assert_eq!(by_tenant, BTreeMap::from([("tenant-0", 1), ("tenant-1", 3)]));
    assert_eq!(app.client.committed(&app.name, app.topic("IN"))?[0], Some(1));
    Ok(())
}
