//! A plugin whose `describe` never returns.

use releases::tagged;
use switchboard_sdk::{Context, Manifest, Message, Outbound, Plugin, Rejection};

pub struct Looping;

impl Plugin for Looping {
    fn manifest() -> Manifest {
        loop {
            std::hint::black_box(());
        }
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        tagged::handle("", ctx, message)
    }
}

switchboard_sdk::export!(Looping);
