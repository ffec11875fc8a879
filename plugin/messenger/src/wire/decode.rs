//! Consumed messages. They are checked in the contract's order:
//!
//! 1. the value is JSON and an object
//! 2. `type`
//! 3. the fields of the envelope
//! 4. the body and its fields, but only if the message is acted upon
//!
//! Keys and headers do not matter.

use uuid::Uuid;

use super::{CHARACTERS, COMMANDS, INVITES, Object, WireError};
use crate::decide::Action;

/// A message that is acted upon.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The transaction id, which all outputs carry.
    pub(crate) transaction: Uuid,
    pub(crate) action: Action,
}

/// Decodes the value of a message. `None`: the messenger ignores it. An error: the message is invalid.
pub(crate) fn decode(topic: &str, value: &[u8]) -> Result<Option<Request>, WireError> {
    let message = Object::parse(value)?;
    let kind = message.text("type")?.ok_or(WireError::Missing("type"))?;
    let transaction = message.uuid("transactionId")?.unwrap_or_default();
    let action = match topic {
        COMMANDS => command(&message, &kind)?,
        CHARACTERS => character_status(&message, &kind)?,
        INVITES => invite_status(&message, &kind)?,
        _ => return Err(WireError::UnknownTopic(topic.to_owned())),
    };
    Ok(action.map(|action| Request { transaction, action }))
}

fn command(message: &Object<'_>, kind: &str) -> Result<Option<Action>, WireError> {
    let actor = message.integer("actorId")?.unwrap_or_default();

    let body = || message.object("body");
    let messenger = || Ok::<u32, WireError>(body()?.integer("messengerId")?.unwrap_or_default());
    Ok(Some(match kind {
        "CREATE" => {
            body()?;
            Action::Create { actor }
        }
        "JOIN" => Action::Join { actor, messenger: messenger()? },
        "LEAVE" => Action::Leave { actor, messenger: messenger()? },
        "REQUEST_INVITE" => {
            let target = body()?.integer("characterId")?.unwrap_or_default();
            Action::RequestInvite { actor, target }
        }
        _ => return Ok(None),
    }))
}

fn character_status(message: &Object<'_>, kind: &str) -> Result<Option<Action>, WireError> {
    let world = message.integer("worldId")?.unwrap_or_default();
    let character = message.integer("characterId")?.unwrap_or_default();

    let body = || message.object("body");
    Ok(Some(match kind {
        "LOGIN" => Action::Login { character, world, channel: channel(&body()?)? },
        "LOGOUT" => {
            channel(&body()?)?;
            Action::Logout { character }
        }
        "CHANNEL_CHANGED" => {
            let body = body()?;
            body.integer::<u8>("oldChannelId")?;
            Action::ChannelChanged { character, channel: channel(&body)? }
        }
        "DELETED" => {
            body()?;
            Action::Deleted { character }
        }
        _ => return Ok(None),
    }))
}

/// The channel of a body that says where a character is. The other fields only have to be well-formed.
fn channel(body: &Object<'_>) -> Result<u8, WireError> {
    body.integer::<u32>("mapId")?;
    body.uuid("instance")?;
    Ok(body.integer("channelId")?.unwrap_or_default())
}

fn invite_status(message: &Object<'_>, kind: &str) -> Result<Option<Action>, WireError> {
    message.integer::<u8>("worldId")?;
    let invite_type = message.text("inviteType")?.unwrap_or_default();
    let messenger = message.integer("referenceId")?.unwrap_or_default();

    if (kind, invite_type.as_ref()) != ("ACCEPTED", "MESSENGER") {
        return Ok(None);
    }
    let body = message.object("body")?;
    body.integer::<u32>("originatorId")?;
    let actor = body.integer("targetId")?.unwrap_or_default();
    Ok(Some(Action::Join { actor, messenger }))
}
