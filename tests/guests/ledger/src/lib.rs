//! A plugin that numbers each tenant's messages, so that its outputs and its state show every loss, repetition and
//! overtaking. A message's value is `<id> <word> <argument>`:
//!
//! | word | does |
//! |---|---|
//! | `note` | nothing else |
//! | `line` | the same, and no record to AUDIT |
//! | `many` | sends as many lines as the argument says |
//! | `keep`, `drop` | sets and deletes the key `kept/<argument>` |
//! | `refuse`, `trap` | act as `keep`, and then refuse the message or trap: no change may remain |
//!
//! A line to LINES, keyed by tenant, is `<id> <number> <hash> <part>`; one to AUDIT, keyed by id, is `<id> <number>
//! <hash>`. The hash is over all ids so far. Each has a header `release` with the plugin's version. A refusal's reason
//! is `after <number> <hash>`. Tests run the same code natively as their model.
//!
//! Tests overwrite the version in the component ([`MARK`]) to make as many releases as they need. Every output names
//! the release that made it.

#![cfg_attr(not(target_family = "wasm"), forbid(unsafe_code))]

use std::hint::black_box;

use switchboard_sdk::{Context, Header, Manifest, Message, Outbound, Plugin, Rejection};

/// The text in front of the version in the component. The component contains it once.
pub const MARK: &[u8] = b"the ledger's version: ";

/// The length of the version's field, in bytes. Spaces fill it after a shorter version.
pub const VERSION_BYTES: usize = 26;

static VERSION: [u8; MARK.len() + VERSION_BYTES] = *b"the ledger's version: 0.1.0                     ";

fn version() -> &'static str {
    // Without `black_box` the compiler would copy the text to where it is used.
    let version = &black_box(&VERSION)[MARK.len()..];
    std::str::from_utf8(version).unwrap_or_default().trim_end()
}

/// The hash over all ids up to this one, the `number`th. `before` is the hash without it.
pub fn hash(before: u64, number: u64, id: &str) -> u64 {
    id.bytes().fold(before ^ number, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The plugin.
pub struct Ledger;

impl Plugin for Ledger {
    fn manifest() -> Manifest {
        Manifest {
            name: "ledger".into(),
            version: version().into(),
            consumes: vec!["IN".into()],
            produces: vec!["LINES".into(), "AUDIT".into()],
            lookups: vec![],
            state_version: 1,
        }
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        let text = std::str::from_utf8(message.value.as_deref().unwrap_or_default());
        let text = text.map_err(|_| Rejection::Invalid("not UTF-8".into()))?;
        let mut words = text.splitn(3, ' ');
        let mut next = || words.next().unwrap_or_default();
        let id = next();
        let word = next();
        let argument = next();
        let (last, before): (u64, u64) = ctx.get_json("last").unwrap_or_default();
        let kept = format!("kept/{argument}");
        let number = last + 1;
        let after = hash(before, number, id);
        ctx.set_json("last", &(number, after));
        let mut parts = 1;
        match word {
            "note" | "line" => {}
            "many" => parts = argument.parse().unwrap_or(0),
            "keep" => ctx.set(&kept, id.into()),
            "drop" => ctx.delete(&kept),
            "refuse" => {
                ctx.set(&kept, id.into());
                return Err(Rejection::Invalid(format!("after {last} {before}")));
            }
            "trap" => {
                ctx.set(&kept, id.into());
                panic!("as asked");
            }
            _ => return Err(Rejection::Invalid(format!("no such word: {word}"))),
        }
        let output = |topic: &str, key: &str, value: String| Outbound {
            topic: topic.into(),
            key: Some(key.into()),
            value: Some(value.into_bytes()),
            headers: vec![Header { name: "release".into(), value: Some(version().into()) }],
        };
        let mut outputs: Vec<_> =
            (0..parts).map(|part| output("LINES", &message.tenant, format!("{id} {number} {after} {part}"))).collect();
        if word != "line" {
            outputs.push(output("AUDIT", id, format!("{id} {number} {after}")));
        }
        Ok(outputs)
    }
}

#[cfg(feature = "component")]
switchboard_sdk::export!(Ledger);
