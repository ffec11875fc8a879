//! The messenger with room names: state version 2.
//!
//! In addition to version 1, each messenger `messenger/<id>` has the name of its room at `room/<id>`, as text. Outputs
//! that name a messenger have the room's name in the header ROOM. Apart from that header they are those of version 1.

use messenger::Messenger;
use serde_json::Value;
use switchboard_sdk::{Context, Header, Level, Message, Outbound, Plugin, Rejection};

/// The header with a room's name.
pub const ROOM: &str = "ROOM";

const MESSENGERS: &str = "messenger/";
const ROOMS: &str = "room/";
/// The number of entries that one call of `list` reads.
const PAGE_ENTRIES: u32 = 100;

/// Handles a message as the messenger does, and keeps the rooms consistent with the messengers.
///
/// # Errors
///
/// As the messenger.
pub fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
    let mut outputs = Messenger::handle(ctx, message)?;
    for output in &mut outputs {
        let Some(id) = messenger_id(output) else { continue };
        let room = ctx.get(&(ROOMS.to_owned() + &id)).or_else(|| create_room(ctx, &id));
        output.headers.extend(room.map(|name| Header { name: ROOM.into(), value: Some(name) }));
    }
    for id in outputs.iter().filter_map(messenger_id) {
        if ctx.get(&(MESSENGERS.to_owned() + &id)).is_none() {
            ctx.delete(&(ROOMS.to_owned() + &id));
        }
    }
    Ok(outputs)
}

/// Migrates from version 1: creates a room for each messenger.
pub fn add_rooms(ctx: &mut Context<'_>) {
    let mut count = 0;
    for_all(ctx, MESSENGERS, |ctx, id| count += u32::from(create_room(ctx, id).is_some()));
    ctx.log(Level::Info, &format!("{count} rooms"));
}

/// Migrates back to version 1: deletes all rooms.
pub fn remove_rooms(ctx: &mut Context<'_>) {
    for_all(ctx, ROOMS, |ctx, id| ctx.delete(&(ROOMS.to_owned() + id)));
}

fn for_all(ctx: &mut Context<'_>, prefix: &str, mut each: impl FnMut(&mut Context<'_>, &str)) {
    let mut after = None;
    loop {
        let page = ctx.list(prefix, after.as_deref(), PAGE_ENTRIES);
        for entry in &page {
            each(ctx, &entry.key[prefix.len()..]);
        }
        let Some(last) = page.into_iter().last() else { return };
        after = Some(last.key);
    }
}

/// Creates a messenger's room, named after its first member. Does nothing when the messenger does not exist.
fn create_room(ctx: &mut Context<'_>, id: &str) -> Option<Vec<u8>> {
    let messenger: Value = ctx.get_json(&(MESSENGERS.to_owned() + id))?;
    let member = messenger["members"][0]["characterId"].as_u64().unwrap_or_default();
    let character: Option<Value> = ctx.get_json(&format!("character/{member:010}"));
    let name = match character.as_ref().and_then(|character| character["name"].as_str()) {
        None | Some("") => format!("room {id}"),
        Some(name) => format!("{name}'s room"),
    };
    ctx.set(&(ROOMS.to_owned() + id), name.clone().into_bytes());
    Some(name.into_bytes())
}

/// The id of an output's messenger, as in the keys of the state. An output's key is the id, little-endian. 0 means no
/// messenger.
fn messenger_id(output: &Outbound) -> Option<String> {
    let id = u64::from_le_bytes(output.key.as_deref()?.try_into().ok()?);
    (id != 0).then(|| format!("{id:010}"))
}
