//! Random messages over a few characters, against a model that knows the decision table but not the code.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;
use switchboard_sdk::Rejection;

use crate::tenant::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Create(u32),
    Join(u32, u32),
    Accept(u32, u32),
    Leave(u32, u32),
    RequestInvite(u32, u32),
    Login(u32, u8, u8),
    Logout(u32),
    ChannelChanged(u32, u8),
    Deleted(u32),
}

/// The directory's answer for a character.
#[derive(Clone, Debug)]
enum Entry {
    Missing,
    Broken,
    Good(String, u8),
}

#[derive(Clone, Debug, PartialEq)]
struct Character {
    name: String,
    world: u8,
    channel: u8,
    online: bool,
}

type Characters = BTreeMap<u32, Character>;
/// Members and slots of each messenger, in the order in which they joined.
type Messengers = BTreeMap<u32, Vec<(u32, u8)>>;

#[derive(Clone, Default)]
struct Model {
    directory: BTreeMap<u32, Entry>,
    characters: Characters,
    messengers: Messengers,
    issued: u32,
}

/// The directory's answer is broken.
struct Unusable;

impl Model {
    fn step(&mut self, step: Step) -> Result<Vec<Sent>, Unusable> {
        Ok(match step {
            Step::Create(a) => match self.know(a)? {
                None => vec![error(UNEXPECTED, a, 0, 0)],
                Some(c) if self.messenger_of(a) != 0 => vec![error(ALREADY_1, a, 0, c.world)],
                Some(c) => vec![self.found(a, c.world)],
            },
            Step::Join(a, m) | Step::Accept(a, m) => match self.know(a)? {
                None => vec![error(UNEXPECTED, a, m, 0)],
                Some(c) if self.messenger_of(a) != 0 => vec![error(ALREADY_2, a, self.messenger_of(a), c.world)],
                Some(c) => match self.messengers.get_mut(&m) {
                    None => vec![error(UNEXPECTED, a, m, c.world)],
                    Some(members) if members.len() == 3 => vec![error(FULL, a, m, c.world)],
                    Some(members) => {
                        let taken: BTreeSet<u8> = members.iter().map(|(_, slot)| *slot).collect();
                        let slot = [0, 1, 2].into_iter().find(|slot| !taken.contains(slot)).expect("a free slot");
                        members.push((a, slot));
                        vec![joined(a, c.world, m, slot)]
                    }
                },
            },
            Step::Leave(a, m) => match self.know(a)? {
                None => vec![error(UNEXPECTED, a, m, 0)],
                Some(c) if m == 0 || self.messenger_of(a) != m => vec![error(UNEXPECTED, a, m, c.world)],
                Some(c) => vec![self.take_out(a, c.world)],
            },
            Step::RequestInvite(a, t) => {
                let Some(actor) = self.know(a)? else { return Ok(vec![error(UNEXPECTED, a, 0, 0)]) };
                let m = self.messenger_of(a);
                let Some(target) = self.know(t)? else { return Ok(vec![error(UNEXPECTED, a, m, 0)]) };
                match (self.messenger_of(t), m) {
                    (0, 0) => {
                        let created = self.found(a, actor.world);
                        vec![created, invite(actor.world, a, t, self.messenger_of(a))]
                    }
                    (0, m) if self.messengers[&m].len() == 3 => vec![error(FULL, a, m, target.world)],
                    (0, m) => vec![invite(actor.world, a, t, m)],
                    (x, _) => vec![named_error(ALREADY_2, a, x, target.world, &target.name)],
                }
            }
            Step::Login(c, world, channel) => {
                if !self.characters.contains_key(&c) {
                    let name = match self.directory.get(&c) {
                        Some(Entry::Good(name, _)) => name.clone(),
                        Some(Entry::Broken) => return Err(Unusable),
                        Some(Entry::Missing) | None => String::new(),
                    };
                    self.characters.insert(c, Character { name, world, channel, online: true });
                }
                let character = self.characters.get_mut(&c).expect("it is known now");
                (character.channel, character.online) = (channel, true);
                let world = character.world;
                match self.messenger_of(c) {
                    0 => vec![],
                    m => vec![member("LOGIN", world, m, c)],
                }
            }
            Step::Logout(c) => self.log_out(c)?,
            Step::ChannelChanged(c, channel) => {
                self.know(c)?;
                if let Some(character) = self.characters.get_mut(&c) {
                    character.channel = channel;
                }
                vec![]
            }
            Step::Deleted(c) => {
                let outputs = self.log_out(c)?;
                self.characters.remove(&c);
                outputs
            }
        })
    }

    fn know(&mut self, id: u32) -> Result<Option<Character>, Unusable> {
        if !self.characters.contains_key(&id) {
            match self.directory.get(&id) {
                Some(Entry::Good(name, world)) => {
                    let character = Character { name: name.clone(), world: *world, channel: 0, online: false };
                    self.characters.insert(id, character);
                }
                Some(Entry::Broken) => return Err(Unusable),
                Some(Entry::Missing) | None => {}
            }
        }
        Ok(self.characters.get(&id).cloned())
    }

    fn messenger_of(&self, id: u32) -> u32 {
        let mut lists = self.messengers.iter().filter(|(_, members)| members.iter().any(|(member, _)| *member == id));
        lists.next().map_or(0, |(m, _)| *m)
    }

    fn found(&mut self, a: u32, world: u8) -> Sent {
        let m = M + self.issued;
        self.issued += 1;
        self.messengers.insert(m, vec![(a, 0)]);
        created(a, world, m)
    }

    fn take_out(&mut self, a: u32, world: u8) -> Sent {
        let m = self.messenger_of(a);
        let members = self.messengers.get_mut(&m).expect("it lists the character");
        let (_, slot) = members.remove(members.iter().position(|(member, _)| *member == a).expect("it lists it"));
        if members.is_empty() {
            self.messengers.remove(&m);
        }
        left(a, world, m, slot)
    }

    fn log_out(&mut self, c: u32) -> Result<Vec<Sent>, Unusable> {
        self.know(c)?;
        let Some(character) = self.characters.get_mut(&c) else { return Ok(vec![]) };
        character.online = false;
        let world = character.world;
        Ok(match self.messenger_of(c) {
            0 => vec![],
            m => vec![member("LOGOUT", world, m, c), self.take_out(c, world)],
        })
    }
}

/// Reads the tenant's state in the form of the model. Panics if it breaks an invariant.
fn read_state(tenant: &Tenant) -> (Characters, Messengers) {
    let (mut characters, mut messengers) = (Characters::new(), Messengers::new());
    let mut homes = BTreeSet::new();
    for (key, value) in &tenant.bench.state.0 {
        let value: Value = serde_json::from_slice(value).expect("JSON");
        let number = |value: &Value| u32::try_from(value.as_u64().expect("a number")).expect("a u32");
        let small = |value: &Value| u8::try_from(number(value)).expect("a u8");
        match key.split_once('/') {
            Some(("character", id)) => {
                let id: u32 = id.parse().expect("an id");
                assert_eq!(number(&value["id"]), id);
                let character = Character {
                    name: value["name"].as_str().expect("a name").to_owned(),
                    world: small(&value["worldId"]),
                    channel: small(&value["channelId"]),
                    online: value["online"].as_bool().expect("a boolean"),
                };
                characters.insert(id, character);
                if value["messengerId"] != 0 {
                    homes.insert((id, number(&value["messengerId"])));
                }
            }
            Some(("messenger", id)) => {
                let id: u32 = id.parse().expect("an id");
                assert_eq!(number(&value["id"]), id);
                let members = value["members"].as_array().expect("members");
                let members: Vec<_> =
                    members.iter().map(|member| (number(&member["characterId"]), small(&member["slot"]))).collect();
                messengers.insert(id, members);
            }
            _ => assert_eq!(key, "next-messenger"),
        }
    }
    let mut listed = BTreeSet::new();
    for (id, members) in &messengers {
        assert!((1..=3).contains(&members.len()), "{id} has {} members", members.len());
        let slots: BTreeSet<u8> = members.iter().map(|(_, slot)| *slot).collect();
        assert_eq!(slots.len(), members.len(), "{id} has distinct slots");
        assert!(slots.iter().all(|slot| *slot < 3), "{id} has slots from 0 to 2");
        listed.extend(members.iter().map(|(member, _)| (*member, *id)));
    }
    assert_eq!(homes, listed, "a character's messenger is m exactly when m lists it");
    (characters, messengers)
}

fn send(tenant: &mut Tenant, step: Step) -> Result<Vec<Sent>, Rejection> {
    let (topic, value) = match step {
        Step::Create(a) => (COMMANDS, command(a, "CREATE", "{}")),
        Step::Join(a, m) => (COMMANDS, command(a, "JOIN", format_args!(r#"{{"messengerId":{m}}}"#))),
        Step::Leave(a, m) => (COMMANDS, command(a, "LEAVE", format_args!(r#"{{"messengerId":{m}}}"#))),
        Step::RequestInvite(a, t) => (COMMANDS, command(a, "REQUEST_INVITE", format_args!(r#"{{"characterId":{t}}}"#))),
        Step::Accept(a, m) => (INVITES, invite_status("MESSENGER", "ACCEPTED", a, m)),
        Step::Login(c, world, channel) => (CHARACTERS, character_status(world, c, "LOGIN", place(channel))),
        Step::Logout(c) => (CHARACTERS, character_status(0, c, "LOGOUT", place(0))),
        Step::ChannelChanged(c, channel) => (CHARACTERS, character_status(0, c, "CHANNEL_CHANGED", place(channel))),
        Step::Deleted(c) => (CHARACTERS, character_status(0, c, "DELETED", "{}")),
    };
    tenant.send(topic, value)
}

fn step() -> impl Strategy<Value = Step> {
    let character = || 0..7_u32;
    // Most ids are of messengers that may exist.
    let messenger = || prop_oneof![8 => M..M + 6, 1 => Just(0), 1 => any::<u32>()];
    prop_oneof![
        2 => character().prop_map(Step::Create),
        6 => (character(), messenger()).prop_map(|(a, m)| Step::Join(a, m)),
        2 => (character(), messenger()).prop_map(|(a, m)| Step::Accept(a, m)),
        4 => (character(), messenger()).prop_map(|(a, m)| Step::Leave(a, m)),
        4 => (character(), character()).prop_map(|(a, t)| Step::RequestInvite(a, t)),
        3 => (character(), any::<u8>(), any::<u8>()).prop_map(|(c, world, channel)| Step::Login(c, world, channel)),
        1 => character().prop_map(Step::Logout),
        1 => (character(), any::<u8>()).prop_map(|(c, channel)| Step::ChannelChanged(c, channel)),
        1 => character().prop_map(Step::Deleted),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        2 => Just(Entry::Missing),
        1 => Just(Entry::Broken),
        5 => ("[a-z]{0,4}", any::<u8>()).prop_map(|(name, world)| Entry::Good(name, world)),
    ]
}

proptest! {
    #[test]
    fn every_message_does_what_the_table_says_and_keeps_the_invariants(
        directory in prop::collection::vec(entry(), 0..7),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut tenant = Tenant::default();
        let mut model = Model::default();
        for (id, entry) in (0..).zip(directory) {
            match &entry {
                Entry::Missing => {}
                Entry::Broken => tenant.directory_answers(id, "{}"),
                Entry::Good(name, world) => tenant.directory_knows(id, name, *world),
            }
            model.directory.insert(id, entry);
        }
        for step in steps {
            let before = model.clone();
            match (send(&mut tenant, step), model.step(step)) {
                (Ok(outputs), Ok(expected)) => prop_assert_eq!(outputs, expected),
                (Err(Rejection::UnusableAnswer(_)), Err(Unusable)) => model = before,
                (outputs, expected) => prop_assert!(false, "{:?} instead of {:?}", outputs, expected.is_ok()),
            }
            let (characters, messengers) = read_state(&tenant);
            prop_assert_eq!(characters, model.characters.clone());
            prop_assert_eq!(messengers, model.messengers.clone());
        }
    }

    #[test]
    fn no_value_makes_it_trap(value in prop::collection::vec(any::<u8>(), 0..64), topic in 0..3_usize) {
        let topic = [COMMANDS, CHARACTERS, INVITES][topic];
        let handled = Tenant::with_directory().send(topic, value);
        prop_assert!(matches!(handled, Err(Rejection::Invalid(_))), "{handled:?}");
    }

    #[test]
    fn no_damaged_message_makes_it_trap(at in 0..140_usize, byte: u8, topic in 0..3_usize) {
        let (topic, mut value) = match topic {
            0 => (COMMANDS, command(1, "REQUEST_INVITE", r#"{"characterId":2}"#)),
            1 => (CHARACTERS, character_status(1, 1, "LOGIN", place(1))),
            _ => (INVITES, invite_status("MESSENGER", "ACCEPTED", 2, M)),
        };
        let at = at % value.len();
        let mut damaged = std::mem::take(&mut value).into_bytes();
        damaged[at] = byte;
        let handled = Tenant::with_directory().send(topic, damaged);
        prop_assert!(!matches!(handled, Err(Rejection::UnusableAnswer(_))));
    }
}
