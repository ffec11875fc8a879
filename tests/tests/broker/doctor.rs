//! Does `switchboard doctor` find what is wrong and say what to do, and does a host log its lag?

use anyhow::{Context as _, Result};
use switchboard_tests::app::{App, WAIT_LIMIT};
use switchboard_tests::host::hostile;
use switchboard_tests::kafka::{Kafka, Options, free_port};
use switchboard_tests::native::{Operation, Resource, allow};

/// The only line with all of these words.
fn line<'a>(lines: &'a [String], words: &[&str]) -> Result<&'a str> {
    let found: Vec<_> = lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).collect();
    match found[..] {
        [line] => Ok(line),
        _ => anyhow::bail!("{} lines with {words:?} in {lines:#?}", found.len()),
    }
}

/// The doctor's problems and warnings, each with its line of advice.
fn complaints(lines: &[String]) -> Vec<String> {
    let complains = |line: &str| line.starts_with("  PROBLEM") || line.starts_with("  warning");
    let both = |pair: &[String]| complains(&pair[0]).then(|| format!("{} {}", pair[0].trim(), pair[1].trim()));
    lines.windows(2).filter_map(both).collect()
}

#[test]
fn a_cluster_without_topics_is_fit() -> Result<()> {
    let app = App::hostile("doctor-fresh", &[], 1)?;
    let (status, lines) = app.doctor(&["--shards", "5"])?;
    assert_eq!(status.code(), Some(0));
    let topics = [
        ("repartition", "5 partitions"),
        ("changelog", "5 partitions"),
        ("dead-letters", "1 partition"),
        ("control", "1 partition"),
    ];
    for (topic, partitions) in topics {
        line(&lines, &["  ok ", &format!("{}-switchboard-{topic}:", app.name), "`run` creates it", partitions])?;
    }
    line(&lines, &["  warning ", "IN (consumed)", "does not exist"])?;
    line(&lines, &["  warning ", "OUT (produced)", "does not exist"])?;
    line(&lines, &["  ok ", "transactions: can begin"])?;
    assert_eq!(lines.last().map(String::as_str), Some("0 problems, 2 warnings"));
    let topics = app.client.topics()?;
    assert!(!topics.iter().any(|topic| topic.starts_with(&app.name)), "the doctor creates no topics: {topics:?}");
    Ok(())
}

#[test]
fn a_healthy_application_has_no_problems_and_its_lag_is_shown() -> Result<()> {
    let app = App::hostile("doctor", &["OUT"], 2)?.topic_with("IN", &[("max.message.bytes", "1048588")])?;
    let mut host = app.run("doctor-host", &["--members", "2", "--instance", "one"])?;
    app.client.produce(&["count", "count", "count"].map(|word| app.word("a", word)))?;
    app.wait_for("OUT", 3)?;
    let (status, lines) = app.doctor(&[])?;
    assert_eq!((status.code(), complaints(&lines)), (Some(0), vec![]));
    line(&lines, &["  ok ", "the cluster: 1 broker"])?;
    line(&lines, &["  ok ", "Kafka 4.0 or later"])?;
    line(&lines, &["  ok ", &format!("the group {}:", app.name), "Stable, 2 members (2 static), protocol Classic"])?;
    line(&lines, &["  ok ", &format!("{}-switchboard-repartition: 1 partition, replication factor 1", app.name)])?;
    line(&lines, &["  ok ", "all that is needed is allowed"])?;
    line(&lines, &["  ok ", app.topic("IN"), "nothing waits in its 1 partition"])?;
    line(&lines, &["  ok ", "-switchboard-repartition", "nothing waits in its 1 partition"])?;
    assert_eq!(lines.last().map(String::as_str), Some("0 problems, 0 warnings"));

    assert!(host.terminate(WAIT_LIMIT)?.success());
    app.client.produce(&["count", "count"].map(|word| app.word("a", word)))?;
    let (_, lines) = app.doctor(&[])?;
    line(&lines, &["  ok ", app.topic("IN"), "2 records wait", "the oldest for"])?;

    let (status, lines) = app.doctor(&["--json"])?;
    let shown: serde_json::Value = serde_json::from_str(&lines.join("\n"))?;
    assert_eq!((status.code(), &shown["problems"], &shown["warnings"]), (Some(0), &0.into(), &0.into()));
    let sections = shown["sections"].as_array().context("no sections")?;
    assert!(sections.iter().any(|section| section["title"] == "Lag" && section["findings"][0]["level"] == "ok"));
    Ok(())
}

#[test]
fn the_topics_that_other_hosts_plugins_consume_are_examined_too() -> Result<()> {
    let app = App::new("doctor-elsewhere", &["IN"], 3)?.arg("--tenant-header", "TENANT=text");
    let plugin = hostile()?.display().to_string();
    let mut host = app.run("host", &["--plugin", &plugin, "--instance", "one"])?;
    let (status, lines) = app.doctor(&[])?;
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    line(&lines, &["  ok ", "plugins and fallback releases of hosts: they also consume IN"])?;
    line(&lines, &["  ok ", app.topic("IN"), "3 partitions"])?;
    let shown = app.run_command(&["releases"], &["--json"])?.json()?;
    assert_eq!(shown["hosts"][0]["on-file-consumes"], serde_json::json!(["IN"]), "{shown:#}");

    // A host that has stopped consumes nothing.
    assert!(host.terminate(WAIT_LIMIT)?.success());
    let (_, lines) = app.doctor(&[])?;
    assert!(!lines.iter().any(|line| line.contains("also consume")), "{lines:#?}");
    Ok(())
}

#[test]
fn a_retention_of_offsets_that_is_shorter_than_ten_renewals_is_a_warning() -> Result<()> {
    let properties = vec![("offsets.retention.minutes".to_owned(), "5".to_owned())];
    let kafka = Kafka::start_with(&Options { properties, ..Options::default() })?;
    let app = App::hostile_on(&kafka, "doctor-retention", &["IN", "OUT"], 1)?;
    let (status, lines) = app.doctor(&[])?;
    assert_eq!(status.code(), Some(0));
    line(&lines, &["  warning ", "offsets.retention.minutes=5", "10 times --offset-renewal-ms (3600000)"])?;
    line(&lines, &["offsets.retention.minutes of the brokers to 600 or more", "--offset-renewal-ms 30000 or less"])?;

    let (_, lines) = app.doctor(&["--offset-renewal-ms", "30000"])?;
    line(&lines, &["  warning ", "offsets.retention.minutes=5", "after a longer stop"])?;
    assert!(!lines.iter().any(|line| line.contains("--offset-renewal-ms")), "{lines:#?}");
    Ok(())
}

#[test]
fn without_a_plugin_everything_else_is_examined() -> Result<()> {
    let app = App::new("doctor-bare", &[], 1)?;
    let (status, lines) = app.doctor(&[])?;
    assert_eq!(status.code(), Some(0));
    assert!(matches!(&complaints(&lines)[..], [only] if only.contains("--plugin")), "{lines:#?}");
    for topic in ["repartition", "changelog"] {
        line(&lines, &["  ok ", &format!("-switchboard-{topic}:"), "once a consumed topic exists"])?;
    }
    Ok(())
}

#[test]
fn unreachable_brokers_are_problems() -> Result<()> {
    let app = App::hostile("doctor-unreachable", &[], 1)?;
    let dead = format!("127.0.0.1:{}", free_port()?);
    let (status, lines) = app.doctor(&["--bootstrap-servers", &format!("{dead},no.such.host.invalid:9092")])?;
    assert_eq!(status.code(), Some(1));
    line(&lines, &["  PROBLEM ", &dead, "Connection refused"])?;
    line(&lines, &["  PROBLEM ", "no.such.host.invalid:9092"])?;
    assert_eq!(lines.last().map(String::as_str), Some("2 problems, 0 warnings"));

    // One reachable broker is enough.
    let servers = format!("{dead},{}", Kafka::shared().bootstrap());
    let (status, lines) = app.doctor(&["--bootstrap-servers", &servers])?;
    assert_eq!(status.code(), Some(0));
    line(&lines, &["  warning ", &dead, "Connection refused"])?;
    Ok(())
}

#[test]
fn the_doctor_reports_all_problems_at_once() -> Result<()> {
    let app = App::hostile("doctor-unfit", &["IN"], 1)?.topic_with("OUT", &[("max.message.bytes", "1000")])?;
    let compact = ("cleanup.policy", "compact");
    app.client.create_topic(&format!("{}-switchboard-changelog", app.name), 3, &[("cleanup.policy", "delete")])?;
    app.client.create_topic(&format!("{}-switchboard-repartition", app.name), 16, &[("retention.ms", "60000")])?;
    let app = app.arg("--session-timeout-ms", "1000");
    let (status, lines) = app.doctor(&[])?;
    assert_eq!(status.code(), Some(1));
    line(
        &lines,
        &["  PROBLEM ", "-switchboard-changelog: it has 3 partitions, but ", "-switchboard-repartition has 16"],
    )?;
    line(&lines, &["  PROBLEM ", "-switchboard-changelog: it has cleanup.policy=delete, but must have compact"])?;
    line(&lines, &["--entity-name", "-switchboard-changelog", "--add-config cleanup.policy=compact"])?;
    line(&lines, &["  PROBLEM ", "-switchboard-repartition: it has retention.ms=60000"])?;
    line(&lines, &["  PROBLEM ", "--session-timeout-ms is 1000", "group.min.session.timeout.ms=6000"])?;
    line(&lines, &["  warning ", "OUT (produced)", "1000 bytes"])?;

    let app = App::hostile("doctor-compacted", &["OUT"], 1)?.topic_with("IN", &[compact])?;
    let (status, lines) = app.doctor(&[])?;
    assert_eq!(status.code(), Some(0));
    line(&lines, &["  warning ", "IN (consumed)", "it is compacted"])?;
    Ok(())
}

#[test]
fn a_broker_with_an_unreachable_advertised_address_is_a_problem() -> Result<()> {
    let port = free_port()?;
    let dead = free_port()?;
    let kafka = Kafka::start_with(&Options { proxied: vec![(port, dead)], ..Options::default() })?;
    let app = App::hostile_on(&kafka, "doctor-trap", &[], 1)?;
    let (status, lines) = app.doctor(&["--bootstrap-servers", &format!("127.0.0.1:{port}")])?;
    assert_eq!(status.code(), Some(1));
    line(&lines, &["  ok ", &format!("bootstrap server 127.0.0.1:{port}")])?;
    line(&lines, &["  PROBLEM ", &format!("broker 1: is advertised as 127.0.0.1:{dead}")])?;
    line(&lines, &["advertised.listeners"])?;
    assert_eq!(lines.last().map(String::as_str), Some("1 problems, 0 warnings"), "its consequences are not reported");
    Ok(())
}

#[test]
fn missing_permissions_are_named_by_resource() -> Result<()> {
    let (kafka, login) = Kafka::guarded()?;
    let login: Vec<_> = login.iter().map(String::as_str).collect();
    let app = App::hostile_on(&kafka, "doctor-acl", &["IN", "OUT"], 1)?;
    let mut host = app.run("creator", &[])?;
    assert!(host.terminate(WAIT_LIMIT)?.success());

    let (status, lines) = app.doctor(&[&login[..], &["--kafka", "sasl.password=wrong"]].concat())?;
    assert_eq!(status.code(), Some(1));
    line(&lines, &["  PROBLEM ", "does not answer as Kafka", "Authentication failed"])?;

    let (status, lines) = app.doctor(&login)?;
    assert_eq!(status.code(), Some(1));
    line(&lines, &["  PROBLEM ", "-switchboard-repartition: this client is not allowed READ, WRITE, DELETE"])?;
    line(&lines, &["  PROBLEM ", &format!("the group {}: this client is not allowed READ", app.name)])?;
    line(&lines, &["  PROBLEM ", "transactions: cannot begin"])?;

    let topic = |topic: &str| format!("{}-{topic}", app.name);
    let bootstrap = kafka.bootstrap();
    let user = "User:switchboard";
    for (topic, operations) in [
        (topic("IN"), &[Operation::Read][..]),
        (topic("OUT"), &[Operation::Write]),
        (topic("switchboard-repartition"), &[Operation::Read, Operation::Write]),
        (topic("switchboard-changelog"), &[Operation::Read, Operation::Write, Operation::DescribeConfigs]),
        (topic("switchboard-dead-letters"), &[Operation::Write]),
        (topic("switchboard-control"), &[Operation::Read, Operation::Write]),
    ] {
        for operation in operations {
            allow(bootstrap, user, Resource::Topic(&topic), *operation)?;
        }
    }
    allow(bootstrap, user, Resource::Group(&app.name), Operation::Read)?;
    allow(bootstrap, user, Resource::TransactionalIds(&topic("switchboard-")), Operation::Write)?;
    let (status, lines) = app.doctor(&login)?;
    assert_eq!(status.code(), Some(1));
    line(&lines, &["  PROBLEM ", "-switchboard-repartition: this client is not allowed DELETE"])?;
    line(&lines, &["  warning ", "-switchboard-repartition", "its configuration cannot be read"])?;
    line(&lines, &["  ok ", "-switchboard-changelog: 1 partition"])?;
    line(&lines, &["  ok ", "transactions: can begin"])?;
    let problems = complaints(&lines).into_iter().filter(|line| line.starts_with("PROBLEM")).count();
    assert_eq!(problems, 1, "{lines:#?}");

    allow(bootstrap, user, Resource::Topic(&topic("switchboard-repartition")), Operation::Delete)?;
    let (status, lines) = app.doctor(&login)?;
    assert_eq!(status.code(), Some(0), "{lines:#?}");
    // The permissions that the doctor checks are all that a host needs.
    app.client.produce(&[app.word("a", "count")])?;
    let mut host = app.run("allowed", &login)?;
    host.wait_for("the warning about the configuration", WAIT_LIMIT, |line| {
        line.contains("-switchboard-repartition: its configuration cannot be read")
    })?;
    app.wait_for("OUT", 1)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}

#[test]
fn a_host_logs_the_lag_of_the_application() -> Result<()> {
    let app = App::hostile("lag", &["IN", "OUT"], 1)?;
    // A halted shard has lag. It is halted because it has state but no offset.
    let mut host = app.run("before", &["--members", "1"])?;
    app.client.produce(&[app.word("a", "count")])?;
    app.wait_for("OUT", 1)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    app.delete_offsets(&format!("{}-switchboard-repartition", app.name))?;
    let mut behind = app.run("behind", &["--members", "1"])?;
    app.client.produce(&[app.word("a", "count"), app.word("a", "count")])?;
    behind.wait_for("its lag", WAIT_LIMIT, |line| line.contains(" INFO ") && line.contains("lag source_records=0 "))?;
    let line = behind.wait_for("the oldest", WAIT_LIMIT, |line| line.contains(" oldest_ms="))?;
    assert!(!line.contains(" repartition_records=0 "), "{line}");
    assert!(behind.terminate(WAIT_LIMIT)?.success());
    Ok(())
}
