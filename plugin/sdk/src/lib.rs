//! What an author of a Switchboard plugin imports.
//!
//! A plugin is a type that implements [`Plugin`]: it says what it is, and turns one message of one tenant into the
//! messages to send. It reads and writes its tenant's state through the [`Context`] and is given nothing else, so the
//! same code runs in the host's sandbox and, natively, in a unit test. This is a whole plugin:
//!
//! ```
//! use switchboard_sdk::{Context, Manifest, Message, Outbound, Plugin, Rejection};
//!
//! struct Counter;
//!
//! impl Plugin for Counter {
//!     fn manifest() -> Manifest {
//!         Manifest {
//!             name: "counter".into(),
//!             version: env!("CARGO_PKG_VERSION").into(),
//!             consumes: vec!["COMMAND_TOPIC_COUNTER".into()],
//!             produces: vec!["EVENT_TOPIC_COUNTER_STATUS".into()],
//!             lookups: vec![],
//!             state_version: 1,
//!         }
//!     }
//!
//!     fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection> {
//!         let count = ctx.get_json::<u64>("count").unwrap_or(0) + 1;
//!         ctx.set_json("count", &count);
//!         Ok(vec![Outbound {
//!             topic: "EVENT_TOPIC_COUNTER_STATUS".into(),
//!             key: message.key.clone(),
//!             value: Some(count.to_string().into_bytes()),
//!             headers: vec![],
//!         }])
//!     }
//! }
//!
//! switchboard_sdk::export!(Counter);
//! ```
//!
//! Its crate has the type `cdylib`, and `cargo build --target wasm32-wasip2` makes the component.
//!
//! The feature `testkit` adds [`testkit`], which runs a plugin natively as the host would.

#![cfg_attr(not(target_family = "wasm"), forbid(unsafe_code))]

mod context;
mod types;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod guest;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use context::{Context, Log, Lookup, State};
pub use types::{Entry, Header, Level, Manifest, Message, Outbound, Rejection};

/// The logic of a plugin.
///
/// It must be deterministic: the same state, the same message and the same answers to lookups give the same result.
/// What it keeps in static variables is lost between any two calls.
pub trait Plugin {
    /// What the plugin is and what it needs.
    fn manifest() -> Manifest;

    /// Handles one message; the outputs are sent in the order returned.
    ///
    /// # Errors
    ///
    /// A rejection drops all that the call staged; see [`Rejection`] for what becomes of the message. A panic does the
    /// same, and the message becomes a dead letter (class `trap`).
    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection>;
}

/// A plugin that takes over state which another version of it has left, in another layout.
///
/// The host calls [`Migrate::migrate`] once a tenant, before its first message, when the version of the tenant's state is one
/// of [`Migrate::FROM`]. A plugin is also a migrating one when it goes back: a release that can read the state of a newer
/// one lists that.
pub trait Migrate: Plugin {
    /// Versions of the layout, other than the manifest's `state_version`, that it takes over, each once.
    const FROM: &'static [u32];

    /// Turns the tenant's state from the layout of version `from` into its own. Lookups are not there, the time is 0.
    ///
    /// # Errors
    ///
    /// An error, for people, or a panic drops all that the call staged, and the tenant stays on the release that it ran
    /// before.
    fn migrate(ctx: &mut Context<'_>, from: u32) -> Result<(), String>;
}

/// Makes a [`Plugin`] the crate's exported component: `export!(Counter)`; and one that is [`Migrate`] too:
/// `export!(Counter, migrate)`. Expands to nothing in a native build.
#[cfg(target_family = "wasm")]
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        const _: () = {
            type Exported = $crate::guest::Exported<$plugin>;
    $crate::guest::bindings::export_component!(Exported with_types_in $crate::guest::bindings);
        };
    };
    ($plugin:ty, migrate) => {
        $crate::export!($plugin);
        const _: () = {
            type Exported = $crate::guest::Exported<$plugin>;
    $crate::guest::migrating::export_migration!(Exported with_types_in $crate::guest::migrating);
        };
    };
}

/// Makes a [`Plugin`] the crate's exported component: `export!(Counter)`; and one that is [`Migrate`] too:
/// `export!(Counter, migrate)`. Expands to nothing in a native build.
#[cfg(not(target_family = "wasm"))]
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {};
    ($plugin:ty, migrate) => {
        const _: () = {
            const fn migrates<P: $crate::Migrate>() {}
            migrates::<$plugin>();
        };
    };
}
