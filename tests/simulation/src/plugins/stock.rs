//! A small plugin whose outputs and state depend on the order of its messages.

use switchboard_sdk::{Context, Manifest, Message, Outbound, Plugin, Rejection};

use super::directory::BROKEN;
use crate::client::POISON;

/// Keeps three texts, and sends all of them for each message.
///
/// | message | what it does |
/// |---|---|
/// | `put N` | sets a text |
/// | `drop N` | deletes a text |
/// | `look N` | sets a text to the answer of a lookup source |
/// | `reject` | is rejected |
/// | `poison` | sends a value that brokers refuse |
pub(crate) struct Stock;

impl Plugin for Stock {
    fn manifest() -> Manifest {
        Manifest {
            name: "stock".into(),
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
        let key = format!("stock-{}", number.parse().unwrap_or(0) % 3);
        match word {
            "put" => ctx.set(&key, number.into()),
            "drop" => ctx.delete(&key),
            "reject" => {
                ctx.set("never", number.into());
                return Err(Rejection::Invalid("the message says so".into()));
            }
            "look" => {
                let name = ctx.lookup("characters", number).unwrap_or_default();
                if name == BROKEN {
                    return Err(Rejection::UnusableAnswer("the message says so".into()));
                }
                ctx.set(&key, name);
            }
            _ => {}
        }
        let stock = ctx.list("stock-", None, 3);
        let stock: String = stock.iter().map(|e| format!("{}={} ", e.key, String::from_utf8_lossy(&e.value))).collect();
        let said = if word == "poison" { POISON.to_owned() } else { stock };
        let output = |value: &str| Outbound { topic: "OUT".into(), value: Some(value.into()), ..Outbound::default() };
        Ok(vec![output(&said), output("second")])
    }
}
