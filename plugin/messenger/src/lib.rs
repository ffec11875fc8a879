//! The messenger: ephemeral group chats of at most three characters, as a Switchboard plugin.
//!
//! A message's way: `wire` decodes it to an action or refuses it, `decide` applies the decision table to the
//! tenant's characters and messengers in `store`, and `wire` encodes what comes out. All of it is plain Rust over the
//! SDK's context; this file alone is the plugin.

#![forbid(unsafe_code)]

mod decide;
mod directory;
mod model;
mod store;
mod wire;

use switchboard_sdk::{Context, Manifest, Message, Outbound, Plugin, Rejection};

/// The plugin.
pub struct Messenger;

impl Plugin for Messenger {
    fn manifest() -> Manifest {
        Manifest {
            name: "messenger".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            consumes: wire::CONSUMED.map(String::from).to_vec(),
            produces: wire::PRODUCED.map(String::from).to_vec(),
            lookups: vec![directory::SOURCE.into()],
            state_version: 1,
        }
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        let Some(value) = &message.value else {
            return Ok(vec![]);
        };
        let Some(request) = wire::decode(&message.topic, value).map_err(Rejection::Invalid)? else {
            return Ok(vec![]);
        };
        let outputs = decide::decide(request.action, &mut store::Store::new(ctx))?;
        Ok(outputs.iter().map(|output| wire::encode(output, request.transaction)).collect())
    }
}

#[cfg(feature = "component")]
switchboard_sdk::export!(Messenger);
