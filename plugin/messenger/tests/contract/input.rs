//! Which values are valid, and why others are not.

use messenger::Messenger;
use switchboard_sdk::{Message, Rejection};

use crate::tenant::*;

/// Why `value` is invalid.
fn reason(topic: &str, value: impl AsRef<[u8]>) -> String {
    let mut tenant = Tenant::with_directory();
    let value = value.as_ref();
    match tenant.send(topic, value) {
        Err(Rejection::Invalid(reason)) => reason,
        other => panic!("{} is not bad input but {other:?}", String::from_utf8_lossy(value)),
    }
}

fn assert_reason(topic: &str, value: &str, expected: &str) {
    let reason = reason(topic, value);
    assert!(reason.starts_with(expected), "{value}: {reason:?} is not {expected:?}");
}

/// A CREATE of character 1 with additional fields in front of its own.
fn create_with(fields: &str) -> String {
    format!(r#"{{{fields},"transactionId":"{TRANSACTION}","actorId":1,"type":"CREATE","body":{{}}}}"#)
}

fn assert_creates(value: &str) {
    let outputs = Tenant::with_directory().send(COMMANDS, value);
    assert_eq!(outputs, Ok(vec![created(1, 1, M)]), "{value}");
}

fn assert_ignored(topic: &str, value: &str) {
    let mut tenant = Tenant::with_directory();
    assert_eq!(tenant.send(topic, value), Ok(vec![]), "{value}");
    assert!(tenant.bench.state.0.is_empty());
}

#[test]
fn what_is_not_utf_8_is_refused() {
    assert!(reason(COMMANDS, b"\xff").starts_with("not UTF-8"));
    assert!(reason(COMMANDS, b"{\"type\":\"CREATE\",\"x\":\"\xed\xa0\x80\"}").starts_with("not UTF-8"));
}

#[test]
fn what_is_not_json_is_refused() {
    let create = command(1, "CREATE", "{}");
    let values = [
        "",
        " ",
        "{",
        "nope",
        "null x",
        "{\"type\":}",
        "{'type':'CREATE'}",
        "{\"type\":\"CREATE\",}",
        "{\"actorId\":01,\"type\":\"CREATE\"}",
        "{\"type\":\"CREATE\",\"x\":+1}",
        "{\"type\":\"CREATE\",\"x\":1.}",
        "{\"type\":\"CREATE\",\"x\":NaN}",
        "{\"type\":\"CREATE\",\"x\":\"\\x\"}",
        "{\"type\":\"CREATE\",\"x\":\"\u{1}\"}",
        "{\"a\tname\":1,\"type\":\"CREATE\"}",
        "{\"type\":\"CREATE\",\"body\":{\"a\tname\":1}}",
        "{\"type\":\"CREATE\"}{}",
    ];
    for value in values.map(String::from).into_iter().chain([
        format!("\u{feff}{create}"),
        format!("{create} trailing"),
        format!("{create}\0"),
    ]) {
        for topic in [COMMANDS, CHARACTERS, INVITES] {
            assert_reason(topic, &value, "not JSON");
        }
    }
}

#[test]
fn what_is_not_an_object_is_refused() {
    for value in ["[]", "null", "\"CREATE\"", "5", "true", r#"["00000000-0000-0000-0000-000000000000",1,"CREATE",{}]"#]
    {
        for topic in [COMMANDS, CHARACTERS, INVITES] {
            assert_reason(topic, value, "not a JSON object");
        }
    }
}

#[test]
fn a_message_without_a_type_is_refused() {
    for topic in [COMMANDS, CHARACTERS, INVITES] {
        for value in ["{}", r#"{"type":null}"#, r#"{"Type":"CREATE"}"#] {
            assert_reason(topic, value, "type is missing");
        }
        for value in [r#"{"type":5}"#, r#"{"type":["CREATE"]}"#, r#"{"type":{}}"#, r#"{"type":true}"#] {
            assert_reason(topic, value, "type is not a string");
        }
    }
}

#[test]
fn the_type_is_checked_before_the_envelope_and_the_envelope_before_the_body() {
    assert_reason(COMMANDS, r#"{"actorId":"x","transactionId":1,"body":5}"#, "type is missing");
    assert_reason(COMMANDS, r#"{"actorId":1,"actorId":1}"#, "type is missing");
    assert_reason(COMMANDS, r#"{"body":5,"actorId":"x","type":"CREATE"}"#, "actorId");
    assert_reason(COMMANDS, r#"{"body":5,"actorId":"x"} x"#, "not JSON");
}

#[test]
fn integers_have_their_range_and_no_fraction_or_exponent() {
    let not_u32 = [
        "-1",
        "-0",
        "4294967296",
        "2.0",
        "2.5",
        "2e0",
        "2E0",
        "20e-1",
        "1e999",
        "\"2\"",
        "true",
        "[2]",
        "{}",
        "99999999999999999999999999",
    ];
    for integer in not_u32 {
        assert_reason(COMMANDS, &format!(r#"{{"actorId":{integer},"type":"CREATE"}}"#), "actorId is not a u32");
        assert_reason(
            COMMANDS,
            &command(1, "JOIN", format_args!(r#"{{"messengerId":{integer}}}"#)),
            "messengerId is not a u32",
        );
        assert_reason(
            COMMANDS,
            &command(1, "LEAVE", format_args!(r#"{{"messengerId":{integer}}}"#)),
            "messengerId is not a u32",
        );
        assert_reason(
            COMMANDS,
            &command(1, "REQUEST_INVITE", format_args!(r#"{{"characterId":{integer}}}"#)),
            "characterId is not a u32",
        );
        assert_reason(
            CHARACTERS,
            &format!(r#"{{"characterId":{integer},"type":"LOGIN"}}"#),
            "characterId is not a u32",
        );
        for kind in ["LOGIN", "LOGOUT", "CHANNEL_CHANGED"] {
            let status = character_status(0, 1, kind, format_args!(r#"{{"mapId":{integer}}}"#));
            assert_reason(CHARACTERS, &status, "mapId is not a u32");
        }
        assert_reason(
            INVITES,
            &format!(r#"{{"referenceId":{integer},"type":"ACCEPTED"}}"#),
            "referenceId is not a u32",
        );
        for field in ["originatorId", "targetId"] {
            let status = format!(r#"{{"inviteType":"MESSENGER","type":"ACCEPTED","body":{{"{field}":{integer}}}}}"#);
            assert_reason(INVITES, &status, &format!("{field} is not a u32"));
        }
    }
    for integer in ["256", "-1", "1.0", "\"1\"", "1e0"] {
        assert_reason(CHARACTERS, &format!(r#"{{"worldId":{integer},"type":"LOGIN"}}"#), "worldId is not a u8");
        assert_reason(INVITES, &format!(r#"{{"worldId":{integer},"type":"ACCEPTED"}}"#), "worldId is not a u8");
        for kind in ["LOGIN", "LOGOUT", "CHANNEL_CHANGED"] {
            let status = character_status(0, 1, kind, format_args!(r#"{{"channelId":{integer}}}"#));
            assert_reason(CHARACTERS, &status, "channelId is not a u8");
        }
        let status = character_status(0, 1, "CHANNEL_CHANGED", format_args!(r#"{{"oldChannelId":{integer}}}"#));
        assert_reason(CHARACTERS, &status, "oldChannelId is not a u8");
    }
}

#[test]
fn uuids_are_hyphenated_text() {
    let bad = [
        r#""""#,
        r#""zz""#,
        "5",
        "[]",
        "true",
        r#""3a3d873c663357dbba1e91da321bec8f""#,
        r#""{3a3d873c-6633-57db-ba1e-91da321bec8f}""#,
        r#""urn:uuid:3a3d873c-6633-57db-ba1e-91da321bec8f""#,
        r#"" 3a3d873c-6633-57db-ba1e-91da321bec8""#,
        r#""3a3d873c-6633-57db-ba1e-91da321bec8g""#,
        r#""3a3d873c6-633-57db-ba1e-91da321bec8f""#,
        r#""3a3d873c-6633-57db-ba1e-91da321bec8f ""#,
        r#""3a3d873c-6633-57db-ba1e-91da321bec\u00e9""#,
    ];
    for uuid in bad {
        for topic in [COMMANDS, CHARACTERS, INVITES] {
            assert_reason(topic, &format!(r#"{{"transactionId":{uuid},"type":"CREATE"}}"#), "transactionId is not");
        }
        for kind in ["LOGIN", "LOGOUT", "CHANNEL_CHANGED"] {
            let status = character_status(0, 1, kind, format_args!(r#"{{"instance":{uuid}}}"#));
            assert_reason(CHARACTERS, &status, "instance is not");
        }
    }
}

#[test]
fn an_invite_type_is_a_string() {
    for value in ["5", "[]", "true", "{}"] {
        assert_reason(INVITES, &format!(r#"{{"inviteType":{value},"type":"ACCEPTED"}}"#), "inviteType is not a string");
    }
}

#[test]
fn the_body_of_what_is_acted_upon_is_an_object() {
    for body in ["[]", "5", "\"x\"", "true", "[0]"] {
        for kind in ["CREATE", "JOIN", "LEAVE", "REQUEST_INVITE"] {
            assert_reason(COMMANDS, &command(1, kind, body), "body is not an object");
        }
        for kind in ["LOGIN", "LOGOUT", "CHANNEL_CHANGED", "DELETED"] {
            assert_reason(CHARACTERS, &character_status(1, 1, kind, body), "body is not an object");
        }
        let status = format!(r#"{{"inviteType":"MESSENGER","type":"ACCEPTED","body":{body}}}"#);
        assert_reason(INVITES, &status, "body is not an object");
    }
}

#[test]
fn a_decoded_field_given_twice_is_refused() {
    assert_reason(COMMANDS, &create_with(r#""type":"CREATE""#), "type is given twice");
    assert_reason(COMMANDS, &create_with(r#""t\u0079pe":"CREATE""#), "type is given twice");
    assert_reason(COMMANDS, &create_with(r#""actorId":1"#), "actorId is given twice");
    assert_reason(COMMANDS, &create_with(r#""transactionId":null"#), "transactionId is given twice");
    assert_reason(COMMANDS, &create_with(r#""body":{}"#), "body is given twice");
    assert_reason(COMMANDS, &command(1, "JOIN", r#"{"messengerId":1,"messengerId":1}"#), "messengerId is given twice");
    assert_reason(CHARACTERS, &character_status(1, 1, "LOGIN", r#"{"mapId":1,"mapId":1}"#), "mapId is given twice");
}

#[test]
fn other_fields_given_twice_do_not_matter() {
    assert_creates(&create_with(r#""x":1,"x":2"#));
    assert_creates(&command(1, "CREATE", r#"{"messengerId":1,"messengerId":2}"#));
    assert_ignored(COMMANDS, r#"{"type":"OTHER","body":1,"body":2}"#);
}

#[test]
fn unknown_fields_may_hold_anything() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deeper = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    for anything in
        ["null", "1e999999", "-0", "123456789012345678901234567890", r#""\ud800\udc00\udc00""#, &deep, &deeper]
    {
        assert_creates(&create_with(&format!(r#""x":{anything}"#)));
        assert_creates(&command(1, "CREATE", format_args!(r#"{{"x":{anything}}}"#)));
    }
    assert_creates(&create_with(r#""\ud800":1,"":2,"ActorId":"x","actorid":7,"TYPE":5"#));
}

#[test]
fn the_body_of_an_ignored_message_may_be_anything() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in ["5", "[]", r#"{"messengerId":"x","channelId":-1,"targetId":2.5}"#, r#"{"mapId":1,"mapId":1}"#, &deep] {
        assert_ignored(COMMANDS, &command(1, "OTHER", body));
        assert_ignored(CHARACTERS, &character_status(1, 1, "MAP_CHANGED", body));
        assert_ignored(INVITES, &format!(r#"{{"inviteType":"MESSENGER","type":"REJECTED","body":{body}}}"#));
        assert_ignored(INVITES, &format!(r#"{{"inviteType":"BUDDY","type":"ACCEPTED","body":{body}}}"#));
        assert_ignored(INVITES, &format!(r#"{{"type":"ACCEPTED","body":{body}}}"#));
    }
    assert_ignored(COMMANDS, r#"{"type":"\ud800"}"#);
}

#[test]
fn the_envelope_of_an_ignored_message_is_checked() {
    assert_reason(COMMANDS, r#"{"type":"OTHER","actorId":-1}"#, "actorId");
    assert_reason(COMMANDS, r#"{"type":"OTHER","transactionId":"x"}"#, "transactionId");
    assert_reason(CHARACTERS, r#"{"type":"MAP_CHANGED","worldId":256}"#, "worldId");
    assert_reason(CHARACTERS, r#"{"type":"MAP_CHANGED","characterId":""}"#, "characterId");
    assert_reason(INVITES, r#"{"type":"OTHER","worldId":256}"#, "worldId");
    assert_reason(INVITES, r#"{"type":"OTHER","inviteType":5}"#, "inviteType");
    assert_reason(INVITES, r#"{"type":"OTHER","referenceId":"x"}"#, "referenceId");
}

#[test]
fn missing_and_null_fields_read_as_nothing() {
    let nil = |outputs: Vec<Sent>| -> Vec<String> { outputs.into_iter().map(|(_, _, value)| value).collect() };
    let expected = r#"{"transactionId":"00000000-0000-0000-0000-000000000000","actorId":0,"worldId":9,"messengerId":0,"type":"ERROR","body":{"type":"ERROR_UNEXPECTED","characterName":""}}"#;
    for fields in
        ["", r#","body":null"#, r#","body":{}"#, r#","actorId":null,"transactionId":null,"body":{"messengerId":null}"#]
    {
        for kind in ["JOIN", "LEAVE"] {
            let mut tenant = Tenant::default();
            tenant.login(0, 9, 0);
            let outputs = tenant.send(COMMANDS, format!(r#"{{"type":"{kind}"{fields}}}"#)).expect("outputs");
            assert_eq!(nil(outputs), [expected]);
        }
    }
    let mut tenant = Tenant::default();
    for kind in ["LOGIN", "CHANNEL_CHANGED", "LOGOUT", "DELETED"] {
        let message = format!(r#"{{"type":"{kind}","worldId":null,"characterId":null,"body":null}}"#);
        assert_eq!(tenant.send(CHARACTERS, message), Ok(vec![]));
    }
}

#[test]
fn field_order_and_white_space_do_not_matter() {
    assert_creates(&format!(
        "\r\n\t {{ \"body\" : {{ }} ,\n\"type\":\"CRE\\u0041TE\",\"actorId\" : 1 , \"transactionId\":\"{TRANSACTION}\"}} \n"
    ));
}

#[test]
fn a_tombstone_is_ignored() {
    for topic in [COMMANDS, CHARACTERS, INVITES] {
        let message = Message { topic: topic.into(), ..Message::default() };
        assert_eq!(Tenant::default().bench.handle::<Messenger>(&message), Ok(vec![]));
    }
}

#[test]
fn record_key_and_headers_decide_nothing() {
    for key in [None, Some(vec![]), Some(2_u64.to_le_bytes().to_vec()), Some(b"x".to_vec())] {
        let value = Some(command(1, "CREATE", "{}").into_bytes());
        let message = Message { topic: COMMANDS.into(), key, value, ..Message::default() };
        let outputs = Tenant::with_directory().bench.handle::<Messenger>(&message).expect("outputs");
        assert_eq!(outputs[0].value, Some(created(1, 1, M).2.into_bytes()));
    }
}

#[test]
fn a_topic_of_somebody_else_is_refused() {
    assert_reason("EVENT_TOPIC_OTHER", &command(1, "CREATE", "{}"), "EVENT_TOPIC_OTHER is not a topic");
}
