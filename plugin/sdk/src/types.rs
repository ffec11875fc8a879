//! Messages in and out: the records of `wit/plugin.wit`, as plain Rust.

/// A record header. Names repeat and keep their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Case-sensitive.
    pub name: String,
    /// `None` is Kafka's null value, not an empty one.
    pub value: Option<Vec<u8>>,
}

/// A consumed record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The topic's alias (its logical name), never the broker's name of the topic.
    pub topic: String,
    /// The tenant's canonical text: its headers' values in the configured order, joined by `/`.
    pub tenant: String,
    /// The record's key; `None` when it has none.
    pub key: Option<Vec<u8>>,
    /// The record's value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// All headers of the record, unchanged, those of the host included.
    pub headers: Vec<Header>,
    /// The record's timestamp in milliseconds since 1970; 0 when it has none.
    pub timestamp: u64,
}

/// A record to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// An alias that the manifest lists in `produces`.
    pub topic: String,
    /// Decides the partition, as Java's default partitioner would (murmur2).
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Further headers. The host writes the tenant's, those carried over and the trace context; to set one of them here
    /// is the message's failure.
    pub headers: Vec<Header>,
}

/// Why a message cannot be handled. All that it staged is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It never can be: the text says why. The message becomes a dead letter (class `invalid`).
    Invalid(String),
    /// A lookup's answer cannot be used: the text says why. The host asks the source again, a few times within the time that
    /// a message may wait for its lookups, and handles the message again; in the end it becomes a dead letter (class `lookup`).
    UnusableAnswer(String),
}

/// What a plugin is and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// For people and metrics: `messenger`.
    pub name: String,
    /// The plugin's own version, semantic versioning: `0.1.0`.
    pub version: String,
    /// Aliases of the topics that it consumes.
    pub consumes: Vec<String>,
    /// Aliases of the topics that it may produce to.
    pub produces: Vec<String>,
    /// Names of the lookup sources that it may ask.
    pub lookups: Vec<String>,
    /// The version of the layout of its state; 1 for a first layout.
    pub state_version: u32,
}

/// A key of a tenant's state and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1 to 512 bytes long, not starting with U+0000.
    pub key: String,
    /// At most 1 MiB.
    pub value: Vec<u8>,
}

/// How much a log line matters; the levels of `wasi:logging`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A step of the code.
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
