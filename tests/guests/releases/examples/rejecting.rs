//! 6.0.0 of the ledger: it rejects a third of all messages.

use releases::tagged;
use switchboard_sdk::{Context, Manifest, Message, Outbound, Plugin, Rejection};

const VERSION: &str = "6.0.0";

pub struct Rejecting;

impl Plugin for Rejecting {
    fn manifest() -> Manifest {
        tagged::manifest(VERSION)
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        if tagged::is_third(message) {
            return Err(Rejection::Invalid("as built".into()));
        }
        tagged::handle(VERSION, ctx, message)
    }
}

switchboard_sdk::export!(Rejecting);
