//! The component's side of `wit/plugin.wit`: the generated bindings, and the conversions to the plain types. Only
//! [`export!`](crate::export) uses it. It exists in builds for WebAssembly only.

use std::marker::PhantomData;

use bindings::exports::switchboard::plugin::handler;
use bindings::switchboard::plugin::{logging, lookup, state, types};
use migrating::exports::switchboard::plugin::migration;

use crate::{
    Context, Entry, Header, Level, Log, Lookup, Manifest, Message, Migrate, Outbound, Plugin, Rejection, State,
};

/// The world `plugin`. It is generated from `wit/plugin.wit`; `tests/bindings.rs` says how to generate it again.
#[allow(unsafe_code, missing_docs, unreachable_pub, clippy::pedantic)]
#[rustfmt::skip]
#[path = "bindings/plugin.rs"]
pub mod bindings;

/// The additional export of the world `migrating-plugin`. The linker joins the metadata of both modules in one
/// component.
#[allow(unsafe_code, missing_docs, unreachable_pub, clippy::pedantic)]
#[rustfmt::skip]
#[path = "bindings/migration.rs"]
pub mod migrating;

/// The component of the plugin `P`.
pub struct Exported<P>(PhantomData<P>);

impl<P: Plugin> handler::Guest for Exported<P> {
    fn describe() -> types::Manifest {
        let Manifest { name, version, consumes, produces, lookups, state_version } = P::manifest();
        types::Manifest { name, version, consumes, produces, lookups, state_version }
    }

    fn handle(message: types::Message) -> Result<Vec<types::Outbound>, types::Rejection> {
        let message = Message {
            topic: message.topic,
            tenant: message.tenant,
            key: message.key,
            value: message.value,
            headers: message.headers.into_iter().map(|types::Header { name, value }| Header { name, value }).collect(),
            timestamp: message.timestamp,
        };
        let mut state = Host;
        match P::handle(&mut Context::new(&mut state, &Host, &Host, message.timestamp), &message) {
            Ok(outputs) => Ok(outputs.into_iter().map(outbound).collect()),
            Err(Rejection::Invalid(reason)) => Err(types::Rejection::Invalid(reason)),
            Err(Rejection::UnusableAnswer(reason)) => Err(types::Rejection::UnusableAnswer(reason)),
        }
    }
}

impl<P: Migrate> migration::Guest for Exported<P> {
    fn migrates_from() -> Vec<u32> {
        P::FROM.to_vec()
    }

    fn migrate(from: u32) -> Result<(), String> {
        P::migrate(&mut Context::new(&mut Host, &Host, &Host, 0), from)
    }
}

fn outbound(Outbound { topic, key, value, headers }: Outbound) -> types::Outbound {
    let headers = headers.into_iter().map(|Header { name, value }| types::Header { name, value }).collect();
    types::Outbound { topic, key, value, headers }
}

/// The host's implementation of the context's traits.
struct Host;

impl State for Host {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        state::get(key)
    }

    fn set(&mut self, key: &str, value: Vec<u8>) {
        state::set(key, &value);
    }

    fn delete(&mut self, key: &str) {
        state::delete(key);
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: u32) -> Vec<Entry> {
        state::list(prefix, after, limit).into_iter().map(|state::Entry { key, value }| Entry { key, value }).collect()
    }
}

impl Lookup for Host {
    fn lookup(&self, source: &str, key: &str) -> Option<Vec<u8>> {
        lookup::lookup(source, key)
    }
}

impl Log for Host {
    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Trace => logging::Level::Trace,
            Level::Debug => logging::Level::Debug,
            Level::Info => logging::Level::Info,
            Level::Warn => logging::Level::Warn,
            Level::Error => logging::Level::Error,
            Level::Critical => logging::Level::Critical,
        };
        logging::log(level, message);
    }
}
