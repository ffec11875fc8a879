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

#[cfg(test)]
mod tests {
    use switchboard_sdk::testkit::{Bench, run_vectors};
    use switchboard_sdk::{Manifest, Migrate};

    use super::*;

    /// As in `examples/messenger_2.rs`, without the header that no reader of version 1 knows.
    struct Roomless;

    impl Plugin for Roomless {
        fn manifest() -> Manifest {
            Messenger::manifest()
        }

        fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
            let mut outputs = handle(ctx, message)?;
            for output in &mut outputs {
                output.headers.retain(|header| header.name != ROOM);
            }
            Ok(outputs)
        }
    }

    struct Rooms;

    impl Plugin for Rooms {
        fn manifest() -> Manifest {
            Messenger::manifest()
        }

        fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
            handle(ctx, message)
        }
    }

    impl Migrate for Rooms {
        const FROM: &'static [u32] = &[1];

        fn migrate(ctx: &mut Context<'_>, _: u32) -> Result<(), String> {
            furnish(ctx);
            Ok(())
        }
    }

    fn say<P: Plugin>(bench: &mut Bench, actor: u32, command: &str) -> Vec<Option<String>> {
        let value = format!(r#"{{"actorId":{actor},{command}}}"#).into_bytes();
        let message = Message { topic: "COMMAND_TOPIC_MESSENGER".into(), value: Some(value), ..Message::default() };
        let room = |output: Outbound| {
            let room = output.headers.into_iter().find(|header| header.name == ROOM)?;
            Some(String::from_utf8(room.value?).unwrap())
        };
        bench.handle::<P>(&message).unwrap().into_iter().map(room).collect()
    }

    fn bench() -> Bench {
        let mut bench = Bench::default();
        for (id, name) in [("1", "Ann"), ("2", "Bob"), ("3", "")] {
            let answer = format!(
                r#"{{"data":{{"type":"characters","id":"{id}","attributes":{{"name":"{name}","worldId":1}}}}}}"#
            );
            bench.answers.set("characters", id, &answer);
        }
        bench
    }

    #[test]
    fn a_room_comes_with_its_messenger_and_goes_with_it() {
        let mut bench = bench();
        let create = r#""type":"CREATE""#;
        assert_eq!(say::<Rooms>(&mut bench, 1, create), [Some("Ann's room".into())]);
        assert_eq!(say::<Rooms>(&mut bench, 3, create), [Some("room 1000000001".into())]);
        let about = |word: &str| format!(r#""type":"{word}","body":{{"messengerId":1000000000}}"#);
        assert_eq!(say::<Rooms>(&mut bench, 2, &about("JOIN")), [Some("Ann's room".into())]);
        assert_eq!(say::<Rooms>(&mut bench, 1, &about("LEAVE")), [Some("Ann's room".into())]);
        assert_eq!(say::<Rooms>(&mut bench, 2, &about("LEAVE")), [Some("Ann's room".into())], "the last one");
        assert_eq!(say::<Rooms>(&mut bench, 2, &about("LEAVE")), [None]);
        let rooms = bench.state.0.keys().filter(|key| key.starts_with(ROOMS)).collect::<Vec<_>>();
        assert_eq!(rooms, ["room/1000000001"]);
    }

    #[test]
    fn there_and_back_leaves_the_messengers_as_they_were() {
        let mut bench = bench();
        for actor in 1..=3 {
            say::<Messenger>(&mut bench, actor, r#""type":"CREATE""#);
        }
        let before = bench.state.clone();
        bench.migrate::<Rooms>(1).unwrap();
        assert_eq!(bench.state.0.len(), before.0.len() + 3);
        assert_eq!(bench.state.0["room/1000000001"], b"Bob's room");
        let mut ctx = Context::new(&mut bench.state, &bench.answers, &bench.lines, 0);
        clear(&mut ctx);
        assert_eq!(bench.state, before);
    }

    #[test]
    fn every_page_of_messengers_is_furnished() {
        let mut bench = Bench::default();
        for id in 0..250 {
            let messenger = format!(r#"{{"id":{id},"members":[]}}"#);
            bench.state.0.insert(format!("messenger/{id:010}"), messenger.into_bytes());
        }
        bench.migrate::<Rooms>(1).unwrap();
        assert_eq!(bench.state.0.len(), 500);
    }

    #[test]
    fn who_does_not_know_rooms_sees_no_difference() {
        let vectors = include_str!("../../../vectors/messenger.json");
        assert_eq!(run_vectors::<Roomless>(vectors), run_vectors::<Messenger>(vectors));
        assert!(run_vectors::<Rooms>(vectors).is_err(), "the header shows");
    }
}
