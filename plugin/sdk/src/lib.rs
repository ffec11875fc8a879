//! Everything that the author of a Switchboard plugin imports.
//!
//! A plugin is a type that implements [`Plugin`]. It describes itself with a [`Manifest`], and turns one message of
//! one tenant into the messages to send. It reads and writes its tenant's state through the [`Context`] and has access
//! to nothing else. So the same code runs in the host's sandbox and, compiled natively, in a unit test.
//!
//! | item | purpose |
//! |---|---|
//! | [`Plugin`], [`Migrate`] | what a plugin implements |
//! | [`export!`] | makes the plugin the component of its crate |
//! | [`Manifest`], [`Message`], [`Outbound`], [`Rejection`] | what goes in and out |
//! | [`Context`] | state, lookups, log and time, during a call |
//! | `testkit` (feature) | runs a plugin natively, as the host would |
//!
//! # Example
//!
//! A complete plugin:
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
//! # #[cfg(feature = "testkit")]
//! # {
//! # let mut bench = switchboard_sdk::testkit::Bench::default();
//! # bench.handle::<Counter>(&Message::default()).expect("it counts");
//! # let outputs = bench.handle::<Counter>(&Message::default()).expect("it counts");
//! # assert_eq!(outputs[0].value.as_deref(), Some(&b"2"[..]));
//! # }
//! ```
//!
//! The crate has the type `cdylib`. `cargo build --target wasm32-wasip2` builds the component.

#![cfg_attr(not(target_family = "wasm"), forbid(unsafe_code))]
#![warn(missing_docs)]

mod context;
mod types;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod guest;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use context::{Context, Log, Lookup, State};
pub use types::{Entry, Header, Level, Manifest, Message, Outbound, Rejection};

// The examples of the documentation, compiled and run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
#[cfg(doctest)]
#[doc = include_str!("../../../docs/write-a-plugin.md")]
struct WriteAPlugin;
#[cfg(all(doctest, feature = "testkit"))]
#[doc = include_str!("../../../docs/test-a-plugin.md")]
struct TestAPlugin;
#[cfg(all(doctest, feature = "testkit"))]
#[doc = include_str!("../../../docs/state-and-migration.md")]
struct StateAndMigration;

/// The logic of a plugin.
///
/// It must be deterministic: the same state, message and lookup answers give the same result. Values in static
/// variables are lost between any two calls.
pub trait Plugin {
    /// What the plugin is and what it needs.
    fn manifest() -> Manifest;

    /// Handles one message. The outputs are sent in the returned order.
    ///
    /// # Errors
    ///
    /// A rejection drops everything that the call staged; [`Rejection`] says what happens to the message. A panic
    /// drops it too, and the message becomes a dead letter (class `trap`).
    fn handle(ctx: &mut Context<'_>, message: &Message) -> Result<Vec<Outbound>, Rejection>;
}

/// A plugin that can take over state in another layout.
///
/// The host calls [`Migrate::migrate`] once per tenant, before the tenant's first message, if the version of the
/// tenant's state is one of [`Migrate::FROM`]. An older release can list a newer version too, if it can read that
/// state: then a rollback works.
pub trait Migrate: Plugin {
    /// The state versions that it takes over, each once, without the manifest's own `state_version`.
    const FROM: &'static [u32];

    /// Converts the tenant's state from the layout of version `from` to its own. There are no lookups, and the time is
    /// 0.
    ///
    /// # Errors
    ///
    /// An error (a text for people) or a panic drops everything that the call staged. The tenant then runs its
    /// fallback release: the one that it ran before.
    fn migrate(ctx: &mut Context<'_>, from: u32) -> Result<(), String>;
}

/// Makes a [`Plugin`] the component that the crate exports: `export!(Counter)`. For a plugin that also implements
/// [`Migrate`]: `export!(Counter, migrate)`. In a native build it expands to nothing.
#[cfg(target_family = "wasm")]
#[macro_export]
#[rustfmt::skip] // It would indent the calls of the generated macros by 4 spaces.
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

/// Makes a [`Plugin`] the component that the crate exports: `export!(Counter)`. For a plugin that also implements
/// [`Migrate`]: `export!(Counter, migrate)`. In a native build it expands to nothing.
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
