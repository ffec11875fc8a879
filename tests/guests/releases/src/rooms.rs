//! The messenger with room names: state version 2.
//!
//! Beside what version 1 has, each messenger `messenger/<id>` has its room's name at `room/<id>`, as text. Outputs that name a
//! messenger have it in the header ROOM. Readers who do not know that header see the messenger as it was.

use messenger::Messenger;
use serde_json::Value;
use switchboard_sdk::{Context, Header, Level, Message, Outbound, Plugin, Rejection};

/// The header with a room's name.
pub const ROOM: &str = "ROOM";

const MESSENGERS: &str = "messenger/";
const ROOMS: &str = "room/";
/// Entries read at a time.
const PAGE: u32 = 100;

/// Does what the messenger does, and keeps the rooms in step.
///
/// # Errors
///
/// As the messenger.
pub fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
    let mut outputs = Messenger::handle(ctx, message)?;
    for output in &mut outputs {
        let Some(id) = messenger_id(output) else { continue };
        let room = ctx.get(&(ROOMS.to_owned() + &id)).or_else(|| found(ctx, &id));
        output.headers.extend(room.map(|name| Header { name: ROOM.into(), value: Some(name) }));
    }
    for id in outputs.iter().filter_map(messenger_id) {
        if ctx.get(&(MESSENGERS.to_owned() + &id)).is_none() {
            ctx.delete(&(ROOMS.to_owned() + &id));
        }
    }
    Ok(outputs)
}

/// From version 1: a room for each messenger that there is.
pub fn furnish(ctx: &mut Context<'_>) {
    let mut count = 0;
    for_all(ctx, MESSENGERS, |ctx, id| count += u32::from(found(ctx, id).is_some()));
    ctx.log(Level::Info, &format!("{count} rooms"));
}

/// Back to version 1.
pub fn clear(ctx: &mut Context<'_>) {
    for_all(ctx, ROOMS, |ctx, id| ctx.delete(&(ROOMS.to_owned() + id)));
}

fn for_all(ctx: &mut Context<'_>, prefix: &str, mut each: impl FnMut(&mut Context<'_>, &str)) {
    let mut after = None;
    loop {
        let page = ctx.list(prefix, after.as_deref(), PAGE);
        for entry in &page {
            each(ctx, &entry.key[prefix.len()..]);
        }
        let Some(last) = page.into_iter().last() else { return };
        after = Some(last.key);
    }
}

/// Names a messenger's room after its first member; nothing when there is no such messenger.
fn found(ctx: &mut Context<'_>, id: &str) -> Option<Vec<u8>> {
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

/// As keys of the state have it. An output's key is the messenger's id, little-endian; 0: it is about none.
fn messenger_id(output: &Outbound) -> Option<String> {
    let id = u64::from_le_bytes(output.key.as_deref()?.try_into().ok()?);
    (id != 0).then(|| format!("{id:010}"))
}
