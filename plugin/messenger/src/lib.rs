//! The messenger: ephemeral group chats of at most three characters, as a Switchboard plugin.
//!
//! | module | question |
//! |---|---|
//! | `wire` | Which action does a message ask for, and what do outputs look like as bytes? |
//! | `decide` | What does an action change, and what does it cause? |
//! | `store` | Where are characters and messengers in the tenant's state? |
//! | `directory` | What is the name and the world of a character that the state does not know? |
//!
//! Only this file implements the SDK's traits.

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
        let Some(request) =
            wire::decode(&message.topic, value).map_err(|error| Rejection::Invalid(error.to_string()))?
        else {
            return Ok(vec![]);
        };
        let outputs = decide::decide(request.action, &mut store::Store::new(ctx))?;
        Ok(outputs.iter().map(|output| wire::encode(output, request.transaction)).collect())
    }
}

#[cfg(feature = "component")]
switchboard_sdk::export!(Messenger);
