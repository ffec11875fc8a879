//! Do lookups over HTTP give the plugin an answer, "not found", or a dead letter, and never one instead of another?

use std::time::Duration;

use anyhow::{Context, Result};
use axum::http::StatusCode;
use serde_json::{Value, json};
use switchboard_tests::app::{App, MESSENGER, WAIT_LIMIT, dead_letter_origin, header};
use switchboard_tests::client::Record;
use switchboard_tests::directory::{Directory, Fault};
use uuid::Uuid;

const COMMANDS: &str = MESSENGER[0];
const LOGINS: &str = MESSENGER[1];
const OUTCOMES: &str = MESSENGER[3];
/// The maximum number of requests for one lookup: the first, and by default five more.
const MAX_LOOKUP_REQUESTS: usize = 6;
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

/// A command that Ann cannot repeat: a second one gets the error that she is in a messenger.
fn create(app: &App, tenant: &str) -> Record {
    record(app, COMMANDS, tenant, &json!({"actorId": 7, "type": "CREATE", "body": {}}))
}

/// The outcomes of a tenant's commands, in order: CREATED, or the type of the error.
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
const CHARACTER_UNKNOWN: &str = "ERROR_UNEXPECTED";
const ALREADY_IN_MESSENGER: &str = "ALREADY_HAVE_JOINED_A_MESSENGER_1";

#[test]
fn a_lookup_source_that_fails_temporarily_is_asked_again() -> Result<()> {
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
fn a_lookup_source_without_an_answer_makes_a_dead_letter_and_never_a_not_found() -> Result<()> {
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
        let positions = app.client.produce(&[create(&app, bad), create(&app, &fine)])?;
        let letters = app.wait_for_dead_letters(usize::try_from(positions[0].1)? / 2 + 1)?;
        let letter = letters.last().context("a dead letter")?;
        assert_eq!(dead_letter_origin(letter), Some((COMMANDS.to_owned(), positions[0].0, positions[0].1)));
        assert_eq!(header(letter, "switchboard-class"), Some("lookup"));
        let reason = header(letter, "switchboard-reason").unwrap_or_default();
        assert!(reason.contains("characters"), "{reason}");
        let requests = directory.requests(bad, ANN).len();
        assert!((1..=MAX_LOOKUP_REQUESTS).contains(&requests), "given up after {requests} requests");
    }
    let outputs = app.wait_for(OUTCOMES, 3)?;
    assert_eq!(outcomes(&outputs, &fine)?, [CREATED, ALREADY_IN_MESSENGER, ALREADY_IN_MESSENGER]);
    assert!(host.terminate(WAIT_LIMIT)?.success());
    assert_eq!(app.client.read_all(app.topic(OUTCOMES))?.len(), 3);
    Ok(())
}

#[test]
fn a_not_found_from_the_lookup_source_is_an_answer_and_asked_for_once() -> Result<()> {
    let directory = Directory::start()?;
    let app = App::messenger("missing", 1)?.env("CHARACTERS_SERVICE_URL", &directory.url());
    let id = tenant(0);
    app.client.produce(&[create(&app, &id), create(&app, &id)])?;
    let _host = app.run("missing", &[])?;
    assert_eq!(outcomes(&app.wait_for(OUTCOMES, 2)?, &id)?, [CHARACTER_UNKNOWN, CHARACTER_UNKNOWN]);
    assert_eq!(directory.requests(&id, ANN).len(), 1);
    Ok(())
}

#[test]
fn the_tenant_headers_are_sent_to_the_lookup_source_as_text() -> Result<()> {
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
fn the_lookup_sources_own_url_variable_wins_over_the_common_one_and_a_final_slash_is_optional() -> Result<()> {
    let directory = Directory::start()?;
    let id = tenant(0);
    let url = directory.url();
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
    assert_eq!(outcomes(&app.wait_for(OUTCOMES, 1)?, &id)?, [CHARACTER_UNKNOWN]);
    let login = json!({"worldId": 1, "characterId": 7, "type": "LOGIN", "body": {"channelId": 2}});
    // The dead letter of the barrier shows that the login before it has been processed.
    let barrier = record(&app, LOGINS, &id, &json!([]));
    app.client.produce(&[record(&app, LOGINS, &id, &login), barrier])?;
    app.wait_for_dead_letters(1)?;
    app.client.produce(&[create(&app, &id)])?;
    assert_eq!(outcomes(&app.wait_for(OUTCOMES, 2)?, &id)?, [CHARACTER_UNKNOWN, CREATED]);
    Ok(())
}
