//! The layout of a tenant's state.
//!
//! | key | value |
//! |---|---|
//! | `character/<id>` | a [`Character`] |
//! | `messenger/<id>` | a [`Messenger`] |
//! | `next-messenger` | the id of the next messenger |
//!
//! Ids in keys have ten digits, so that lists are in the order of the ids. A character has the id of its messenger,
//! and a messenger has the ids of its members. So each is found from the other in one read. The decisions keep both
//! sides consistent.

use switchboard_sdk::{Context, Rejection};

use crate::directory;
use crate::model::{Character, Messenger};

const NEXT_MESSENGER: &str = "next-messenger";
const FIRST_MESSENGER: u32 = 1_000_000_000;

/// A tenant's state as characters and messengers.
pub(crate) struct Store<'s, 'ctx>(&'s mut Context<'ctx>);

impl<'s, 'ctx> Store<'s, 'ctx> {
    pub(crate) fn new(ctx: &'s mut Context<'ctx>) -> Self {
        Self(ctx)
    }

    /// The character, if the state or the directory knows it. A character from the directory is added to the state.
    pub(crate) fn known(&mut self, id: u32) -> Result<Option<Character>, Rejection> {
        if let Some(character) = self.character(id) {
            return Ok(Some(character));
        }
        let Some(entry) = directory::look_up(self.0, id)? else {
            return Ok(None);
        };
        let character = Character::new(id, entry.name, entry.world_id);
        self.put_character(&character);
        Ok(Some(character))
    }

    /// The character from the state, or a new one of this world with its name in the directory, if there is one.
    pub(crate) fn known_or_new(&self, id: u32, world_id: u8) -> Result<Character, Rejection> {
        if let Some(character) = self.character(id) {
            return Ok(character);
        }
        let name = directory::look_up(self.0, id)?.map_or_else(String::new, |entry| entry.name);
        Ok(Character::new(id, name, world_id))
    }

    pub(crate) fn put_character(&mut self, character: &Character) {
        self.0.set_json(&character_key(character.id), character);
    }

    pub(crate) fn forget_character(&mut self, id: u32) {
        self.0.delete(&character_key(id));
    }

    pub(crate) fn messenger(&self, id: u32) -> Option<Messenger> {
        self.0.get_json(&messenger_key(id))
    }

    /// The messenger that the character is in.
    pub(crate) fn messenger_of(&self, character: &Character) -> Option<Messenger> {
        if character.is_in_messenger() { self.messenger(character.messenger_id) } else { None }
    }

    pub(crate) fn put_messenger(&mut self, messenger: &Messenger) {
        self.0.set_json(&messenger_key(messenger.id), messenger);
    }

    pub(crate) fn delete_messenger(&mut self, id: u32) {
        self.0.delete(&messenger_key(id));
    }

    /// Issues an id that no messenger of the tenant has had. The last id is never issued, so that there is always a
    /// next one.
    pub(crate) fn issue_messenger_id(&mut self) -> Result<u32, Rejection> {
        let id = self.0.get_json(NEXT_MESSENGER).unwrap_or(FIRST_MESSENGER);
        let next = id.checked_add(1).ok_or_else(|| Rejection::Invalid("the messenger ids are used up".into()))?;
        self.0.set_json(NEXT_MESSENGER, &next);
        Ok(id)
    }

    fn character(&self, id: u32) -> Option<Character> {
        self.0.get_json(&character_key(id))
    }
}

fn character_key(id: u32) -> String {
    format!("character/{id:010}")
}

fn messenger_key(id: u32) -> String {
    format!("messenger/{id:010}")
}
