//! The counter: an example of a Switchboard plugin.
//!
//! A message of the topic `WORDS` has one word as its value. The counter increments the word's count in the tenant's state
//! and sends the new count to `COUNTS`. Each tenant has counts of its own.
//!
//! | state key | value |
//! |---|---|
//! | `count/<word>` | how often the word has come, as JSON |
//!
//! | input | outcome |
//! |---|---|
//! | a word of 1 to [`MAX_WORD_BYTES`] bytes | one record to `COUNTS`: key `<word>`, value `<word> <count>` |
//! | a null value | nothing: the message is consumed and changes no state |
//! | an empty or a longer value, one that is not UTF-8 | rejected: a dead letter of class `invalid` |
//! | a word whose count is [`u64::MAX`] | rejected in the same way; the count stays |
//!
//! To start a plugin of your own, copy this crate. Its README says what to change in `Cargo.toml`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

use switchboard_sdk::{Context, Manifest, Message, Outbound, Plugin, Rejection};

/// The longest word that is counted, in bytes. The host's default limit for a state key is 512 bytes; a longer key traps.
pub const MAX_WORD_BYTES: usize = 256;

/// The plugin.
pub struct Counter;

impl Plugin for Counter {
    fn manifest() -> Manifest {
        Manifest {
            name: "counter".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            consumes: vec!["WORDS".into()],
            produces: vec!["COUNTS".into()],
            lookups: vec![],
            state_version: 1,
        }
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        let Some(value) = &message.value else { return Ok(vec![]) };
        let word = word(value)?;
        let key = format!("count/{word}");
        let count = ctx.get_json(&key).unwrap_or(0_u64).checked_add(1).ok_or_else(|| invalid("the count is full"))?;
        ctx.set_json(&key, &count);
        let value = Some(format!("{word} {count}").into_bytes());
        Ok(vec![Outbound { topic: "COUNTS".into(), key: Some(word.into()), value, headers: vec![] }])
    }
}

/// The word in a record's value.
fn word(value: &[u8]) -> Result<&str, Rejection> {
    match std::str::from_utf8(value) {
        Err(_) => Err(invalid("the value is not UTF-8")),
        Ok("") => Err(invalid("the value is empty")),
        Ok(word) if word.len() > MAX_WORD_BYTES => Err(invalid("the word is longer than 256 bytes")),
        Ok(word) => Ok(word),
    }
}

fn invalid(reason: &str) -> Rejection {
    Rejection::Invalid(reason.into())
}

#[cfg(feature = "component")]
switchboard_sdk::export!(Counter);
