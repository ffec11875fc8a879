//! The character directory: the lookup source of characters' names and worlds.

use switchboard_sdk::{Context, Rejection};

use crate::wire::{Object, WireError};

/// The name of the source. Its keys are character ids in decimal.
pub(crate) const SOURCE: &str = "characters";

/// What the directory knows about a character.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) world_id: u8,
}

/// Looks up a character; `None`: the directory does not have it, or there is no directory.
pub(crate) fn look_up(ctx: &Context<'_>, id: u32) -> Result<Option<Entry>, Rejection> {
    let Some(answer) = ctx.lookup(SOURCE, &id.to_string()) else {
        return Ok(None);
    };
    let entry = parse(&answer).map_err(|error| {
        // A broken answer must not count as an unknown character.
        Rejection::UnusableAnswer(format!("{SOURCE}/{id}: {error}"))
    })?;
    Ok(Some(entry))
}

/// Parses `{"data":{"attributes":{"name":"Ann","worldId":0}}}`. Other fields of the document are ignored.
fn parse(answer: &[u8]) -> Result<Entry, WireError> {
    let document = Object::parse(answer)?;
    let attributes = document.object("data")?.object("attributes")?;
    Ok(Entry {
        name: attributes.text("name")?.ok_or(WireError::Missing("name"))?.into_owned(),
        world_id: attributes.integer("worldId")?.ok_or(WireError::Missing("worldId"))?,
    })
}
