//! The bytes of produced messages, as Go's `encoding/json` writes them.

use messenger::Messenger;
use serde_json::json;
use switchboard_sdk::{Message, Plugin};

use crate::tenant::*;

/// The text of the name in an output, between its quotes.
fn written(name: &str) -> String {
    let mut tenant = Tenant::with_directory();
    tenant.directory_knows(7, name, 7);
    tenant.create(7);
    let outputs = tenant.request_invite(1, 7);
    let [(_, _, value)] = outputs.as_slice() else { panic!("one output, not {outputs:?}") };
    let (_, rest) = value.split_once(r#""characterName":""#).expect("a name");
    rest.strip_suffix(r#""}}"#).expect("its end").to_owned()
}

#[test]
fn characters_special_to_html_and_javascript_are_escaped() {
    assert_eq!(written("<b>&"), r"\u003cb\u003e\u0026");
    assert_eq!(written("a\u{2028}b\u{2029}"), r"a\u2028b\u2029");
    assert_eq!(written("<<>>"), r"\u003c\u003c\u003e\u003e");
}

#[test]
fn quotes_and_backslashes_are_escaped() {
    assert_eq!(written(r#"a"b\c"#), r#"a\"b\\c"#);
}

#[test]
fn control_characters_are_escaped() {
    for code in 0..0x20_u8 {
        let expected = match code {
            0x08 => r"\b".to_owned(),
            0x0c => r"\f".to_owned(),
            b'\n' => r"\n".to_owned(),
            b'\r' => r"\r".to_owned(),
            b'\t' => r"\t".to_owned(),
            _ => format!(r"\u{code:04x}"),
        };
        assert_eq!(written(&char::from(code).to_string()), expected);
    }
}

#[test]
fn other_text_is_written_as_it_is() {
    for text in ["", "Ann", "/'`=+", "\u{7f}\u{80}\u{a0}", "Zoë 日本 🎉", "\u{2027}\u{202a}\u{feff}\u{fffd}\u{ffff}"]
    {
        assert_eq!(written(text), text);
    }
}

#[test]
fn escapes_of_the_directory_are_read_and_written_anew() {
    let mut tenant = Tenant::with_directory();
    tenant.directory_answers(7, r#"{"data":{"attributes":{"name":"\u0041\/\ud83c\udf89\ud800","worldId":7}}}"#);
    tenant.create(7);
    // A lone surrogate is not a character; Go reads it as U+FFFD.
    assert_eq!(tenant.request_invite(1, 7), [named_error(ALREADY_2, 1, M, 7, "A/🎉\u{fffd}")]);
}

#[test]
fn a_transaction_id_is_written_in_lower_case() {
    let mut tenant = Tenant::with_directory();
    let message = command(1, "CREATE", "{}").replace(TRANSACTION, &TRANSACTION.to_uppercase());
    assert_eq!(tenant.send(COMMANDS, message), Ok(vec![created(1, 1, M)]));
}

#[test]
fn without_a_transaction_id_outputs_carry_the_nil_uuid() {
    let mut tenant = Tenant::with_directory();
    let outputs = tenant.send(COMMANDS, r#"{"actorId":1,"type":"CREATE"}"#).expect("outputs");
    let (topic, id, value) = created(1, 1, M);
    let value = value.replace(TRANSACTION, "00000000-0000-0000-0000-000000000000");
    assert_eq!(outputs, [(topic, id, value)]);
}

#[test]
fn keys_are_eight_bytes_little_endian() {
    let value = Some(command(1, "CREATE", "{}").into_bytes());
    let message = Message { topic: COMMANDS.into(), value, ..Message::default() };
    let outputs = Tenant::with_directory().bench.handle::<Messenger>(&message).expect("outputs");
    assert_eq!(outputs[0].key.as_deref(), Some(&[0x00, 0xca, 0x9a, 0x3b, 0, 0, 0, 0][..]));
}

#[test]
fn the_manifest_names_all_topics_and_lookups() {
    let manifest = Messenger::manifest();
    assert_eq!(manifest.consumes, [COMMANDS, CHARACTERS, INVITES]);
    assert_eq!(
        manifest.produces,
        ["EVENT_TOPIC_MESSENGER_STATUS", "EVENT_TOPIC_MESSENGER_MEMBER_STATUS", "COMMAND_TOPIC_INVITE"]
    );
    assert_eq!(manifest.lookups, ["characters"]);
    assert_eq!((manifest.name.as_str(), manifest.state_version), ("messenger", 1));
}

#[test]
fn state_is_compact_json_under_sortable_keys() {
    let mut tenant = Tenant::with_directory();
    tenant.create(1);
    let state: Vec<_> =
        tenant.bench.state.0.iter().map(|(key, value)| (key.as_str(), str::from_utf8(value).unwrap())).collect();
    let ann = json!({"id": 1, "name": "Ann", "worldId": 1, "channelId": 0, "messengerId": M, "online": false});
    assert_eq!(tenant.character(1), Some(ann));
    assert_eq!(
        state,
        [
            (
                "character/0000000001",
                r#"{"id":1,"name":"Ann","worldId":1,"channelId":0,"messengerId":1000000000,"online":false}"#
            ),
            ("messenger/1000000000", r#"{"id":1000000000,"members":[{"characterId":1,"slot":0}]}"#),
            ("next-messenger", "1000000001"),
        ]
    );
}
