//! Does the harness keep the promises that the other tests rely on?

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use switchboard_tests::client::{Client, Record, unique};
use switchboard_tests::host::Host;
use switchboard_tests::kafka::Kafka;
use switchboard_tests::process::leashed;
use switchboard_tests::progress::NO_PROGRESS_LIMIT as WAIT_LIMIT;

fn record(topic: &str, value: &str) -> Record {
    Record { topic: topic.to_owned(), value: Some(value.into()), ..Record::default() }
}

fn values(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into()).collect()
}

#[test]
fn every_byte_of_a_record_comes_back() -> Result<()> {
    let client = Kafka::shared().client()?;
    let topic = unique("lossless");
    client.create_topic(&topic, 2, &[])?;
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let sent = Record {
        topic: topic.clone(),
        partition: Some(1),
        timestamp: Some(7),
        key: Some(vec![0, 0xff]),
        value: Some(vec![0xc3, 0x28, 0]),
        headers: vec![
            header("twice", Some(b"first")),
            header("null", None),
            header("twice", Some(b"\xff\x00")),
            header("empty", Some(b"")),
            header("", Some(b"no name")),
        ],
        ..Record::default()
    };
    let empty = Record { key: Some(vec![]), value: Some(vec![]), headers: vec![], ..sent.clone() };
    let null = Record { key: None, value: None, ..empty.clone() };
    let mut records = vec![sent, empty, null];

    assert_eq!(client.produce(&records)?, [(1, 0), (1, 1), (1, 2)]);
    for (record, offset) in records.iter_mut().zip(0..) {
        record.offset = Some(offset);
    }
    assert_eq!(client.read_all(&topic)?, records);
    Ok(())
}

#[test]
fn keys_get_the_same_partition_as_with_java_clients() -> Result<()> {
    let client = Kafka::shared().client()?;
    let topic = unique("keyed");
    client.create_topic(&topic, 16, &[])?;
    let keyed = |key: &str| Record { key: Some(key.into()), ..record(&topic, "") };
    let positions = client.produce(&["21", "foobar", "a-little-bit-long-string"].map(keyed))?;
    // The hashes come from Kafka's own UtilsTest.
    let expected = [-973_932_308_i32, -790_332_482, -985_981_536].map(|hash| (hash & 0x7fff_ffff) % 16);
    assert_eq!(positions.iter().map(|(partition, _)| *partition).collect::<Vec<_>>(), expected);
    Ok(())
}

#[test]
fn a_reader_continues_where_it_stopped_and_its_error_shows_what_it_read() -> Result<()> {
    let client = Kafka::shared().client()?;
    let topics = [unique("left"), unique("right")];
    for topic in &topics {
        client.create_topic(topic, 1, &[])?;
    }
    let mut reader = client.reader(&topics.each_ref().map(String::as_str))?;
    client.produce(&[record(&topics[0], "a")])?;
    assert_eq!(values(reader.until("one record", WAIT_LIMIT, |records| records.len() == 1)?), ["a"]);
    client.produce(&[record(&topics[1], "b")])?;
    assert_eq!(values(reader.until("two records", WAIT_LIMIT, |records| records.len() == 2)?), ["a", "b"]);

    let error = reader.until("a third", Duration::from_millis(1), |records| records.len() == 3).unwrap_err();
    assert!(error.to_string().starts_with("1ms passed before a third; 2 records in left-"), "{error}");
    Ok(())
}

#[test]
fn only_committed_transactions_are_read() -> Result<()> {
    let kafka = Kafka::shared();
    let client = kafka.client()?;
    let input = unique("input");
    let output = unique("output");
    let group = unique("group");
    client.create_topic(&input, 1, &[])?;
    client.create_topic(&output, 1, &[])?;
    client.produce(&[record(&input, "in")])?;
    assert_eq!(client.committed(&group, &input)?, [None]);

    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap()).set("group.id", &group).set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[&input])?;
    let message = loop {
        if let Some(polled) = consumer.poll(WAIT_LIMIT) {
            break polled?;
        }
    };
    let producer: BaseProducer = config.set("transactional.id", &group).create()?;
    producer.init_transactions(WAIT_LIMIT)?;
    for value in ["aborted", "committed"] {
        producer.begin_transaction()?;
        producer.send(BaseRecord::<(), _>::to(&output).payload(value)).map_err(|(error, _)| error)?;
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(&input, 0, rdkafka::Offset::Offset(1))?;
        let metadata = consumer.group_metadata().expect("it has consumed");
        producer.send_offsets_to_transaction(&offsets, &metadata, WAIT_LIMIT)?;
        if value == "aborted" {
            producer.flush(WAIT_LIMIT)?;
            producer.abort_transaction(WAIT_LIMIT)?;
            assert_eq!(client.committed(&group, &input)?, [None]);
            assert_eq!(client.read_all(&output)?, []);
        } else {
            producer.commit_transaction(WAIT_LIMIT)?;
        }
    }
    drop(message);
    assert_eq!(values(&client.read_all(&output)?), ["committed"]);
    assert_eq!(client.committed(&group, &input)?, [Some(1)]);
    Ok(())
}

#[test]
fn a_topic_has_its_settings_until_it_is_deleted() -> Result<()> {
    let client = Kafka::shared().client()?;
    let topic = unique("small");
    client.create_topic(&topic, 1, &[("max.message.bytes", "1000")])?;
    let error = client.produce(&[record(&topic, &"x".repeat(2000))]).unwrap_err();
    assert!(format!("{error:#}").contains("MessageSizeTooLarge"), "{error:#}");
    client.create_topic(&topic, 1, &[]).unwrap_err();
    client.delete_topics(&[&topic])?;
    client.read_all(&topic).unwrap_err();
    Ok(())
}

#[test]
fn acknowledged_records_survive_a_killed_broker() -> Result<()> {
    let mut kafka = Kafka::start()?;
    let client = kafka.client()?;
    client.create_topic("topic", 1, &[])?;
    client.produce(&[record("topic", "before")])?;
    kafka.kill(0)?;
    kafka.restart(0)?;
    client.produce(&[record("topic", "after")])?;
    assert_eq!(values(&client.read_all("topic")?), ["before", "after"]);
    Ok(())
}

/// Starts the broker in the foreground. Returns it and its address.
fn foreground(data: &Path) -> Result<(Host, String)> {
    let mut command = leashed(env!("CARGO_BIN_EXE_kafka"), None);
    let parent = Host::start("kafka", command.args(["--port", "0", "--data"]).arg(data))?;
    let address = parent.wait_for("its address", WAIT_LIMIT, |line| line.starts_with("127.0.0.1:"))?;
    Ok((parent, address))
}

#[test]
fn the_broker_in_the_foreground_keeps_its_data_and_dies_with_its_parent() -> Result<()> {
    let data = tempfile::tempdir()?;

    let (mut parent, address) = foreground(data.path())?;
    let client = Client::new(&address)?;
    client.create_topic("topic", 1, &[])?;
    client.produce(&[record("topic", "kept")])?;
    assert_eq!(parent.terminate(WAIT_LIMIT)?.code(), Some(0));

    let (mut parent, address) = foreground(data.path())?;
    assert_eq!(values(&Client::new(&address)?.read_all("topic")?), ["kept"]);
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(WAIT_LIMIT))?;
    parent.kill()?;
    match connection.read(&mut [0; 1]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("the broker has outlived its parent: {other:?}"),
    }
}
