//! 4.0.0 of the ledger, state version 2: it consumes IN2 too, and its migration from version 1 writes, then fails.

use releases::tagged;
use switchboard_sdk::{Context, Manifest, Message, Migrate, Outbound, Plugin, Rejection};

const VERSION: &str = "4.0.0";

pub struct Unwilling;

impl Plugin for Unwilling {
    fn manifest() -> Manifest {
        Manifest { consumes: vec!["IN".into(), "IN2".into()], state_version: 2, ..tagged::manifest(VERSION) }
    }

    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
        tagged::handle(VERSION, ctx, message)
    }
}

impl Migrate for Unwilling {
    const FROM: &'static [u32] = &[1];

    fn migrate(ctx: &mut Context<'_>, _from: u32) -> Result<(), String> {
        ctx.set("migrated", vec![]);
        ctx.delete("last");
        Err("as built".into())
    }
}

switchboard_sdk::export!(Unwilling, migrate);
