//! Produced messages. Fields are in the contract's order; the key of a record is the id of the messenger.

use serde::Serialize;
use switchboard_sdk::Outbound;
use uuid::Uuid;

use super::{INVITE_COMMANDS, MEMBER_STATUS, STATUS, go_json};
use crate::decide::{ErrorKind, Output};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusEvent<B> {
    transaction_id: Uuid,
    actor_id: u32,
    world_id: u8,
    messenger_id: u32,
    r#type: &'static str,
    body: B,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberStatusEvent {
    transaction_id: Uuid,
    world_id: u8,
    messenger_id: u32,
    character_id: u32,
    r#type: &'static str,
    body: EmptyBody,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InviteCommand {
    transaction_id: Uuid,
    world_id: u8,
    invite_type: &'static str,
    r#type: &'static str,
    body: InviteBody,
}

#[derive(Serialize)]
struct EmptyBody {}

#[derive(Serialize)]
struct SlotBody {
    slot: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    r#type: &'static str,
    character_name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InviteBody {
    originator_id: u32,
    target_id: u32,
    reference_id: u32,
}

/// The record of `output`, which a message with this transaction id caused.
pub(crate) fn encode(output: &Output, transaction_id: Uuid) -> Outbound {
    match *output {
        Output::Created { actor, world, messenger } => {
            status(transaction_id, actor, world, messenger, "CREATED", EmptyBody {})
        }
        Output::Joined { actor, world, messenger, slot } => {
            status(transaction_id, actor, world, messenger, "JOINED", SlotBody { slot })
        }
        Output::Left { actor, world, messenger, slot } => {
            status(transaction_id, actor, world, messenger, "LEFT", SlotBody { slot })
        }
        Output::Error { actor, world, messenger, kind, ref name } => {
            let body = ErrorBody { r#type: error_type(kind), character_name: name };
            status(transaction_id, actor, world, messenger, "ERROR", body)
        }
        Output::MemberLogin { world, messenger, character } => {
            member_status(transaction_id, world, messenger, character, "LOGIN")
        }
        Output::MemberLogout { world, messenger, character } => {
            member_status(transaction_id, world, messenger, character, "LOGOUT")
        }
        Output::Invite { world, originator, target, messenger } => {
            let body = InviteBody { originator_id: originator, target_id: target, reference_id: messenger };
            let command =
                InviteCommand { transaction_id, world_id: world, invite_type: "MESSENGER", r#type: "CREATE", body };
            record(INVITE_COMMANDS, messenger, &command)
        }
    }
}

fn status(
    transaction_id: Uuid,
    actor_id: u32,
    world_id: u8,
    messenger_id: u32,
    r#type: &'static str,
    body: impl Serialize,
) -> Outbound {
    let event = StatusEvent { transaction_id, actor_id, world_id, messenger_id, r#type, body };
    record(STATUS, messenger_id, &event)
}

fn member_status(
    transaction_id: Uuid,
    world_id: u8,
    messenger_id: u32,
    character_id: u32,
    r#type: &'static str,
) -> Outbound {
    let event = MemberStatusEvent { transaction_id, world_id, messenger_id, character_id, r#type, body: EmptyBody {} };
    record(MEMBER_STATUS, messenger_id, &event)
}

fn record(topic: &str, messenger: u32, value: &impl Serialize) -> Outbound {
    Outbound {
        topic: topic.to_owned(),
        // The id as an unsigned 64-bit integer, little-endian: four bytes of the id, then four zeros.
        key: Some(u64::from(messenger).to_le_bytes().to_vec()),
        value: Some(go_json::to_vec(value)),
        headers: vec![],
    }
}

fn error_type(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unexpected => "ERROR_UNEXPECTED",
        ErrorKind::CreatorHasMessenger => "ALREADY_HAVE_JOINED_A_MESSENGER_1",
        ErrorKind::JoinerHasMessenger => "ALREADY_HAVE_JOINED_A_MESSENGER_2",
        ErrorKind::Full => "THE_MESSENGER_YOURE_TRYING_TO_JOIN_IS_ALREADY_IN_FULL_CAPACITY",
    }
}
