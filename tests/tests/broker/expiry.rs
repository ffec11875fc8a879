//! Does the host keep every unprocessed record, and does it refuse to guess a lost committed offset?

use anyhow::Result;
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, Producer};
use switchboard_tests::app::{App, WAIT_LIMIT, answers};
use switchboard_tests::host::Host;
use switchboard_tests::kafka::{Kafka, Options};
use switchboard_tests::progress;

/// A stopped application that has processed three records. They are not deleted from the repartition topic yet.
fn has_run(prefix: &str) -> Result<App> {
    let app = App::hostile(prefix, &["IN", "OUT"], 1)?.arg("--shards", "1").arg("--members", "1");
    let mut host = app.run("before", &[])?;
    app.client.produce(&["count", "count", "count"].map(|word| app.word("a", word)))?;
    app.wait_for("OUT", 3)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(app)
}

fn repartition_topic(app: &App) -> String {
    format!("{}-switchboard-repartition", app.name)
}

#[test]
fn a_group_that_lost_its_offsets_is_refused_with_how_to_set_them_and_continues_from_there() -> Result<()> {
    let app = has_run("lost")?;
    let offset = app.client.committed(&app.name, &repartition_topic(&app))?[0].expect("it has processed records");
    app.delete_offsets(app.topic("IN"))?;
    app.delete_offsets(&repartition_topic(&app))?;
    for start_from in ["earliest", "latest"] {
        let (status, log) = app.start("lost", &["--start-from", start_from])?.end(WAIT_LIMIT)?;
        let last = log.last().map_or("", String::as_str);
        assert_eq!(status.code(), Some(1));
        let topics = format!("--group {} --topic {} --topic {}", app.name, app.topic("IN"), repartition_topic(&app));
        for word in ["no offset", "-switchboard-repartition has records", "kafka-consumer-groups.sh", &topics] {
            assert!(last.contains(word), "{word:?} is not in: {last}");
        }
    }
    let (status, lines) = app.doctor(&[])?;
    assert_eq!(status.code(), Some(1));
    assert!(lines.iter().any(|line| line.contains("PROBLEM") && line.contains("no offset of any consumed topic")));

    app.client.set_offset(&app.name, app.topic("IN"), 0, 3)?;
    app.client.set_offset(&app.name, &repartition_topic(&app), 0, offset)?;
    app.client.produce(&[app.word("a", "count")])?;
    let mut host = app.run("set", &[])?;
    assert_eq!(answers(&app.wait_for("OUT", 4)?, "a"), ["1", "2", "3", "4"]);
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}

#[test]
fn source_topics_that_lost_their_offsets_are_refused() -> Result<()> {
    let app = has_run("lost-sources")?;
    app.delete_offsets(app.topic("IN"))?;
    let (status, log) = app.start("lost", &[])?.end(WAIT_LIMIT)?;
    let last = log.last().map_or("", String::as_str);
    assert_eq!(status.code(), Some(1));
    assert!(
        last.contains("has committed offsets") && !last.contains(&format!("--topic {}", repartition_topic(&app))),
        "{last}"
    );
    Ok(())
}

#[test]
fn a_further_source_topic_of_an_existing_application_starts_as_new() -> Result<()> {
    // Only one of the source topics has committed offsets.
    let app = App::messenger("further", 1)?;
    let send = |alias: &str| {
        app.client.produce(&[switchboard_tests::client::Record {
            topic: app.topic(alias).to_owned(),
            value: Some("{}".into()),
            ..Default::default()
        }])
    };
    let mut host = app.run("before", &[])?;
    send("COMMAND_TOPIC_MESSENGER")?;
    app.wait_for_dead_letters(1)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    send("EVENT_TOPIC_INVITE_STATUS")?;
    let mut host = app.run("after", &[])?;
    app.wait_for_dead_letters(2)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}

#[test]
fn a_shard_that_lost_its_offset_is_halted_and_its_records_are_kept() -> Result<()> {
    let app = has_run("lost-shard")?.arg("--purge-interval-ms", "50");
    app.delete_offsets(&repartition_topic(&app))?;
    let before = app.client.read_all(&repartition_topic(&app))?.len();
    let mut host = app.run("halted", &[])?;
    let line = host.wait_for("the halted shard", WAIT_LIMIT, |line| line.contains("partition halted"))?;
    assert!(line.contains("no offset") && line.contains("1 tenants have state"), "{line}");
    app.client.produce(&[app.word("a", "count")])?;
    let mut reader = app.client.reader(&[&repartition_topic(&app)])?;
    reader.until("the repartitioned record", WAIT_LIMIT, |records| records.len() > before)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    assert_eq!(app.client.log_start(&repartition_topic(&app), 0)?, 0);
    assert_eq!(app.client.read_all(app.topic("OUT"))?.len(), 3);
    Ok(())
}

#[test]
fn records_whose_offset_is_pending_in_a_transaction_are_not_deleted() -> Result<()> {
    let app = has_run("pending")?;
    let offset = app.client.committed(&app.name, &repartition_topic(&app))?[0].expect("it has processed records");
    // As if only the first record had been processed, and the others were part of an open transaction.
    app.client.set_offset(&app.name, &repartition_topic(&app), 0, 1)?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", Kafka::shared().bootstrap());
    let producer: BaseProducer = config.clone().set("transactional.id", format!("{}-foreign", app.name)).create()?;
    let consumer: BaseConsumer = config.set("group.id", &app.name).create()?;
    producer.init_transactions(WAIT_LIMIT)?;
    producer.begin_transaction()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&repartition_topic(&app), 0, rdkafka::Offset::Offset(offset))?;
    let membership = consumer.group_metadata().expect("a consumer of a group");
    producer.send_offsets_to_transaction(&list, &membership, WAIT_LIMIT)?;

    let host = app.run("purging", &["--purge-interval-ms", "50"])?;
    host.wait_for("a purge that waits", WAIT_LIMIT, |line| line.contains("cannot be deleted"))?;
    assert_eq!(
        app.client.log_start(&repartition_topic(&app), 0)?,
        0,
        "no record is deleted while an offset is pending"
    );
    producer.abort_transaction(WAIT_LIMIT)?;

    progress::wait_until("processed records to be deleted", || {
        Ok(app.client.log_start(&repartition_topic(&app), 0)? >= offset)
    })?;
    // The second and third record were processed again, from the offset that was set: none was skipped.
    assert_eq!(answers(&app.wait_for("OUT", 5)?, "a"), ["1", "2", "3", "4", "5"]);
    Ok(())
}

/// A running host that has processed three records, and whose source gets no more. All its paths are direct, so only the
/// renewal of offsets can begin a further transaction.
fn is_idle(kafka: &Kafka, prefix: &str, flags: &[&str]) -> Result<(App, Host)> {
    let app = App::hostile_on(kafka, prefix, &["IN", "OUT"], 1)?.arg("--shards", "1");
    let host = app.run(prefix, flags)?;
    app.client.produce(&["count", "count", "count"].map(|word| app.word("a", word)))?;
    app.wait_for("OUT", 3)?;
    host.wait_for("its direct path", WAIT_LIMIT, |line| line.contains("direct paths open=1"))?;
    Ok((app, host))
}

/// The brokers forget offsets of source topics, to which no member subscribes, also while hosts run. The test lasts as long
/// as the shortest retention of Kafka: a minute.
#[test]
fn offsets_of_idle_sources_are_renewed_before_the_brokers_forget_them() -> Result<()> {
    let properties = [
        ("offsets.retention.minutes", "1"),
        ("offsets.retention.check.interval.ms", "500"),
        // One look at all groups, so that offsets of the same age expire together.
        ("offsets.topic.num.partitions", "1"),
    ];
    let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let kafka = Kafka::start_with(&Options { properties, ..Options::default() })?;
    let offset = |app: &App| anyhow::Ok(app.client.committed(&app.name, app.topic("IN"))?[0]);

    let (renewed, mut host) = is_idle(&kafka, "renewed", &["--offset-renewal-ms", "10000"])?;
    // Its last commit is the later one, so its offset expires after that of the other application would.
    let (forgotten, _forgetful) = is_idle(&kafka, "forgotten", &[])?;
    assert_eq!((offset(&renewed)?, offset(&forgotten)?), (Some(3), Some(3)));
    progress::wait_until("an offset that nobody renews to expire", || Ok(offset(&forgotten)?.is_none()))?;
    assert_eq!(offset(&renewed)?, Some(3));

    assert!(host.terminate(WAIT_LIMIT)?.success());
    renewed.client.produce(&[renewed.word("a", "count")])?;
    let mut host = renewed.run("again", &[])?;
    assert_eq!(answers(&renewed.wait_for("OUT", 4)?, "a"), ["1", "2", "3", "4"]);
    assert!(host.terminate(WAIT_LIMIT)?.success());
    assert_eq!(renewed.client.read_all(renewed.topic("OUT"))?.len(), 4);
    Ok(())
}
