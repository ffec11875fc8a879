//! A tenant to send messages to, and the expected outputs, which do not use the plugin's own encoding.

use std::fmt::Display;

use messenger::Messenger;
use serde_json::json;
use switchboard_sdk::testkit::Bench;
use switchboard_sdk::{Message, Outbound, Plugin, Rejection};

pub(crate) const COMMANDS: &str = "COMMAND_TOPIC_MESSENGER";
pub(crate) const CHARACTERS: &str = "EVENT_TOPIC_CHARACTER_STATUS";
pub(crate) const INVITES: &str = "EVENT_TOPIC_INVITE_STATUS";

/// The id of a tenant's first messenger.
pub(crate) const M: u32 = 1_000_000_000;

pub(crate) const TRANSACTION: &str = "3a3d873c-6633-57db-ba1e-91da321bec8f";
pub(crate) const INSTANCE: &str = "00000000-0000-4000-8000-00000000000a";

/// A sent record: topic alias, the id in its key, value.
pub(crate) type Sent = (String, u32, String);

#[derive(Default)]
pub(crate) struct Tenant {
    pub(crate) bench: Bench,
}

impl Tenant {
    /// A tenant whose directory knows Ann (1), Bob (2), Cyd (3) and Dee (4). The world of each has the number of its
    /// id.
    pub(crate) fn with_directory() -> Self {
        let mut tenant = Self::default();
        for (number, name) in [(1_u8, "Ann"), (2, "Bob"), (3, "Cyd"), (4, "Dee")] {
            tenant.directory_knows(number.into(), name, number);
        }
        tenant
    }

    pub(crate) fn directory_knows(&mut self, id: u32, name: &str, world: u8) {
        let attributes = json!({"name": name, "worldId": world});
        let document = json!({"data": {"type": "characters", "id": id.to_string(), "attributes": attributes}});
        self.directory_answers(id, &document.to_string());
    }

    pub(crate) fn directory_answers(&mut self, id: u32, answer: &str) {
        self.bench.answers.set("characters", &id.to_string(), answer);
    }

    pub(crate) fn send(&mut self, topic: &str, value: impl AsRef<[u8]>) -> Result<Vec<Sent>, Rejection> {
        let value = Some(value.as_ref().to_vec());
        let message = Message { topic: topic.into(), tenant: "tenant".into(), value, ..Message::default() };
        let outputs = self.bench.handle::<Messenger>(&message)?;
        Ok(outputs.into_iter().map(sent).collect())
    }

    fn expect(&mut self, topic: &str, value: &str) -> Vec<Sent> {
        self.send(topic, value).unwrap_or_else(|rejection| panic!("{value}: {rejection:?}"))
    }

    pub(crate) fn create(&mut self, actor: u32) -> Vec<Sent> {
        self.expect(COMMANDS, &command(actor, "CREATE", "{}"))
    }

    pub(crate) fn join(&mut self, actor: u32, messenger: u32) -> Vec<Sent> {
        self.expect(COMMANDS, &command(actor, "JOIN", format_args!(r#"{{"messengerId":{messenger}}}"#)))
    }

    pub(crate) fn leave(&mut self, actor: u32, messenger: u32) -> Vec<Sent> {
        self.expect(COMMANDS, &command(actor, "LEAVE", format_args!(r#"{{"messengerId":{messenger}}}"#)))
    }

    pub(crate) fn request_invite(&mut self, actor: u32, target: u32) -> Vec<Sent> {
        self.expect(COMMANDS, &command(actor, "REQUEST_INVITE", format_args!(r#"{{"characterId":{target}}}"#)))
    }

    pub(crate) fn accept(&mut self, target: u32, messenger: u32) -> Vec<Sent> {
        self.expect(INVITES, &invite_status("MESSENGER", "ACCEPTED", target, messenger))
    }

    pub(crate) fn login(&mut self, character: u32, world: u8, channel: u8) -> Vec<Sent> {
        self.expect(CHARACTERS, &character_status(world, character, "LOGIN", place(channel)))
    }

    pub(crate) fn logout(&mut self, character: u32) -> Vec<Sent> {
        self.expect(CHARACTERS, &character_status(0, character, "LOGOUT", place(0)))
    }

    pub(crate) fn change_channel(&mut self, character: u32, channel: u8) -> Vec<Sent> {
        let body = format!(r#"{{"channelId":{channel},"oldChannelId":0,"mapId":1,"instance":"{INSTANCE}"}}"#);
        self.expect(CHARACTERS, &character_status(0, character, "CHANNEL_CHANGED", body))
    }

    pub(crate) fn delete(&mut self, character: u32) -> Vec<Sent> {
        self.expect(CHARACTERS, &character_status(0, character, "DELETED", "{}"))
    }

    /// The character in state: `{"name": ..., "worldId": ..., "channelId": ..., "messengerId": ..., "online": ...}`.
    pub(crate) fn character(&self, id: u32) -> Option<serde_json::Value> {
        let value = self.bench.state.0.get(&format!("character/{id:010}"))?;
        Some(serde_json::from_slice(value).expect("a character is JSON"))
    }
}

pub(crate) fn manifest_produces(topic: &str) -> bool {
    Messenger::manifest().produces.iter().any(|alias| alias == topic)
}

fn sent(output: Outbound) -> Sent {
    assert!(manifest_produces(&output.topic), "{} is not produced", output.topic);
    assert!(output.headers.is_empty());
    let key: [u8; 8] = output.key.expect("a key").try_into().expect("a key of eight bytes");
    let [a, b, c, d, 0, 0, 0, 0] = key else { panic!("four zeros at the end of {key:?}") };
    let value = String::from_utf8(output.value.expect("a value")).expect("UTF-8");
    (output.topic, u32::from_le_bytes([a, b, c, d]), value)
}

pub(crate) fn command(actor: u32, kind: &str, body: impl Display) -> String {
    format!(r#"{{"transactionId":"{TRANSACTION}","actorId":{actor},"type":"{kind}","body":{body}}}"#)
}

pub(crate) fn character_status(world: u8, character: u32, kind: &str, body: impl Display) -> String {
    format!(
        r#"{{"transactionId":"{TRANSACTION}","worldId":{world},"characterId":{character},"type":"{kind}","body":{body}}}"#
    )
}

pub(crate) fn invite_status(invite_type: &str, kind: &str, target: u32, messenger: u32) -> String {
    format!(
        r#"{{"transactionId":"{TRANSACTION}","worldId":0,"inviteType":"{invite_type}","referenceId":{messenger},"type":"{kind}","body":{{"originatorId":1,"targetId":{target}}}}}"#
    )
}

pub(crate) fn place(channel: u8) -> String {
    format!(r#"{{"channelId":{channel},"mapId":100000000,"instance":"{INSTANCE}"}}"#)
}

pub(crate) fn created(actor: u32, world: u8, messenger: u32) -> Sent {
    status(actor, world, messenger, "CREATED", "{}")
}

pub(crate) fn joined(actor: u32, world: u8, messenger: u32, slot: u8) -> Sent {
    status(actor, world, messenger, "JOINED", &format!(r#"{{"slot":{slot}}}"#))
}

pub(crate) fn left(actor: u32, world: u8, messenger: u32, slot: u8) -> Sent {
    status(actor, world, messenger, "LEFT", &format!(r#"{{"slot":{slot}}}"#))
}

pub(crate) const UNEXPECTED: &str = "ERROR_UNEXPECTED";
pub(crate) const ALREADY_1: &str = "ALREADY_HAVE_JOINED_A_MESSENGER_1";
pub(crate) const ALREADY_2: &str = "ALREADY_HAVE_JOINED_A_MESSENGER_2";
pub(crate) const FULL: &str = "THE_MESSENGER_YOURE_TRYING_TO_JOIN_IS_ALREADY_IN_FULL_CAPACITY";

pub(crate) fn error(kind: &str, actor: u32, messenger: u32, world: u8) -> Sent {
    named_error(kind, actor, messenger, world, "")
}

pub(crate) fn named_error(kind: &str, actor: u32, messenger: u32, world: u8, name: &str) -> Sent {
    let body = format!(r#"{{"type":"{kind}","characterName":"{name}"}}"#);
    status(actor, world, messenger, "ERROR", &body)
}

fn status(actor: u32, world: u8, messenger: u32, kind: &str, body: &str) -> Sent {
    let value = format!(
        r#"{{"transactionId":"{TRANSACTION}","actorId":{actor},"worldId":{world},"messengerId":{messenger},"type":"{kind}","body":{body}}}"#
    );
    ("EVENT_TOPIC_MESSENGER_STATUS".into(), messenger, value)
}

pub(crate) fn member(kind: &str, world: u8, messenger: u32, character: u32) -> Sent {
    let value = format!(
        r#"{{"transactionId":"{TRANSACTION}","worldId":{world},"messengerId":{messenger},"characterId":{character},"type":"{kind}","body":{{}}}}"#
    );
    ("EVENT_TOPIC_MESSENGER_MEMBER_STATUS".into(), messenger, value)
}

pub(crate) fn invite(world: u8, originator: u32, target: u32, messenger: u32) -> Sent {
    let value = format!(
        r#"{{"transactionId":"{TRANSACTION}","worldId":{world},"inviteType":"MESSENGER","type":"CREATE","body":{{"originatorId":{originator},"targetId":{target},"referenceId":{messenger}}}}}"#
    );
    ("COMMAND_TOPIC_INVITE".into(), messenger, value)
}
