//! Does the messenger with room names (`tests/guests/releases/src/rooms.rs`) do what it should? The tests run it
//! natively.
//!
//! The tests are not in that crate: its examples are components, and a test kit among its dependencies would be built
//! for WebAssembly with each of them.

use messenger::Messenger;
use releases::rooms::{ROOM, add_rooms, handle, remove_rooms};
use switchboard_sdk::testkit::{Bench, run_vectors};
use switchboard_sdk::{Context, Manifest, Message, Migrate, Outbound, Plugin, Rejection};

/// The plugin of `examples/messenger_2.rs` without the header ROOM, which readers of version 1 do not know.
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

/// The plugin of `examples/messenger_2.rs`.
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
        add_rooms(ctx);
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
        let answer =
            format!(r#"{{"data":{{"type":"characters","id":"{id}","attributes":{{"name":"{name}","worldId":1}}}}}}"#);
        bench.answers.set("characters", id, &answer);
    }
    bench
}

#[test]
fn a_room_begins_and_ends_with_its_messenger() {
    let mut bench = bench();
    let create = r#""type":"CREATE""#;
    assert_eq!(say::<Rooms>(&mut bench, 1, create), [Some("Ann's room".into())]);
    assert_eq!(say::<Rooms>(&mut bench, 3, create), [Some("room 1000000001".into())]);
    let about = |word: &str| format!(r#""type":"{word}","body":{{"messengerId":1000000000}}"#);
    assert_eq!(say::<Rooms>(&mut bench, 2, &about("JOIN")), [Some("Ann's room".into())]);
    assert_eq!(say::<Rooms>(&mut bench, 1, &about("LEAVE")), [Some("Ann's room".into())]);
    assert_eq!(say::<Rooms>(&mut bench, 2, &about("LEAVE")), [Some("Ann's room".into())], "the last one");
    assert_eq!(say::<Rooms>(&mut bench, 2, &about("LEAVE")), [None]);
    let rooms = bench.state.0.keys().filter(|key| key.starts_with("room/")).collect::<Vec<_>>();
    assert_eq!(rooms, ["room/1000000001"]);
}

#[test]
fn a_migration_and_back_leaves_the_messengers_unchanged() {
    let mut bench = bench();
    for actor in 1..=3 {
        say::<Messenger>(&mut bench, actor, r#""type":"CREATE""#);
    }
    let before = bench.state.clone();
    bench.migrate::<Rooms>(1).unwrap();
    assert_eq!(bench.state.0.len(), before.0.len() + 3);
    assert_eq!(bench.state.0["room/1000000001"], b"Bob's room");
    let mut ctx = Context::new(&mut bench.state, &bench.answers, &bench.lines, 0);
    remove_rooms(&mut ctx);
    assert_eq!(bench.state, before);
}

#[test]
fn the_migration_covers_every_page_of_messengers() {
    let mut bench = Bench::default();
    for id in 0..250 {
        let messenger = format!(r#"{{"id":{id},"members":[]}}"#);
        bench.state.0.insert(format!("messenger/{id:010}"), messenger.into_bytes());
    }
    bench.migrate::<Rooms>(1).unwrap();
    assert_eq!(bench.state.0.len(), 500);
}

#[test]
fn without_the_room_header_the_outputs_are_those_of_version_1() {
    let vectors = include_str!("../vectors/messenger.json");
    assert_eq!(run_vectors::<Roomless>(vectors).unwrap(), run_vectors::<Messenger>(vectors).unwrap());
    assert!(run_vectors::<Rooms>(vectors).is_err(), "the header shows");
}
