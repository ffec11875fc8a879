//! The messenger's messages as bytes: what is read becomes a [`Request`] or a reason to refuse it, what is written
//! comes from an [`Output`]. Nothing here knows the state; nothing elsewhere knows JSON.

mod decode;
mod encode;
mod go_json;
mod object;

pub(crate) use decode::decode;
pub(crate) use encode::encode;
pub(crate) use object::Object;

/// Commands of the channel servers.
pub(crate) const COMMANDS: &str = "COMMAND_TOPIC_MESSENGER";
/// What happens to characters.
pub(crate) const CHARACTERS: &str = "EVENT_TOPIC_CHARACTER_STATUS";
/// What becomes of invites.
pub(crate) const INVITES: &str = "EVENT_TOPIC_INVITE_STATUS";

/// What happens to messengers.
pub(crate) const STATUS: &str = "EVENT_TOPIC_MESSENGER_STATUS";
/// What happens to a messenger's members.
pub(crate) const MEMBER_STATUS: &str = "EVENT_TOPIC_MESSENGER_MEMBER_STATUS";
/// Commands to the invites.
pub(crate) const INVITE_COMMANDS: &str = "COMMAND_TOPIC_INVITE";

pub(crate) const CONSUMED: [&str; 3] = [COMMANDS, CHARACTERS, INVITES];
pub(crate) const PRODUCED: [&str; 3] = [STATUS, MEMBER_STATUS, INVITE_COMMANDS];
