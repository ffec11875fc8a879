//! The ledger with the release's version in every output.

use ledger::Ledger;
use switchboard_sdk::{Context, Header, Manifest, Message, Outbound, Plugin, Rejection};

/// The header with the release's version.
pub const RELEASE: &str = "RELEASE";

/// The ledger's manifest with this version and the name `tagged`.
pub fn manifest(version: &str) -> Manifest {
    Manifest { name: "tagged".into(), version: version.into(), ..Ledger::manifest() }
}

/// Handles a message as the ledger does, and adds the header.
///
/// # Errors
///
/// As the ledger.
pub fn handle(version: &str, ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
    let mut outputs = Ledger::handle(ctx, message)?;
    for output in &mut outputs {
        output.headers.push(Header { name: RELEASE.into(), value: Some(version.into()) });
    }
    Ok(outputs)
}

/// Defines a component that is the ledger with this version: `releases::tagged!("1.0.0");`.
#[macro_export]
macro_rules! tagged {
    ($version:literal) => {
        use switchboard_sdk::{Context, Manifest, Message, Outbound, Plugin, Rejection};

        pub struct Tagged;

        impl Plugin for Tagged {
            fn manifest() -> Manifest {
                $crate::tagged::manifest($version)
            }

            fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
                $crate::tagged::handle($version, ctx, message)
            }
        }

        switchboard_sdk::export!(Tagged);
    };
}

/// Whether `trapping` traps on this message and `rejecting` rejects it. That is about a third of all messages. The
/// result depends only on the message.
pub fn is_third(message: &Message) -> bool {
    message.value.iter().flatten().map(|byte| u32::from(*byte)).sum::<u32>().is_multiple_of(3)
}
