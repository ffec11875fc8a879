//! Does each failing message become exactly one dead letter, without effect on other messages?

use std::time::Duration;

use anyhow::{Context, Result};
use switchboard_tests::app::{App, WAIT_LIMIT, answers, dead_letter_origin, header};
use switchboard_tests::client::Record;
use switchboard_tests::progress;

/// A misdeed of the plugin, the class of its dead letter, and a word of the dead letter's reason.
const MISDEEDS: [(&str, &str, &str); 16] = [
    ("invalid because", "invalid", "because"),
    ("trap", "trap", "unreachable"),
    ("out-of-bounds", "trap", "out of bounds"),
    ("panic at the sight of it", "trap", "at the sight of it"),
    ("recurse 100000000", "trap", "stack"),
    ("exit 1", "trap", "exit(1)"),
    ("sleep 100", "trap", "time does not pass"),
    ("stage-and-trap", "trap", "unreachable"),
    ("loop", "limit", "fuel"),
    ("host-calls", "limit", "fuel"),
    ("grow 100", "limit", "memory"),
    ("entry 1 2000000", "limit", "1048576"),
    ("outputs 1001 0", "limit", "1000"),
    ("outputs 1 1048577", "limit", "1048576"),
    ("to ELSEWHERE", "output", "ELSEWHERE"),
    ("header TENANT", "output", "TENANT"),
];

/// The record with a key, headers and a timestamp whose bytes are easily lost.
fn odd(record: Record, timestamp: i64) -> Record {
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let mut headers = vec![
        header("twice", Some(b"first")),
        header("null", None),
        header("switchboard-class", Some(b"of an earlier life")),
        header("twice", Some(b"\xff\x00")),
        header("empty", Some(b"")),
    ];
    headers.extend(record.headers);
    Record { key: Some(vec![0xff, 0]), timestamp: Some(timestamp), headers, ..record }
}

#[test]
fn each_misdeed_makes_one_dead_letter_and_leaves_no_state_behind() -> Result<()> {
    let app = App::hostile("misdeeds", &["IN", "OUT"], 1)?;
    let mut records = Vec::new();
    for ((misdeed, _, _), timestamp) in MISDEEDS.iter().zip(1..) {
        records.extend([app.word("bad", "count"), odd(app.word("bad", misdeed), timestamp), app.word("good", "count")]);
    }
    records.push(app.word("bad", "list"));
    let positions = app.client.produce(&records)?;
    let mut host = app.run("misdeeds", &["--members", "2"])?;

    let outputs = app.wait_for("OUT", 2 * MISDEEDS.len() + 1)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    let counts: Vec<_> = (1..=MISDEEDS.len()).map(|count| count.to_string()).collect();
    assert_eq!(answers(&outputs, "good"), counts);
    assert_eq!(answers(&outputs, "bad")[..MISDEEDS.len()], counts);
    assert_eq!(answers(&outputs, "bad").last(), Some(&r#"["count"]"#), "no staged change is left");
    assert_eq!(app.client.read_all(app.topic("OUT"))?.len(), outputs.len());

    let letters = app.client.read_all(&app.dead_letters())?;
    assert_eq!(letters.len(), MISDEEDS.len());
    let misdeeds = MISDEEDS.iter().zip(records.iter().zip(&positions).skip(1).step_by(3));
    for (letter, ((misdeed, class, word), (original, (partition, offset)))) in letters.iter().zip(misdeeds) {
        assert_eq!((&letter.key, &letter.value), (&original.key, &original.value));
        let (theirs, ours) = letter.headers.split_at(original.headers.len());
        assert_eq!(theirs, original.headers);
        let names: Vec<_> = ours.iter().map(|(name, _)| name.trim_start_matches("switchboard-")).collect();
        assert_eq!(names, ["class", "reason", "topic", "partition", "offset", "timestamp"]);
        assert_eq!(header(letter, "switchboard-class"), Some(*class), "{misdeed}");
        let reason = header(letter, "switchboard-reason").context("a dead letter without a reason")?;
        assert!(reason.contains(word), "{misdeed}: {reason}");
        assert_eq!(dead_letter_origin(letter), Some(("IN".to_owned(), *partition, *offset)));
        assert_eq!(header(letter, "switchboard-timestamp"), Some(original.timestamp.unwrap().to_string().as_str()));
    }
    Ok(())
}

#[test]
fn the_cpu_time_limit_ends_a_call_that_has_fuel_left() -> Result<()> {
    let app = App::hostile("deadline", &["IN", "OUT"], 1)?;
    app.client.produce(&["count", "loop", "count"].map(|word| app.word("a", word)))?;
    let _host = app.run("deadline", &["--max-cpu-time-ms", "100", "--max-fuel", &u64::MAX.to_string()])?;
    assert_eq!(answers(&app.wait_for("OUT", 2)?, "a"), ["1", "2"]);
    let letters = app.client.read_all(&app.dead_letters())?;
    assert_eq!(letters.len(), 1);
    assert_eq!(header(&letters[0], "switchboard-class"), Some("deadline"));
    let reason = header(&letters[0], "switchboard-reason").unwrap_or_default();
    assert!(reason.contains("100ms of CPU time"), "{reason}");
    Ok(())
}

/// One message for each of many tenants.
fn crowd(app: &App, tenants: usize, words: impl Fn(usize) -> String) -> Vec<Record> {
    (0..tenants).map(|tenant| app.word(&format!("tenant-{tenant}"), &words(tenant))).collect()
}

#[test]
fn a_message_whose_output_the_broker_refuses_is_a_dead_letter_and_its_neighbours_are_sent_once() -> Result<()> {
    let app = App::hostile("refused", &["IN"], 1)?.topic_with("OUT", &[("max.message.bytes", "20000")])?;
    let records = crowd(&app, 300, |tenant| match tenant % 100 {
        50 => "outputs 1 30000".to_owned(),
        _ => format!("echo {tenant}"),
    });
    let positions = app.client.produce(&records)?;
    let mut host = app.run("refused", &[])?;

    let outputs = app.wait_for("OUT", 297)?;
    let letters = app.wait_for_dead_letters(3)?;
    let mut origins: Vec<_> = letters.iter().filter_map(dead_letter_origin).collect();
    origins.sort();
    let expected = [50, 150, 250].map(|index: usize| ("IN".to_owned(), positions[index].0, positions[index].1));
    assert_eq!(origins, expected);
    for letter in &letters {
        assert_eq!(header(letter, "switchboard-class"), Some("output"));
        let reason = header(letter, "switchboard-reason").unwrap_or_default();
        assert!(reason.contains(app.topic("OUT")) && reason.contains("too large"), "{reason}");
        assert_eq!(letter.value, Some(b"outputs 1 30000".to_vec()));
    }
    let mut values: Vec<usize> = outputs
        .iter()
        .map(|output| Ok(str::from_utf8(output.value.as_deref().unwrap_or_default())?.parse()?))
        .collect::<Result<_>>()?;
    values.sort_unstable();
    assert_eq!(values, (0..300).filter(|tenant| tenant % 100 != 50).collect::<Vec<_>>());
    assert!(host.terminate(WAIT_LIMIT)?.success());
    assert_eq!(app.client.read_all(app.topic("OUT"))?.len(), 297);
    assert_eq!(app.client.read_all(&app.dead_letters())?.len(), 3);
    Ok(())
}

#[test]
fn outputs_that_fit_one_by_one_are_sent_even_if_they_do_not_fit_into_one_batch() -> Result<()> {
    let app = App::hostile("together", &["IN"], 1)?.topic_with("OUT", &[("max.message.bytes", "20000")])?;
    app.client.produce(&["outputs 20 15000", "count"].map(|word| app.word("a", word)))?;
    let _host = app.run("together", &[])?;
    let outputs = app.wait_for("OUT", 21)?;
    assert_eq!(outputs.iter().filter(|output| output.value == Some(vec![b'x'; 15000])).count(), 20);
    assert_eq!(app.client.read_all(&app.dead_letters())?, []);
    Ok(())
}

#[test]
fn without_the_output_topic_only_messages_with_outputs_are_dead_letters() -> Result<()> {
    let app = App::hostile("no-topic", &["IN"], 1)?.no_topic("OUT");
    let records = crowd(&app, 30, |tenant| if tenant % 3 == 0 { "echo x" } else { "outputs 0 0" }.to_owned());
    app.client.produce(&records)?;
    let mut host = app.run("no-topic", &[])?;
    let letters = app.wait_for_dead_letters(10)?;
    for letter in &letters {
        assert_eq!(header(letter, "switchboard-class"), Some("output"));
        let reason = header(letter, "switchboard-reason").unwrap_or_default();
        assert!(reason.contains(app.topic("OUT")), "{reason}");
    }
    app.client.produce(&[app.word("later", "outputs 0 0"), app.word("later", "invalid end")])?;
    let letters = app.wait_for_dead_letters(11)?;
    assert_eq!(header(&letters[10], "switchboard-class"), Some("invalid"));
    assert!(letters[..10].iter().all(|letter| letter.value == Some(b"echo x".to_vec())));

    app.client.create_topic(app.topic("OUT"), 1, &[])?;
    let mut reader = app.client.reader(&[app.topic("OUT")])?;
    // The host detects the new topic after some seconds. Until then it refuses outputs as before.
    progress::wait_until("the host to detect the topic", || {
        app.client.produce(&[app.word("later", "echo at last")])?;
        Ok(reader.until("an output", Duration::from_secs(1), |outputs| !outputs.is_empty()).is_ok())
    })?;
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}

#[test]
fn the_dead_letter_of_a_record_that_is_too_large_contains_only_its_origin() -> Result<()> {
    let app = App::hostile("huge", &["OUT"], 1)?.topic_with("IN", &[("max.message.bytes", "8388608")])?;
    let huge = odd(app.word("a", &"x".repeat(5 << 20)), 7);
    let positions = app.client.produce(&[app.word("a", "count"), huge, app.word("a", "count")])?;
    let _host = app.run("huge", &[])?;
    assert_eq!(answers(&app.wait_for("OUT", 2)?, "a"), ["1", "2"]);
    let letters = app.wait_for_dead_letters(1)?;
    let letter = &letters[0];
    assert_eq!((&letter.key, &letter.value), (&None, &None));
    assert_eq!(letter.headers.len(), 6, "{:?}", letter.headers);
    assert_eq!(header(letter, "switchboard-class"), Some("output"));
    assert_eq!(dead_letter_origin(letter), Some(("IN".to_owned(), positions[1].0, positions[1].1)));
    assert_eq!(header(letter, "switchboard-timestamp"), Some("7"));
    Ok(())
}

#[test]
fn a_record_without_a_tenant_is_a_dead_letter_of_class_envelope() -> Result<()> {
    let app = App::hostile("envelope", &["IN", "OUT"], 1)?;
    let with = |value: Option<&[u8]>| Record {
        headers: vec![("TENANT".to_owned(), value.map(<[u8]>::to_vec))],
        ..app.word("a", "count")
    };
    let missing = Record { headers: vec![], ..app.word("a", "count") };
    let records = [app.word("a", "count"), missing, with(None), with(Some(b"\xff")), app.word("a", "count")];
    app.client.produce(&records)?;
    let _host = app.run("envelope", &[])?;
    assert_eq!(answers(&app.wait_for("OUT", 2)?, "a"), ["1", "2"]);
    let letters = app.wait_for_dead_letters(3)?;
    let reasons: Vec<_> = letters.iter().filter_map(|letter| header(letter, "switchboard-reason")).collect();
    assert_eq!(reasons, ["missing", "null", "not UTF-8"].map(|what| format!("tenant header TENANT: {what}")));
    assert!(letters.iter().all(|letter| header(letter, "switchboard-class") == Some("envelope")));
    let offsets: Vec<_> = letters.iter().filter_map(dead_letter_origin).map(|(_, _, offset)| offset).collect();
    assert_eq!(offsets, [1, 2, 3]);
    Ok(())
}

#[test]
fn a_foreign_record_in_the_repartition_topic_is_a_dead_letter_of_class_envelope() -> Result<()> {
    let app = App::hostile("foreign", &["IN", "OUT"], 1)?;
    let _host = app.run("foreign", &["--shards", "1"])?;
    let repartition_topic = format!("{}-switchboard-repartition", app.name);
    let foreign = Record { topic: repartition_topic, ..app.word("a", "count") };
    let positions = app.client.produce(std::slice::from_ref(&foreign))?;
    app.client.produce(&[app.word("a", "count")])?;
    assert_eq!(answers(&app.wait_for("OUT", 1)?, "a"), ["1"]);
    let letters = app.wait_for_dead_letters(1)?;
    assert_eq!(header(&letters[0], "switchboard-class"), Some("envelope"));
    assert_eq!((&letters[0].value, &letters[0].headers[..1]), (&foreign.value, &foreign.headers[..]));
    let origin = ("repartition".to_owned(), positions[0].0, positions[0].1);
    assert_eq!(dead_letter_origin(&letters[0]), Some(origin));
    Ok(())
}
