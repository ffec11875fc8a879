//! The logic that the workers run: a plugin that tells in which order it was handed its tenant's messages, around one
//! whose outputs and state depend on that order.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use messenger::Messenger;
use switchboard_core::envelope::{Tenant, TenantId};
use switchboard_core::release::{Digest, Release, Routing};
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, Lookups, Outcome, Plugins, Query};
use switchboard_sdk::testkit::{self, Bench, Native};
use switchboard_sdk::{Context, Manifest, Message, Outbound, Plugin, Rejection};

use crate::client::POISON;

/// The topic on which each handled message is told: its number among its tenant's, and its id.
pub(crate) const ORDER: &str = "ORDER";
/// The header with a message's id.
pub(crate) const ID: &str = "id";
const COUNT: &str = "~count";

/// Numbers the messages that `P` has handled, in its tenant's state and in an output.
pub(crate) struct Numbered<P>(PhantomData<P>);

impl<P: Plugin> Plugin for Numbered<P> {
    fn manifest() -> Manifest {
        let mut manifest = P::manifest();
        manifest.produces.push(ORDER.into());
        manifest
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        let mut outputs = P::handle(ctx, message)?;
        let number = ctx.get_json::<u64>(COUNT).unwrap_or(0) + 1;
        ctx.set_json(COUNT, &number);
        let id = message.headers.iter().find(|header| header.name == ID).and_then(|header| header.value.clone());
        let id = String::from_utf8(id.unwrap_or_default()).unwrap_or_default();
        let value = Some(format!("{number} {id}").into_bytes());
        outputs.push(Outbound { topic: ORDER.into(), value, ..Outbound::default() });
        Ok(outputs)
    }
}

/// Keeps three texts: `put N` sets one, `drop N` deletes one, and each answers with all that are there. `reject` is
/// rejected, `poison` answers with what no broker takes, `look N` answers with what a lookup source knows.
pub(crate) struct Shelf;

impl Plugin for Shelf {
    fn manifest() -> Manifest {
        Manifest {
            name: "shelf".into(),
            version: "1.0.0".into(),
            consumes: vec!["IN".into()],
            produces: vec!["OUT".into()],
            lookups: vec!["characters".into()],
            state_version: 1,
        }
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        let text = message.value.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let (word, number) = text.split_once(' ').unwrap_or((&text, "0"));
        let key = format!("shelf-{}", number.parse().unwrap_or(0) % 3);
        match word {
            "put" => ctx.set(&key, number.into()),
            "drop" => ctx.delete(&key),
            "reject" => {
                ctx.set("never", number.into());
                return Err(Rejection::Invalid("as told".into()));
            }
            "look" => {
                let name = ctx.lookup("characters", number).unwrap_or_default();
                if name == BROKEN {
                    return Err(Rejection::UnusableAnswer("as told".into()));
                }
                ctx.set(&key, name);
            }
            _ => {}
        }
        let shelf = ctx.list("shelf-", None, 3);
        let shelf: String = shelf.iter().map(|e| format!("{}={} ", e.key, String::from_utf8_lossy(&e.value))).collect();
        let said = if word == "poison" { POISON.to_owned() } else { shelf };
        let output = |value: &str| Outbound { topic: "OUT".into(), value: Some(value.into()), ..Outbound::default() };
        Ok(vec![output(&said), output("second")])
    }
}

/// The plugin of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logic {
    Shelf,
    Messenger,
}

impl Logic {
    pub(crate) fn manifest(self) -> switchboard_core::worker::Manifest {
        match self {
            Self::Shelf => Native::<Numbered<Shelf>>::manifest(),
            Self::Messenger => Native::<Numbered<Messenger>>::manifest(),
        }
    }

    /// What it does with a message, by itself: no worker and nothing of its state is in this.
    pub(crate) fn replay(self, bench: &mut Bench, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        match self {
            Self::Shelf => bench.handle::<Numbered<Shelf>>(message),
            Self::Messenger => bench.handle::<Numbered<Messenger>>(message),
        }
    }
}

/// The release that handles all messages.
pub(crate) const RELEASE: Digest = Digest::new([1; 32]);

/// A process' plugins: one release, for all tenants.
pub(crate) struct Loaded {
    logic: Logic,
    routing: Option<Arc<Routing>>,
}

impl Loaded {
    pub(crate) fn new(logic: Logic) -> Self {
        let release = Release::new(RELEASE, logic.manifest());
        Self { logic, routing: Some(Arc::new(Routing::fixed(Arc::new(release)))) }
    }
}

impl Plugins for Loaded {
    fn routing(&mut self) -> Option<Arc<Routing>> {
        self.routing.take()
    }

    fn handle(
        &mut self,
        release: &Arc<Release>,
        call: Call<'_>,
        state: &mut TenantState,
        answers: &Answers,
    ) -> Outcome {
        match self.logic {
            Logic::Shelf => Native::<Numbered<Shelf>>::default().handle(release, call, state, answers),
            Logic::Messenger => Native::<Numbered<Messenger>>::default().handle(release, call, state, answers),
        }
    }

    fn migrate(&mut self, _: &Arc<Release>, _: &Tenant, _: u32, _: &mut TenantState) -> Result<(), String> {
        Err("there is one layout".into())
    }

    fn discard(&mut self, _: &TenantId) {}
}

/// An answer that no plugin can use.
const BROKEN: &[u8] = b"{";

/// The characters that the directory knows; others it says it has not.
const KNOWN: std::ops::Range<u32> = 0..20;

fn answer(key: u32) -> Option<Vec<u8>> {
    let known = KNOWN.contains(&key) && key % 4 != 3;
    known.then(|| format!(r#"{{"data":{{"attributes":{{"name":"n{key}","worldId":{}}}}}}}"#, key % 3).into_bytes())
}

/// All that the directory would answer.
pub(crate) fn directory() -> testkit::Answers {
    let known = KNOWN.filter_map(|key| Some((("characters".to_owned(), key.to_string()), answer(key)?)));
    testkit::Answers(known.collect::<BTreeMap<_, _>>())
}

/// A directory that some workers remember answers of, and that gives a broken answer now and then.
pub(crate) struct Directory {
    pub(crate) random: fastrand::Rng,
}

impl Lookups for Directory {
    fn known(&mut self, _: &Tenant, query: &Query) -> Option<Option<Vec<u8>>> {
        self.random.bool().then(|| query.key.parse().ok().and_then(answer))
    }

    fn fetch(&mut self, _: &Tenant, query: &Query, attempt: u32, _: Duration) -> Result<Option<Vec<u8>>, String> {
        let broken = attempt == 0 && self.random.u8(0..8) == 0;
        Ok(query.key.parse().ok().and_then(answer).map(|answer| if broken { BROKEN.to_vec() } else { answer }))
    }
}
