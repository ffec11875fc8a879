//! 0.2.0 of the messenger, state version 2: messengers have room names.

use messenger::Messenger;
use releases::rooms;
use switchboard_sdk::{Context, Manifest, Message, Migrate, Outbound, Plugin, Rejection};

pub struct Messenger2;

impl Plugin for Messenger2 {
    fn manifest() -> Manifest {
        Manifest { version: "0.2.0".into(), state_version: 2, ..Messenger::manifest() }
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        rooms::handle(ctx, message)
    }
}

impl Migrate for Messenger2 {
    const FROM: &'static [u32] = &[1];

    fn migrate(ctx: &mut Context<'_>, _from: u32) -> Result<(), String> {
        rooms::add_rooms(ctx);
        Ok(())
    }
}

switchboard_sdk::export!(Messenger2, migrate);
