//! The character directory: the lookup source that knows a character's name and world.

use crate::wire::Object;
use switchboard_sdk::{Context, Rejection};

/// The source's name; its keys are character ids in decimal.
pub(crate) const SOURCE: &str = "characters";

/// What the directory knows about a character.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) world_id: u8,
}

/// Asks for a character; `None` when the directory has none of that id, or when there is no directory.
pub(crate) fn look_up(ctx: &Context<'_>, id: u32) -> Result<Option<Entry>, Rejection> {
    let Some(answer) = ctx.lookup(SOURCE, &id.to_string()) else {
        return Ok(None);
    };
    let entry = parse(&answer).map_err(|reason| {
        // Never a wrong "unknown": a broken answer is no answer.
        Rejection::UnusableAnswer(format!("{SOURCE}/{id}: {reason}"))
    })?;
    Ok(Some(entry))
}

/// Reads `{"data":{"attributes":{"name":"Ann","worldId":0}}}`; whatever else the document has is not looked at.
fn parse(answer: &[u8]) -> Result<Entry, String> {
    let document = Object::parse(answer)?;
    let attributes = document.object("data")?.object("attributes")?;
    Ok(Entry {
        name: attributes.text("name")?.ok_or("name is missing")?.into_owned(),
        world_id: attributes.integer("worldId")?.ok_or("worldId is missing")?,
    })
}
