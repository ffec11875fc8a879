//! The messenger's messages as bytes. A consumed value becomes a request or an error, an
//! [`Output`](crate::decide::Output) becomes a record. This module does not know the state, and no other module knows
//! JSON.

mod decode;
mod encode;
mod error;
mod go_json;
mod object;

pub(crate) use decode::decode;
pub(crate) use encode::encode;
pub(crate) use error::WireError;
pub(crate) use object::Object;

/// Commands from the channel servers.
pub(crate) const COMMANDS: &str = "COMMAND_TOPIC_MESSENGER";
/// Events of characters.
pub(crate) const CHARACTERS: &str = "EVENT_TOPIC_CHARACTER_STATUS";
/// Events of invites.
pub(crate) const INVITES: &str = "EVENT_TOPIC_INVITE_STATUS";

/// Events of messengers.
pub(crate) const STATUS: &str = "EVENT_TOPIC_MESSENGER_STATUS";
/// Events of a messenger's members.
pub(crate) const MEMBER_STATUS: &str = "EVENT_TOPIC_MESSENGER_MEMBER_STATUS";
/// Commands to the invite service.
pub(crate) const INVITE_COMMANDS: &str = "COMMAND_TOPIC_INVITE";

pub(crate) const CONSUMED: [&str; 3] = [COMMANDS, CHARACTERS, INVITES];
pub(crate) const PRODUCED: [&str; 3] = [STATUS, MEMBER_STATUS, INVITE_COMMANDS];
