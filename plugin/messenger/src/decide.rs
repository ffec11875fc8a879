//! The decision table: what a message changes, and what it causes.
//!
//! Each function has the rows of one message in the table's order: the first condition that holds decides. It reads
//! and writes characters and messengers through the [`Store`] and uses nothing else.
//!
//! After every message a messenger has one to three members. Their slots differ, and each was the lowest free slot
//! when its member joined. A character's messenger is m exactly if m lists the character.

use switchboard_sdk::Rejection;

use crate::model::{Character, Member, Messenger};
use crate::store::Store;

/// What a message asks for or reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Create {
        actor: u32,
    },
    /// The command, or an accepted invite, which has the same effect.
    Join {
        actor: u32,
        messenger: u32,
    },
    Leave {
        actor: u32,
        messenger: u32,
    },
    RequestInvite {
        actor: u32,
        target: u32,
    },
    Login {
        character: u32,
        world: u8,
        channel: u8,
    },
    Logout {
        character: u32,
    },
    ChannelChanged {
        character: u32,
        channel: u8,
    },
    Deleted {
        character: u32,
    },
}

/// What a message causes. `messenger` is 0 if there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Created { actor: u32, world: u8, messenger: u32 },
    Joined { actor: u32, world: u8, messenger: u32, slot: u8 },
    Left { actor: u32, world: u8, messenger: u32, slot: u8 },
    Error { kind: ErrorKind, actor: u32, world: u8, messenger: u32, name: String },
    MemberLogin { world: u8, messenger: u32, character: u32 },
    MemberLogout { world: u8, messenger: u32, character: u32 },
    Invite { world: u8, originator: u32, target: u32, messenger: u32 },
}

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    Unexpected,
    /// The character that wants to create a messenger is already in one.
    CreatorHasMessenger,
    /// The character that is to join a messenger is already in one.
    JoinerHasMessenger,
    Full,
}

/// The outputs in the order in which they are sent. A rejection only if no decision is possible.
type Decision = Result<Vec<Output>, Rejection>;

/// Carries out the action for the tenant of this state.
pub(crate) fn decide(action: Action, store: &mut Store<'_, '_>) -> Decision {
    match action {
        Action::Create { actor } => create(store, actor),
        Action::Join { actor, messenger } => join(store, actor, messenger),
        Action::Leave { actor, messenger } => leave(store, actor, messenger),
        Action::RequestInvite { actor, target } => request_invite(store, actor, target),
        Action::Login { character, world, channel } => login(store, character, world, channel),
        Action::Logout { character } => logout(store, character),
        Action::ChannelChanged { character, channel } => channel_changed(store, character, channel),
        Action::Deleted { character } => deleted(store, character),
    }
}

fn create(store: &mut Store<'_, '_>, a: u32) -> Decision {
    let Some(mut actor) = store.known(a)? else {
        return Ok(vec![error(ErrorKind::Unexpected, a, 0, 0)]);
    };
    if actor.is_in_messenger() {
        return Ok(vec![error(ErrorKind::CreatorHasMessenger, a, 0, actor.world_id)]);
    }
    let (_, created) = found(store, &mut actor)?;
    Ok(vec![created])
}

fn join(store: &mut Store<'_, '_>, a: u32, m: u32) -> Decision {
    let Some(mut actor) = store.known(a)? else {
        return Ok(vec![error(ErrorKind::Unexpected, a, m, 0)]);
    };
    if actor.is_in_messenger() {
        return Ok(vec![error(ErrorKind::JoinerHasMessenger, a, actor.messenger_id, actor.world_id)]);
    }
    let Some(mut messenger) = store.messenger(m) else {
        return Ok(vec![error(ErrorKind::Unexpected, a, m, actor.world_id)]);
    };
    let Some(slot) = messenger.lowest_free_slot() else {
        return Ok(vec![error(ErrorKind::Full, a, m, actor.world_id)]);
    };
    enter(store, &mut actor, &mut messenger, slot);
    Ok(vec![Output::Joined { actor: a, world: actor.world_id, messenger: m, slot }])
}

fn leave(store: &mut Store<'_, '_>, a: u32, m: u32) -> Decision {
    let Some(mut actor) = store.known(a)? else {
        return Ok(vec![error(ErrorKind::Unexpected, a, m, 0)]);
    };
    match store.messenger_of(&actor) {
        Some(messenger) if messenger.id == m => Ok(vec![exit(store, &mut actor, messenger)]),
        _ => Ok(vec![error(ErrorKind::Unexpected, a, m, actor.world_id)]),
    }
}

fn request_invite(store: &mut Store<'_, '_>, a: u32, t: u32) -> Decision {
    let Some(mut actor) = store.known(a)? else {
        return Ok(vec![error(ErrorKind::Unexpected, a, 0, 0)]);
    };
    let Some(target) = store.known(t)? else {
        return Ok(vec![error(ErrorKind::Unexpected, a, actor.messenger_id, 0)]);
    };
    if target.is_in_messenger() {
        return Ok(vec![Output::Error {
            kind: ErrorKind::JoinerHasMessenger,
            actor: a,
            world: target.world_id,
            messenger: target.messenger_id,
            name: target.name,
        }]);
    }
    let mut outputs = vec![];
    let messenger = if let Some(messenger) = store.messenger_of(&actor) {
        messenger
    } else {
        let (messenger, created) = found(store, &mut actor)?;
        outputs.push(created);
        messenger
    };
    if messenger.lowest_free_slot().is_none() {
        return Ok(vec![error(ErrorKind::Full, a, messenger.id, target.world_id)]);
    }
    // An invite reserves no slot: when it is accepted, the messenger may be full or gone.
    outputs.push(Output::Invite { world: actor.world_id, originator: a, target: t, messenger: messenger.id });
    Ok(outputs)
}

fn login(store: &mut Store<'_, '_>, c: u32, world: u8, channel: u8) -> Decision {
    let mut character = store.known_or_new(c, world)?;
    character.online = true;
    character.channel_id = channel;
    store.put_character(&character);
    if !character.is_in_messenger() {
        return Ok(vec![]);
    }
    Ok(vec![Output::MemberLogin { world: character.world_id, messenger: character.messenger_id, character: c }])
}

fn logout(store: &mut Store<'_, '_>, c: u32) -> Decision {
    let Some(mut character) = store.known(c)? else {
        return Ok(vec![]);
    };
    character.online = false;
    store.put_character(&character);
    let Some(messenger) = store.messenger_of(&character) else {
        return Ok(vec![]);
    };
    Ok(vec![
        Output::MemberLogout { world: character.world_id, messenger: messenger.id, character: c },
        exit(store, &mut character, messenger),
    ])
}

fn channel_changed(store: &mut Store<'_, '_>, c: u32, channel: u8) -> Decision {
    if let Some(mut character) = store.known(c)? {
        character.channel_id = channel;
        store.put_character(&character);
    }
    Ok(vec![])
}

fn deleted(store: &mut Store<'_, '_>, c: u32) -> Decision {
    let outputs = logout(store, c)?;
    store.forget_character(c);
    Ok(outputs)
}

/// Creates a messenger with the character in slot 0. Also returns its CREATED.
fn found(store: &mut Store<'_, '_>, character: &mut Character) -> Result<(Messenger, Output), Rejection> {
    let id = store.issue_messenger_id()?;
    let mut messenger = Messenger { id, members: vec![] };
    enter(store, character, &mut messenger, 0);
    let created = Output::Created { actor: character.id, world: character.world_id, messenger: id };
    Ok((messenger, created))
}

/// Puts the character into the slot. Writes both sides of the membership.
fn enter(store: &mut Store<'_, '_>, character: &mut Character, messenger: &mut Messenger, slot: u8) {
    messenger.members.push(Member { character_id: character.id, slot });
    store.put_messenger(messenger);
    character.messenger_id = messenger.id;
    store.put_character(character);
}

/// Takes the character out of its messenger, which ends with its last member. Writes both sides of the membership, and
/// returns the LEFT.
fn exit(store: &mut Store<'_, '_>, character: &mut Character, mut messenger: Messenger) -> Output {
    let position = messenger.members.iter().position(|member| member.character_id == character.id);
    let position = position.expect("a character's messenger lists it");
    let slot = messenger.members.remove(position).slot;
    if messenger.members.is_empty() {
        store.delete_messenger(messenger.id);
    } else {
        store.put_messenger(&messenger);
    }
    character.messenger_id = 0;
    store.put_character(character);
    Output::Left { actor: character.id, world: character.world_id, messenger: messenger.id, slot }
}

fn error(kind: ErrorKind, actor: u32, messenger: u32, world: u8) -> Output {
    Output::Error { kind, actor, world, messenger, name: String::new() }
}
