use releases::tagged;
use switchboard_sdk::{Context, Manifest, Message, Outbound, Plugin, Rejection};

const VERSION: &str = "2.0.0";

pub struct Tagged;

impl Plugin for Tagged {
    fn manifest() -> Manifest {
        tagged::manifest(VERSION)
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        tagged::handle(VERSION, ctx, message)
    }
}

switchboard_sdk::export!(Tagged);
