//! Messages in and out: the records of `wit/plugin.wit` as plain Rust types.

/// A record header. Names may repeat, and headers keep their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name, case-sensitive.
    pub name: String,
    /// The value; `None` is Kafka's null, not an empty value.
    pub value: Option<Vec<u8>>,
}

/// A consumed record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The alias of the topic (its logical name), never the name that the broker has for it.
    pub topic: String,
    /// The canonical text of the tenant: the values of its headers in the configured order, joined by `/`.
    pub tenant: String,
    /// The key of the record, if it has one.
    pub key: Option<Vec<u8>>,
    /// The value of the record; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// All headers of the record, unchanged, including those of the host.
    pub headers: Vec<Header>,
    /// The timestamp of the record in milliseconds since 1970; 0 if it has none.
    pub timestamp: u64,
}

/// A record to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// One of the aliases that the manifest lists in `produces`.
    pub topic: String,
    /// The key. It decides the partition, as in Java's default partitioner (murmur2).
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Additional headers. The host writes the headers of the tenant, those carried over and the trace context. An
    /// output that sets one of these makes the message fail.
    pub headers: Vec<Header>,
}

/// Why a message cannot be handled. Everything that it staged is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The message can never be handled; the text says why. It becomes a dead letter (class `invalid`).
    Invalid(String),
    /// The answer to a lookup cannot be used; the text says why. The host queries the source again, a few times within
    /// the time that a message may wait for lookups, and handles the message again. In the end the message becomes a
    /// dead letter (class `lookup`).
    UnusableAnswer(String),
}

/// What a plugin is and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The name, for people and metrics: `messenger`.
    pub name: String,
    /// The version of the plugin (semantic versioning): `0.1.0`.
    pub version: String,
    /// The aliases of the topics that it consumes.
    pub consumes: Vec<String>,
    /// The aliases of the topics that it may produce to.
    pub produces: Vec<String>,
    /// The names of the lookup sources that it may query.
    pub lookups: Vec<String>,
    /// The version of its state's layout; 1 for the first layout.
    pub state_version: u32,
}

/// An entry of a tenant's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key: 1 to 512 bytes, not starting with U+0000.
    pub key: String,
    /// The value: at most 1 MiB.
    pub value: Vec<u8>,
}

/// The severity of a log line, as in `wasi:logging`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For tracing single steps of the code.
    Trace,
    /// For the plugin's developers.
    Debug,
    /// For its operators.
    Info,
    /// Something is not as it should be.
    Warn,
    /// Something failed.
    Error,
    /// Nothing works.
    Critical,
}
