//! The records of a schedule's source topics.

use std::sync::{Arc, OnceLock};

use switchboard_core::record::{Headers, Record, Timestamp};
use switchboard_core::vectors;
use switchboard_core::worker::Partition;
use switchboard_sdk::{Header, Message};

use crate::client::{POISON, TOXIC};
use crate::plugins::{ID, Logic, MORE};

/// The tenant header.
pub(crate) const TENANT: &str = "tenant";

/// A record of a source topic.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub(crate) partition: Partition,
    /// `None`: it has no tenant header, which makes it a dead letter at once.
    pub(crate) tenant: Option<String>,
    pub(crate) record: Record,
}

impl Input {
    pub(crate) fn topic<'a>(&self, sources: &'a [Arc<str>]) -> &'a Arc<str> {
        let Partition::Source { topic, .. } = self.partition else { unreachable!("inputs are of sources") };
        &sources[topic]
    }

    /// Whether brokers refuse it, or an output of it.
    pub(crate) fn is_refused(&self) -> bool {
        let value = self.record.value.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        value.contains(POISON) || value.contains(TOXIC)
    }

    /// The message that its plugin has to see.
    pub(crate) fn message(&self, sources: &[Arc<str>]) -> Message {
        let header = |header: switchboard_core::record::Header<'_>| Header {
            name: String::from_utf8_lossy(header.name).into_owned(),
            value: header.value.map(<[u8]>::to_vec),
        };
        Message {
            topic: self.topic(sources).to_string(),
            tenant: self.tenant.clone().unwrap_or_default(),
            key: self.record.key.clone(),
            value: self.record.value.clone(),
            headers: self.record.headers.iter().map(header).collect(),
            timestamp: self.record.timestamp.and_then(|time| time.as_millis().try_into().ok()).unwrap_or(0),
        }
    }
}

/// Topic and value of all messages in the messenger's test vectors.
fn stock() -> &'static [(String, Option<Vec<u8>>)] {
    static STOCK: OnceLock<Vec<(String, Option<Vec<u8>>)>> = OnceLock::new();
    STOCK.get_or_init(|| {
        let scenarios = vectors::parse(include_str!("../../vectors/messenger.json")).expect("shipped with this crate");
        let inputs = scenarios.iter().flat_map(|scenario| &scenario.steps).map(|step| &step.input);
        let bytes = |bytes: &vectors::Bytes| bytes.to_vec().expect("shipped with this crate");
        inputs.map(|input| (input.topic.clone(), input.value.as_ref().map(bytes))).collect()
    })
}

/// Draws this many inputs, in the order in which they are produced. An input's id is its index. Not all releases consume
/// the last of the source topics.
pub(crate) fn make(
    random: &mut fastrand::Rng,
    logic: Logic,
    sources: &[Arc<str>],
    partitions: i32,
    tenants: u32,
    count: usize,
) -> Vec<Input> {
    let odd = random.u8(0..3) == 0;
    let make = |id| {
        let (topic, mut value) = match logic {
            _ if random.u8(0..6) == 0 => (sources.len() - 1, Some(MORE.into())),
            Logic::Stock => {
                let number = random.u32(0..24);
                let word = match random.u8(0..10) {
                    0..=4 => "put",
                    5..=6 => "drop",
                    7 => "look",
                    8 if odd => "poison",
                    _ => "reject",
                };
                (0, Some(format!("{word} {number}").into_bytes()))
            }
            Logic::Messenger => {
                let (alias, value) = random.choice(stock()).expect("there are vectors");
                (sources.iter().position(|source| **source == **alias).expect("it consumes that"), value.clone())
            }
        };
        if odd && random.u8(0..30) == 0 {
            value = Some(TOXIC.into());
        }
        let tenant = (!odd || random.u8(0..20) > 0).then(|| format!("t{}", random.u32(0..tenants)));
        let mut headers = Headers::new();
        headers.add(ID, usize::to_string(&id));
        if let Some(tenant) = &tenant {
            headers.add(TENANT, tenant);
        }
        let timestamp = Some(Timestamp::from_millis(i64::try_from(id).expect("few")));
        let index = random.i32(0..partitions).try_into().expect("a range from 0");
        let partition = Partition::Source { topic, index };
        Input { partition, tenant, record: Record { key: None, value, headers, timestamp } }
    };
    (0..count).map(make).collect()
}
