//! 0.1.1 of the messenger, state version 1: it drops the room names of 0.2.0.

use messenger::Messenger;
use releases::rooms;
use switchboard_sdk::{Context, Manifest, Message, Migrate, Outbound, Plugin, Rejection};

pub struct MessengerBack;

impl Plugin for MessengerBack {
    fn manifest() -> Manifest {
        Manifest { version: "0.1.1".into(), ..Messenger::manifest() }
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        Messenger::handle(ctx, message)
    }
}

impl Migrate for MessengerBack {
    const FROM: &'static [u32] = &[2];

    fn migrate(ctx: &mut Context<'_>, _from: u32) -> Result<(), String> {
        rooms::remove_rooms(ctx);
        Ok(())
    }
}

switchboard_sdk::export!(MessengerBack, migrate);
