//! 5.0.0 of the ledger: it consumes IN2 in addition to IN.

use releases::tagged;
use switchboard_sdk::{Context, Manifest, Message, Outbound, Plugin, Rejection};

const VERSION: &str = "5.0.0";

pub struct FurtherTopic;

impl Plugin for FurtherTopic {
    fn manifest() -> Manifest {
        Manifest { consumes: vec!["IN".into(), "IN2".into()], ..tagged::manifest(VERSION) }
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        tagged::handle(VERSION, ctx, message)
    }
}

switchboard_sdk::export!(FurtherTopic);
