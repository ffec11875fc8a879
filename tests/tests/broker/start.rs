//! Does a host that cannot start say why in one line, and does a host that must wait say for what?

use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use switchboard_tests::app::{App, WAIT_LIMIT, answers};
use switchboard_tests::host::{Host, hostile, switchboard};
use switchboard_tests::kafka::{Kafka, Options, free_port};

/// Waits for the end of a host that must fail, and returns the line that says why: its last and only line that is not a
/// log line.
fn refusal(host: Host) -> Result<String> {
    let (status, log) = host.end(WAIT_LIMIT)?;
    ensure!(status.code() == Some(1), "{status}: {log:?}");
    let [own] = &log.iter().filter(|line| line.starts_with("switchboard: ")).collect::<Vec<_>>()[..] else {
        anyhow::bail!("not one line: {log:?}")
    };
    ensure!(log.last() == Some(own), "{log:?}");
    Ok((*own).clone())
}

/// Starts a host that fails without a broker.
fn start(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Host> {
    Host::start("refused", switchboard()?.arg("run").args(arguments))
}

fn assert_says(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}

fn with_plugin(plugin: &Path, further: &[&str]) -> Result<String> {
    let plugin = plugin.display().to_string();
    let arguments = ["--app", "a", "--bootstrap-servers", "127.0.0.1:9", "--plugin", &plugin];
    refusal(start(arguments.iter().chain(further))?)
}

#[test]
fn a_file_that_is_not_a_plugin_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).map(|()| path)
    };
    assert_says(&with_plugin(&directory.path().join("absent.wasm"), &[])?, &["absent.wasm", "No such file"]);
    assert_says(&with_plugin(&file("text.wasm", b"(component)")?, &[])?, &["text.wasm", "not WebAssembly"]);
    assert_says(&with_plugin(&file("empty.wasm", b"")?, &[])?, &["empty.wasm"]);
    let module = file("module.wasm", b"\0asm\x01\0\0\0")?;
    assert_says(&with_plugin(&module, &[])?, &["module.wasm", "module", "wasm32-wasip2"]);
    let component = file("component.wasm", b"\0asm\x0d\0\x01\0")?;
    assert_says(&with_plugin(&component, &[])?, &["component.wasm", "switchboard:plugin/handler"]);
    assert_says(&with_plugin(&hostile()?, &["--max-artifact-bytes", "1000"])?, &["hostile.wasm", "at most 1000"]);
    Ok(())
}

/// A public key of minisign. Its secret key no longer exists.
const PUBLIC_KEY: &str = "RWT9+h/7X9/PFEuielRD2wJB5PLgGrwheCZswhuEx5t5AxmxARfSASSP";

#[test]
fn a_plugin_that_is_not_trusted_or_not_allowed_its_topics_is_refused() -> Result<()> {
    let plugin = hostile()?;
    assert_says(&with_plugin(&plugin, &["--trusted-key", PUBLIC_KEY])?, &["hostile.wasm", "not signed", "minisign -S"]);
    assert_says(&with_plugin(&plugin, &["--trusted-key", "/absent.pub"])?, &["/absent.pub", "No such file"]);
    let wants = with_plugin(&plugin, &["--allow-topic", "AUDIT"])?;
    assert_says(&wants, &["hostile.wasm", "produces to OUT", "allow-topics"]);
    Ok(())
}

#[test]
fn unusable_settings_are_refused_with_what_to_do() -> Result<()> {
    let plugin = hostile()?;
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(config.path(), "batch-recrods = 7")?;
    let config = config.path().display().to_string();
    assert_says(&with_plugin(&plugin, &["--config", &config])?, &["batch-recrods", "batch-records", &config]);
    assert_says(&with_plugin(&plugin, &["--config", "/absent.toml"])?, &["/absent.toml", "No such file"]);
    assert_says(&with_plugin(&plugin, &["--shards", "0"])?, &["shards", "at least 1"]);
    let reserved = with_plugin(&plugin, &["--kafka", "isolation.level=read_uncommitted"])?;
    assert_says(&reserved, &["isolation.level", "exactly-once"]);
    assert_says(&with_plugin(&plugin, &["--kafka", "no.such.thing=1"])?, &["no.such.thing"]);
    assert_says(&with_plugin(&plugin, &["--kafka", "linger.ms=soon"])?, &["linger.ms"]);

    assert_says(&refusal(start(["--bootstrap-servers", "b:9"])?)?, &["--app"]);
    assert_says(&refusal(start(["--app", "a", "--bootstrap-servers", "b:9", "--watch"])?)?, &["--plugin"]);
    assert_says(&refusal(start(["--app", "a", "--plugin", "p.wasm"])?)?, &["BOOTSTRAP_SERVERS"]);
    Ok(())
}

#[test]
fn an_unknown_flag_is_refused_with_the_nearest_one() -> Result<()> {
    let (status, log) = start(["--bootstrap-server", "b:9"])?.end(WAIT_LIMIT)?;
    assert_eq!(status.code(), Some(2));
    assert_says(&log.join("\n"), &["'--bootstrap-server'", "'--bootstrap-servers'"]);
    Ok(())
}

#[test]
fn unfit_internal_topics_are_refused_with_how_to_fix_them() -> Result<()> {
    let compact = ("cleanup.policy", "compact");
    let delete = ("cleanup.policy", "delete");
    let forever = ("retention.ms", "-1");
    let large = ("max.message.bytes", "4194304");
    let refused = |topic: &str, partitions, settings: &[(&str, &str)], words: &[&str]| -> Result<()> {
        let app = App::hostile("internal", &["IN", "OUT"], 1)?;
        let topic = format!("{}-switchboard-{topic}", app.name);
        app.client.create_topic(&topic, partitions, settings)?;
        let line = refusal(app.start("internal", &["--shards", "4", "--replication-factor", "1"])?)?;
        assert_says(&line, words);
        assert_says(&line, &[&topic]);
        Ok(())
    };
    refused("repartition", 3, &[delete, forever, large], &["3 partitions", "--shards 3", "--app"])?;
    refused("changelog", 3, &[compact, large], &["3 partitions", "--shards 3"])?;
    refused("changelog", 4, &[delete, large], &["--alter --add-config cleanup.policy=compact"])?;
    refused("changelog", 4, &[("cleanup.policy", "compact,delete"), large], &["add-config cleanup.policy=compact"])?;
    let tombstones = ("delete.retention.ms", "60000");
    refused("changelog", 4, &[compact, large, tombstones], &["60000", "--add-config delete.retention.ms=604800000"])?;
    refused("repartition", 4, &[compact, forever, large], &["--alter --add-config cleanup.policy=delete"])?;
    refused("repartition", 4, &[delete, large, ("retention.ms", "60000")], &["60000", "--add-config retention.ms=-1"])?;
    let bytes = ("retention.bytes", "1000000");
    refused("repartition", 4, &[delete, forever, large, bytes], &["1000000", "--add-config retention.bytes=-1"])?;
    refused("dead-letters", 1, &[compact, large], &["--alter --add-config cleanup.policy=delete"])?;
    let small = ("max.message.bytes", "1048588");
    let in_sync = ("min.insync.replicas", "2");
    for (topic, settings) in
        [("repartition", &[delete, forever][..]), ("changelog", &[compact]), ("dead-letters", &[delete])]
    {
        let with = |setting| [settings, &[setting]].concat();
        refused(topic, 4, &with(small), &["1048588", "--alter --add-config max.message.bytes=4194304"])?;
        let words = ["only 1 replicas", "--alter --add-config min.insync.replicas=1"];
        refused(topic, 4, &[&with(large)[..], &[in_sync]].concat(), &words)?;
    }
    // The line names the first of several problems, and how many more there are.
    refused("repartition", 4, &[delete, small, ("retention.ms", "60000")], &["retention.ms=-1 (1 more", "doctor"])?;
    Ok(())
}

#[test]
fn hosts_that_start_at_once_create_the_internal_topics_together() -> Result<()> {
    let app = App::hostile("together", &["IN", "OUT"], 1)?;
    let hosts: Vec<_> = (0..3).map(|number| app.start(&format!("host-{number}"), &[])).collect::<Result<_>>()?;
    for mut host in hosts {
        host.wait_for("it runs", WAIT_LIMIT, |line| line.contains("host is running"))?;
        assert!(host.terminate(WAIT_LIMIT)?.success());
    }
    Ok(())
}

/// The number of partitions of a topic.
fn partitions(app: &App, topic: &str) -> Result<usize> {
    Ok(app.client.committed(&app.name, &format!("{}-switchboard-{topic}", app.name))?.len())
}

#[test]
fn the_number_of_shards_follows_from_the_largest_consumed_topic_and_then_stays() -> Result<()> {
    let app = App::messenger("shards", 3)?;
    let larger = format!("{}-larger", app.name);
    app.client.create_topic(&larger, 5, &[])?;
    let app = app.env("EVENT_TOPIC_INVITE_STATUS", &larger);
    let said = |host: &Host, words: &[&str]| {
        let is_said =
            |line: &str| line.contains("the number of shards is known") && words.iter().all(|w| line.contains(w));
        host.wait_for("the number of shards", WAIT_LIMIT, is_said)
    };
    let mut host = app.run("first", &[])?;
    host.wait_for("why", WAIT_LIMIT, |line| {
        line.contains("topic created") && line.contains("-repartition partitions=5 from=") && line.contains(&larger)
    })?;
    said(&host, &["shards=5 "])?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    assert_eq!((partitions(&app, "repartition")?, partitions(&app, "changelog")?), (5, 5));

    let refused = refusal(app.start("other", &["--shards", "3"])?)?;
    assert_says(&refused, &["5 partitions, but --shards is 3", "set --shards 5, or leave it out", "--app"]);
    for (arguments, from) in [(&["--shards", "5"][..], "--shards"), (&[], "-switchboard-repartition")] {
        let mut host = app.run("again", arguments)?;
        said(&host, &["shards=5 ", from])?;
        assert!(host.terminate(WAIT_LIMIT)?.success());
    }
    Ok(())
}

#[test]
fn a_host_without_anything_to_consume_starts_its_workers_when_there_is_something() -> Result<()> {
    let app = App::new("nothing", &[], 1)?.no_topic("IN").no_topic("OUT").arg("--tenant-header", "TENANT=text");
    let mut host = app.run("waiting", &["--instance", "one"])?;
    host.wait_for("what it waits for", WAIT_LIMIT, |line| line.contains("deploy a release"))?;
    let repartition = format!("{}-switchboard-repartition", app.name);
    assert!(!app.client.topics()?.contains(&repartition), "nothing decides yet how many partitions it gets");

    // The host follows the control topic, though it has no workers.
    let plugin = hostile()?.display().to_string();
    let deployed = app.run_command(&["deploy", &plugin], &["--wait"])?;
    assert!(deployed.status.success(), "{deployed:?}");
    host.wait_for("the missing topic", WAIT_LIMIT, |line| {
        line.contains(" WARN ") && line.contains(app.topic("IN")) && line.contains("create one of them")
    })?;

    app.client.create_topic(app.topic("OUT"), 1, &[])?;
    app.client.create_topic(app.topic("IN"), 3, &[])?;
    app.client.produce(&[app.word("a", "count"), app.word("a", "count")])?;
    assert_eq!(answers(&app.wait_for("OUT", 2)?, "a"), ["1", "2"]);
    assert_eq!((partitions(&app, "repartition")?, partitions(&app, "changelog")?), (3, 3));
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}

#[test]
fn a_host_without_workers_stops_at_once() -> Result<()> {
    let app = App::new("idle", &[], 1)?;
    let mut host = app.run("idle", &[])?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    assert!(host.log().iter().any(|line| line.contains("host stopped")), "{:#?}", host.log());
    Ok(())
}

#[test]
fn an_impossible_replication_factor_is_refused() -> Result<()> {
    let app = App::hostile("replicas", &["IN", "OUT"], 1)?;
    let created = refusal(app.start("replicas", &["--replication-factor", "3"])?)?;
    assert_says(&created, &[&app.name, "replication factor"]);
    let mut host = app.run("replicas", &[])?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    let existing = refusal(app.start("replicas", &["--replication-factor", "3"])?)?;
    assert_says(&existing, &["replication factor 1", "--replication-factor 1"]);
    Ok(())
}

/// The number of warnings about unreachable brokers.
fn complaints(host: &Host) -> usize {
    host.log().iter().filter(|line| line.contains(" WARN ") && line.contains("127.0.0.1")).count()
}

#[test]
fn a_host_waits_for_an_unreachable_broker() -> Result<()> {
    let port = free_port()?;
    let address = format!("127.0.0.1:{port}");
    let plugin = hostile()?.display().to_string();
    let arguments = ["--app", "early", "--plugin", &plugin, "--bootstrap-servers", &address];
    let arguments = [&arguments[..], &["--tenant-header", "TENANT=text"]].concat();

    let started = Instant::now();
    let mut impatient = start(&arguments)?;
    impatient.wait_for("a complaint", WAIT_LIMIT, |line| line.contains("WARN") && line.contains(&address))?;
    let before = complaints(&impatient);
    assert!(impatient.terminate(WAIT_LIMIT)?.success());
    // The host warns every few seconds while it waits. One more warning may have been in progress.
    let after = complaints(&impatient) - before;
    assert!(after <= 1, "it waited on after SIGTERM: {:#?}", impatient.log());

    let mut patient = start(&arguments)?;
    patient.wait_for("a complaint", WAIT_LIMIT, |line| line.contains("WARN") && line.contains(&address))?;
    let mut kafka = Kafka::start_with(&Options { port: Some(port), ..Options::default() })?;
    let most = 1 + usize::try_from(started.elapsed().as_secs() / 4)?;
    assert!((1..=most).contains(&complaints(&patient)), "at most {most}: {:#?}", patient.log());

    patient.wait_for("the missing topics", WAIT_LIMIT, |line| line.contains("do not exist yet topics=IN, OUT"))?;
    patient.wait_for("it runs", WAIT_LIMIT, |line| line.contains("host is running"))?;
    let client = kafka.client()?;
    client.create_topic("OUT", 1, &[])?;
    client.create_topic("IN", 1, &[])?;
    let app = App::hostile_on(&kafka, "early", &[], 1)?;
    let mut record = app.no_topic("IN").word("a", "count");
    record.topic = "IN".to_owned();
    client.produce(&[record.clone(), record.clone()])?;
    let mut reader = client.reader(&["OUT"])?;
    let outputs = reader.until("both outputs", WAIT_LIMIT, |outputs| outputs.len() == 2)?;
    assert_eq!(answers(outputs, "a"), ["1", "2"]);

    let before = complaints(&patient);
    let gone = Instant::now();
    kafka.kill(0)?;
    kafka.restart(0)?;
    client.produce(&[record])?;
    let outputs = reader.until("a third output", WAIT_LIMIT, |outputs| outputs.len() == 3)?;
    assert_eq!(answers(outputs, "a"), ["1", "2", "3"]);
    let new = complaints(&patient) - before;
    let most = 1 + usize::try_from(gone.elapsed().as_secs() / 4)?;
    assert!((1..=most).contains(&new), "at most {most}: {:#?}", patient.log());
    assert!(patient.terminate(WAIT_LIMIT)?.success());
    Ok(())
}
