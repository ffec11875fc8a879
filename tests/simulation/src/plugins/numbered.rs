//! The four releases of a plugin: they number a tenant's messages, and differ in state version and topics.

use std::marker::PhantomData;

use switchboard_sdk::{Context, Manifest, Message, Migrate, Outbound, Plugin, Rejection};

/// The topic that gets a line for each handled message: its number among the tenant's messages, its id, the release.
pub(crate) const ORDER: &str = "ORDER";
/// The topic that only release 2 consumes.
pub(crate) const MORE: &str = "MORE";
/// The header with a message's id.
pub(crate) const ID: &str = "id";

/// Release `R` of the logic `P`: numbers the messages that `P` has handled, in its tenant's state and in an output.
///
/// | release | layout of its state | takes over | consumes |
/// |---|---|---|---|
/// | 1 | 1 | 2, 3 | what `P` does |
/// | 2 | 1 | | `MORE` too |
/// | 3 | 2 | 1 | what `P` does |
/// | 4 | 3 | 1, 2 | what `P` does |
///
/// Each state version has the number at another key. So a release that runs on another version starts again from 1. Each
/// migration leaves a trace in the state.
pub(crate) struct Numbered<P, const R: u8>(PhantomData<P>);

/// The key of the number in a layout.
fn count(layout: u32) -> String {
    format!("~count-{layout}")
}

/// The key of the migrations that the state has seen.
pub(crate) const TRACE: &str = "~migrations";

/// What a migration adds to them.
pub(crate) fn trace(from: u32, to: u32) -> String {
    format!("{from}>{to} ")
}

impl<P, const R: u8> Numbered<P, R> {
    const LAYOUT: u32 = match R {
        1 | 2 => 1,
        3 => 2,
        _ => 3,
    };
}

impl<P: Plugin, const R: u8> Plugin for Numbered<P, R> {
    fn manifest() -> Manifest {
        let mut manifest = P::manifest();
        manifest.version = R.to_string();
        manifest.state_version = Self::LAYOUT;
        manifest.produces.push(ORDER.into());
        if R == 2 {
            // First, so that processes that begin with it know topics by other numbers.
            manifest.consumes.insert(0, MORE.into());
        }
        manifest
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        let mut outputs = if message.topic == MORE { Vec::new() } else { P::handle(ctx, message)? };
        let count = count(Self::LAYOUT);
        let number = ctx.get_json::<u64>(&count).unwrap_or(0) + 1;
        ctx.set_json(&count, &number);
        let id = message.headers.iter().find(|header| header.name == ID).and_then(|header| header.value.clone());
        let id = String::from_utf8(id.unwrap_or_default()).unwrap_or_default();
        let value = Some(format!("{number} {id} {R}").into_bytes());
        outputs.push(Outbound { topic: ORDER.into(), value, ..Outbound::default() });
        Ok(outputs)
    }
}

impl<P: Plugin, const R: u8> Migrate for Numbered<P, R> {
    const FROM: &'static [u32] = match R {
        1 => &[2, 3],
        2 => &[],
        3 => &[1],
        _ => &[1, 2],
    };

    fn migrate(ctx: &mut Context<'_>, from: u32) -> Result<(), String> {
        if let Some(number) = ctx.get_json::<u64>(&count(from)) {
            ctx.delete(&count(from));
            ctx.set_json(&count(Self::LAYOUT), &number);
        }
        let mut trace = ctx.get(TRACE).unwrap_or_default();
        trace.extend(self::trace(from, Self::LAYOUT).bytes());
        ctx.set(TRACE, trace);
        Ok(())
    }
}
