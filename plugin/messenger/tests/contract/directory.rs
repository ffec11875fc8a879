//! The character directory: which answers are valid.

use switchboard_sdk::Rejection;

use crate::tenant::*;

#[test]
fn without_a_directory_only_logins_make_a_character_known() {
    let mut tenant = Tenant::default();
    assert_eq!(tenant.create(1), [error(UNEXPECTED, 1, 0, 0)]);
    assert_eq!(tenant.logout(1), []);
    tenant.login(1, 4, 2);
    assert_eq!(tenant.create(1), [created(1, 4, M)]);
}

#[test]
fn an_answer_may_have_more_fields() {
    let answers = [
        r#"{"data":{"attributes":{"name":"Eve","worldId":5}}}"#,
        r#"{"data":{"id":"8","type":"other","attributes":{"worldId":5,"name":"Eve","x":"\ud800","y":1e99999},"links":[]},"x":null}"#,
        " {\"data\" : {\"attributes\" : {\"name\" : \"\\u0045ve\" , \"worldId\" : 5 }}}\n",
        r#"{"data":{"attributes":{"name":"Eve","worldId":5,"x":1,"x":2}},"meta":1,"meta":2}"#,
    ];
    for answer in answers {
        let mut tenant = Tenant::with_directory();
        tenant.directory_answers(7, answer);
        assert_eq!(tenant.create(7), [created(7, 5, M)], "{answer}");
        assert_eq!(tenant.request_invite(1, 7), [named_error(ALREADY_2, 1, M, 5, "Eve")], "{answer}");
    }
}

#[test]
fn an_answer_without_a_valid_name_and_world_is_unusable() {
    let answers = [
        "",
        "not found",
        "null",
        "[]",
        r#"["data"]"#,
        "{}",
        r#"{"data":null}"#,
        r#"{"data":[]}"#,
        r#"{"data":{}}"#,
        r#"{"data":{"attributes":{}}}"#,
        r#"{"data":{"attributes":[]}}"#,
        r#"{"data":{"attributes":{"name":"Eve"}}}"#,
        r#"{"data":{"attributes":{"worldId":5}}}"#,
        r#"{"data":{"attributes":{"name":null,"worldId":5}}}"#,
        r#"{"data":{"attributes":{"name":7,"worldId":5}}}"#,
        r#"{"data":{"attributes":{"name":"Eve","worldId":null}}}"#,
        r#"{"data":{"attributes":{"name":"Eve","worldId":256}}}"#,
        r#"{"data":{"attributes":{"name":"Eve","worldId":-1}}}"#,
        r#"{"data":{"attributes":{"name":"Eve","worldId":5.0}}}"#,
        r#"{"data":{"attributes":{"name":"Eve","worldId":"5"}}}"#,
        r#"{"data":{"attributes":{"name":"Eve","Name":"Eve","worldid":5}}}"#,
        r#"{"data":{"attributes":{"name":"Eve","name":"Eve","worldId":5}}}"#,
        r#"{"data":{"attributes":{"name":"Eve","worldId":5}}} x"#,
        "\u{feff}{\"data\":{\"attributes\":{\"name\":\"Eve\",\"worldId\":5}}}",
        r#"{"errors":[{"status":"500"}]}"#,
    ];
    let messages = [
        (COMMANDS, command(7, "CREATE", "{}")),
        (COMMANDS, command(7, "JOIN", "{}")),
        (COMMANDS, command(7, "LEAVE", "{}")),
        (COMMANDS, command(7, "REQUEST_INVITE", r#"{"characterId":2}"#)),
        (COMMANDS, command(1, "REQUEST_INVITE", r#"{"characterId":7}"#)),
        (INVITES, invite_status("MESSENGER", "ACCEPTED", 7, M)),
        (CHARACTERS, character_status(1, 7, "LOGIN", place(1))),
        (CHARACTERS, character_status(1, 7, "LOGOUT", place(1))),
        (CHARACTERS, character_status(1, 7, "CHANNEL_CHANGED", place(1))),
        (CHARACTERS, character_status(1, 7, "DELETED", "{}")),
    ];
    for answer in answers {
        for (topic, value) in &messages {
            let mut tenant = Tenant::with_directory();
            tenant.directory_answers(7, answer);
            let handled = tenant.send(topic, value);
            assert!(matches!(handled, Err(Rejection::UnusableAnswer(_))), "{value} with {answer:?}: {handled:?}");
            assert!(tenant.bench.state.0.is_empty());
        }
    }
}

#[test]
fn a_broken_answer_does_not_matter_once_the_character_is_known() {
    let mut tenant = Tenant::with_directory();
    tenant.create(2);
    tenant.directory_answers(2, "broken");
    assert_eq!(tenant.login(2, 1, 1), [member("LOGIN", 2, M, 2)]);
}

#[test]
fn the_target_is_not_looked_up_for_an_unknown_inviter() {
    let mut tenant = Tenant::with_directory();
    tenant.directory_answers(7, "broken");
    assert_eq!(tenant.request_invite(9, 7), [error(UNEXPECTED, 9, 0, 0)]);
}
