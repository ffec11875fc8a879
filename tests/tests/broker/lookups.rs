//! The messenger and its directory over HTTP: an answer, «not found», or a dead letter, never one for the other.

use std::time::Duration;

use anyhow::{Context, Result};
use axum::http::StatusCode;
use serde_json::{Value, json};
use switchboard_tests::app::{App, LONG, MESSENGER, header, source};
use switchboard_tests::client::Record;
use switchboard_tests::directory::{Directory, Fault};
use uuid::Uuid;

const COMMANDS: &str = MESSENGER[0];
const LOGINS: &str = MESSENGER[1];
const OUTCOMES: &str = MESSENGER[3];
/// How often a source is asked at most: once, and by default five times again.
const REQUESTS: usize = 6;
/// The only character.
const ANN: &str = "7";

fn tenant(number: u64) -> String {
    Uuid::from_u64_pair(0x10_0c, number).to_string()
}

fn ann() -> Value {
    json!({"data": {"type": "characters", "id": ANN, "attributes": {"name": "Ann", "worldId": 1}}})
}

fn record(app: &App, alias: &str, tenant: &str, value: &Value) -> Record {
    Record {
        topic: app.topic(alias).to_owned(),
        value: Some(value.to_string().into_bytes()),
        headers: vec![
            ("TENANT_ID".to_owned(), Some(tenant.as_bytes().to_vec())),
            ("REGION".to_owned(), Some("Straße".into())),
            ("MAJOR_VERSION".to_owned(), Some(vec![1, 0])),
            ("MINOR_VERSION".to_owned(), Some(vec![0, 9])),
        ],
        ..Record::default()
    }
}

/// What Ann cannot do twice: her second attempt is told that she is in a messenger.
fn create(app: &App, tenant: &str) -> Record {
    record(app, COMMANDS, tenant, &json!({"actorId": 7, "type": "CREATE", "body": {}}))
}

/// What came of a tenant's commands, in order: CREATED, or the type of the error.
fn outcomes(outputs: &[Record], tenant: &str) -> Result<Vec<String>> {
    let own = outputs.iter().filter(|output| header(output, "TENANT_ID") == Some(tenant));
    let outcome = |output: &Record| {
        let event: Value = serde_json::from_slice(output.value.as_deref().unwrap_or_default())?;
        let of = if event["type"] == "ERROR" { &event["body"]["type"] } else { &event["type"] };
        Ok(of.as_str().with_context(|| format!("no type: {event}"))?.to_owned())
    };
    own.map(outcome).collect()
}

const CREATED: &str = "CREATED";
const UNKNOWN: &str = "ERROR_UNEXPECTED";
const ALREADY: &str = "ALREADY_HAVE_JOINED_A_MESSENGER_1";

#[test]
fn a_source_that_fails_for_a_while_is_asked_again() -> Result<()> {
    let faults = [
        (Fault::Status(StatusCode::SERVICE_UNAVAILABLE), 3),
        (Fault::Close, 1),
        (Fault::Garbage, 1),
        (Fault::Document("{}"), 1),
        (Fault::Document(r#"{"data":{"attributes":{"name":"Ann","worldId":256}}}"#), 1),
        (Fault::Delay(Duration::from_secs(3)), 1),
    ];
    let directory = Directory::start()?;
    let app = App::messenger("patient", 1)?.env("CHARACTERS_SERVICE_URL", &directory.url());
    let tenants: Vec<String> = (0..).take(faults.len()).map(tenant).collect();
    for (tenant, (fault, times)) in tenants.iter().zip(faults) {
        directory.put(tenant, ANN, &ann());
        directory.fail(tenant, ANN, fault, times);
    }
    app.client.produce(&tenants.iter().map(|tenant| create(&app, tenant)).collect::<Vec<_>>())?;
    let _host = app.run("patient", &[])?;
    let outputs = app.wait_for(OUTCOMES, faults.len())?;
    for (tenant, (fault, times)) in tenants.iter().zip(faults) {
        assert_eq!(outcomes(&outputs, tenant)?, [CREATED], "{fault:?}");
        assert_eq!(directory.requests(tenant, ANN).len(), times + 1, "{fault:?}");
    }
    assert_eq!(app.client.read_all(&app.dead_letters())?, []);
    Ok(())
}

#[test]
fn a_source_without_an_answer_makes_a_dead_letter_never_a_not_found() -> Result<()> {
    let directory = Directory::start()?;
    let app = App::messenger("hopeless", 1)?.env("CHARACTERS_SERVICE_URL", &directory.url());
    let [failing, closing, unusable, fine] = [0, 1, 2, 3].map(tenant);
    for (tenant, fault) in [
        (&failing, Fault::Status(StatusCode::INTERNAL_SERVER_ERROR)),
        (&closing, Fault::Close),
        (&unusable, Fault::Document("[]")),
    ] {
        directory.fail(tenant, ANN, fault, usize::MAX);
    }
    directory.put(&fine, ANN, &ann());
    let mut host = app.run("hopeless", &[])?;
    for bad in [&failing, &closing, &unusable] {
        let places = app.client.produce(&[create(&app, bad), create(&app, &fine)])?;
        let letters = app.wait_for_letters(usize::try_from(places[0].1)? / 2 + 1)?;
        let letter = letters.last().context("a dead letter")?;
        assert_eq!(source(letter), Some((COMMANDS.to_owned(), places[0].0, places[0].1)));
        assert_eq!(header(letter, "switchboard-class"), Some("lookup"));
        let reason = header(letter, "switchboard-reason").unwrap_or_default();
        assert!(reason.contains("characters"), "{reason}");
        let requests = directory.requests(bad, ANN).len();
        assert!((1..=REQUESTS).contains(&requests), "given up after {requests} requests");
    }
    let outputs = app.wait_for(OUTCOMES, 3)?;
    assert_eq!(outcomes(&outputs, &fine)?, [CREATED, ALREADY, ALREADY]);
    assert!(host.terminate(LONG)?.success());
    assert_eq!(app.client.read_all(app.topic(OUTCOMES))?.len(), 3);
    Ok(())
}

#[test]
fn what_the_source_does_not_have_is_unknown_and_asked_for_once() -> Result<()> {
    let directory = Directory::start()?;
    let app = App::messenger("missing", 1)?.env("CHARACTERS_SERVICE_URL", &directory.url());
    let id = tenant(0);
    app.client.produce(&[create(&app, &id), create(&app, &id)])?;
    let _host = app.run("missing", &[])?;
    assert_eq!(outcomes(&app.wait_for(OUTCOMES, 2)?, &id)?, [UNKNOWN, UNKNOWN]);
    assert_eq!(directory.requests(&id, ANN).len(), 1);
    Ok(())
}

#[test]
fn the_tenants_headers_are_passed_on_as_text() -> Result<()> {
    let directory = Directory::start()?;
    let app = App::messenger("headers", 1)?.env("CHARACTERS_SERVICE_URL", &directory.url());
    let id = tenant(0xabc).to_uppercase();
    directory.put(&id, ANN, &ann());
    app.client.produce(&[create(&app, &id)])?;
    let _host = app.run("headers", &[])?;
    assert_eq!(outcomes(&app.wait_for(OUTCOMES, 1)?, &id)?, [CREATED]);
    let requests = directory.requests(&id, ANN);
    let value = |name: &str| Some(str::from_utf8(requests[0].get(name)?.as_bytes()).unwrap_or("not UTF-8"));
    assert_eq!(
        ["TENANT_ID", "REGION", "MAJOR_VERSION", "MINOR_VERSION"].map(value),
        [Some(id.as_str()), Some("Straße"), Some("256"), Some("9")]
    );
    Ok(())
}

#[test]
fn the_sources_own_variable_comes_before_the_common_one_each_with_or_without_a_slash() -> Result<()> {
    let directory = Directory::start()?;
    let (id, url) = (tenant(0), directory.url());
    directory.put(&id, ANN, &ann());
    let bare = url.trim_end_matches('/');
    let environments = [
        vec![("CHARACTERS_SERVICE_URL", url.as_str()), ("BASE_SERVICE_URL", "http://127.0.0.1:9/")],
        vec![("CHARACTERS_SERVICE_URL", bare), ("BASE_SERVICE_URL", "")],
        vec![("BASE_SERVICE_URL", &url)],
        vec![("BASE_SERVICE_URL", bare)],
    ];
    for environment in environments {
        let app = App::messenger("base", 1)?;
        let app = environment.iter().fold(app, |app, (name, value)| app.env(name, value));
        app.client.produce(&[create(&app, &id)])?;
        let _host = app.run("base", &[])?;
        assert_eq!(outcomes(&app.wait_for(OUTCOMES, 1)?, &id)?, [CREATED], "{environment:?}");
    }
    Ok(())
}

#[test]
fn without_a_directory_characters_become_known_by_their_login() -> Result<()> {
    let app = App::messenger("alone", 1)?;
    let id = tenant(0);
    let _host = app.run("alone", &[])?;
    app.client.produce(&[create(&app, &id)])?;
    assert_eq!(outcomes(&app.wait_for(OUTCOMES, 1)?, &id)?, [UNKNOWN]);
    let login = json!({"worldId": 1, "characterId": 7, "type": "LOGIN", "body": {"channelId": 2}});
    // Its dead letter comes when the login, before it in its topic, is done with.
    let barrier = record(&app, LOGINS, &id, &json!([]));
    app.client.produce(&[record(&app, LOGINS, &id, &login), barrier])?;
    app.wait_for_letters(1)?;
    app.client.produce(&[create(&app, &id)])?;
    assert_eq!(outcomes(&app.wait_for(OUTCOMES, 2)?, &id)?, [UNKNOWN, CREATED]);
    Ok(())
}
