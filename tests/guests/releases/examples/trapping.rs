//! 3.0.0 of the ledger: it traps on a third of all messages.

use releases::tagged;
use switchboard_sdk::{Context, Manifest, Message, Outbound, Plugin, Rejection};

const VERSION: &str = "3.0.0";

pub struct Trapping;

impl Plugin for Trapping {
    fn manifest() -> Manifest {
        tagged::manifest(VERSION)
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        assert!(!tagged::is_third(message), "as built");
        tagged::handle(VERSION, ctx, message)
    }
}

switchboard_sdk::export!(Trapping);
