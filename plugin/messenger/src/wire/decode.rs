//! Consumed messages, checked in the contract's order: JSON and an object, `type`, the envelope's fields, and only then,
//! if the message is acted upon, the body and its fields. Keys and headers decide nothing.

use super::{CHARACTERS, COMMANDS, INVITES, Object};
use crate::decide::Action;
use uuid::Uuid;

/// A message that is acted upon.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Carried over to all that comes of it.
    pub(crate) transaction: Uuid,
    pub(crate) action: Action,
}

/// Reads a message's value. `None`: it is none of the messenger's business. An error: it is bad input; the text says why.
pub(crate) fn decode(topic: &str, value: &[u8]) -> Result<Option<Request>, String> {
    let message = Object::parse(value)?;
    let kind = message.text("type")?.ok_or("type is missing")?;
    let transaction = message.uuid("transactionId")?.unwrap_or_default();
    let action = match topic {
        COMMANDS => command(&message, &kind)?,
        CHARACTERS => character_status(&message, &kind)?,
        INVITES => invite_status(&message, &kind)?,
        _ => return Err(format!("{topic} is not a topic of the messenger")),
    };
    Ok(action.map(|action| Request { transaction, action }))
}

fn command(message: &Object<'_>, kind: &str) -> Result<Option<Action>, String> {
    let actor = message.integer("actorId")?.unwrap_or_default();

    let body = || message.object("body");
    let messenger = || Ok::<u32, String>(body()?.integer("messengerId")?.unwrap_or_default());
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

fn character_status(message: &Object<'_>, kind: &str) -> Result<Option<Action>, String> {
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

/// The channel of a body that says where a character is; where else he is matters only in that it is well-formed.
fn channel(body: &Object<'_>) -> Result<u8, String> {
    body.integer::<u32>("mapId")?;
    body.uuid("instance")?;
    Ok(body.integer("channelId")?.unwrap_or_default())
}

fn invite_status(message: &Object<'_>, kind: &str) -> Result<Option<Action>, String> {
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
