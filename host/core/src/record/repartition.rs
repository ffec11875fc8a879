//! The form of a source record in the repartition topic.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::control_position::ControlPosition;
use super::headers::Headers;
use super::kafka_record::{Coordinates, Record};
use super::offset::Offset;
use super::partition::PartitionIndex;
use super::timestamp::Timestamp;

/// The only header of a record in the repartition topic: everything of the source record except key and value.
const ENVELOPE: &str = "switchboard-envelope";

/// The first byte of the envelope: the version of its format.
const VERSION: u8 = 3;

/// A record of the repartition topic that Switchboard did not write.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the record was not written by this version of Switchboard (it has no {ENVELOPE} header of version {VERSION}): let nothing \
     else produce to the repartition topic"
)]
pub struct RepartitionError;

/// The envelope, in postcard's format (<https://postcard.jamesmunns.com/wire-format>). It is one header in place of
/// the source record's headers: clients pay for each header, and only the host reads these.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    partition: PartitionIndex,
    offset: Offset,
    /// The source record's timestamp. It is not the timestamp of the repartitioned record, because brokers refuse
    /// timestamps far from the present (`message.timestamp.after.max.ms`), and the source record's broker has already
    /// accepted it.
    timestamp: Option<Timestamp>,
    /// Takes 1 byte if no route was ever set, about 13 otherwise.
    routes: Option<ControlPosition>,
    topic: &'a str,
    headers: Headers,
}

/// A source record, read from the repartition topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repartitioned {
    /// The record as it was consumed.
    pub record: Record,
    /// Where it was consumed.
    pub origin: Coordinates,
    /// The newest change of a route that the sender knew: its [`Routing::changed`](crate::routing::Routing::changed).
    pub routes: Option<ControlPosition>,
}

/// The form of a source record in the repartition topic: key and value unchanged, and one header with everything else.
/// `routes` is the newest change of a route that is known here.
pub fn to_repartitioned(record: Record, origin: &Coordinates, routes: Option<ControlPosition>) -> Record {
    let Record { key, value, headers, timestamp } = record;
    let room = headers.bytes() + 8 * headers.len() + origin.topic.len() + 60;
    let Coordinates { topic, partition, offset } = origin;
    let envelope = Envelope { partition: *partition, offset: *offset, timestamp, routes, topic, headers };
    let mut bytes = Vec::with_capacity(room);
    bytes.push(VERSION);
    let bytes = postcard::to_extend(&envelope, bytes).expect("a Vec takes any length, and every field has a form");
    let mut headers = Headers::with_capacity(1, ENVELOPE.len() + bytes.len());
    headers.add(ENVELOPE, &bytes);
    Record { key, value, headers, timestamp: None }
}

/// Restores a source record with its own coordinates and timestamp. The text of a known alias is shared, not copied.
///
/// # Errors
/// If Switchboard did not write the record. The record is returned unchanged.
pub fn from_repartitioned(record: Record, aliases: &[Arc<str>]) -> Result<Repartitioned, (Record, RepartitionError)> {
    let Some(Envelope { partition, offset, timestamp, routes, topic, headers }) = parse(&record.headers) else {
        return Err((record, RepartitionError));
    };
    let topic = aliases.iter().find(|alias| ***alias == *topic).map_or_else(|| Arc::from(topic), Arc::clone);
    let record = Record { key: record.key, value: record.value, headers, timestamp };
    Ok(Repartitioned { record, origin: Coordinates { topic, partition, offset }, routes })
}

fn parse(headers: &Headers) -> Option<Envelope<'_>> {
    let header = headers.iter().next().filter(|header| headers.len() == 1 && header.name == ENVELOPE.as_bytes())?;
    let (version, bytes) = header.value?.split_first()?;
    let envelope: Envelope<'_> = (*version == VERSION).then(|| postcard::from_bytes(bytes).ok())??;
    envelope.headers.is_sound().then_some(envelope)
}

#[cfg(test)]
mod tests {
    use super::super::control_position::TopicId;
    use super::*;

    #[test]
    fn a_repartitioned_record_is_restored_unchanged() {
        let last = Offset::new(i64::MAX).unwrap();
        let position = |topic, offset| Some(ControlPosition { topic, offset });
        let positions = [None, position(None, Offset::ZERO), position(Some(TopicId::new(u64::MAX)), last)];
        let timestamps = [None, Some(-5), Some(1_700_000_000_000)].map(|millis| millis.map(Timestamp::from_millis));
        for (timestamp, routes) in timestamps.into_iter().zip(positions) {
            let odd: [(&[u8], Option<&[u8]>); 3] =
                [(b"switchboard-envelope", Some(b"of old")), (b"", None), (b"\xff", Some(b""))];
            let record = Record { key: None, value: Some(vec![1]), headers: odd.into_iter().collect(), timestamp };
            let origin = Coordinates { topic: "odd/alias".into(), partition: 5.into(), offset: last };
            let repartitioned = to_repartitioned(record.clone(), &origin, routes);
            assert_eq!(from_repartitioned(repartitioned, &[]), Ok(Repartitioned { record, origin, routes }));
        }
    }

    #[test]
    fn the_position_in_the_control_topic_is_small() {
        let origin = Coordinates { topic: "T".into(), partition: 0.into(), offset: Offset::ZERO };
        let bytes = |routes| to_repartitioned(Record::default(), &origin, routes).headers.bytes();
        let position = ControlPosition { topic: Some(TopicId::new(u64::MAX)), offset: 1_000_000.into() };
        assert!(bytes(Some(position)) - bytes(None) <= 14, "{} and {} bytes", bytes(Some(position)), bytes(None));
    }

    #[test]
    fn a_foreign_record_is_recognized() {
        let origin = Coordinates { topic: "T".into(), partition: 0.into(), offset: Offset::ZERO };
        let position = ControlPosition { topic: Some(TopicId::new(1)), offset: 1.into() };
        let repartitioned = to_repartitioned(Record::default(), &origin, Some(position));
        let good = repartitioned.headers.iter().next().unwrap().value.unwrap().to_vec();
        // Another version; cut off; lengths of headers that do not add up: one header where there are no bytes.
        let former = [&[VERSION - 1], &good[1..]].concat();
        let broken = [
            vec![],
            former,
            vec![VERSION],
            good[..good.len() - 1].to_vec(),
            [&good[..good.len() - 1], &[1, 9, 0]].concat(),
        ];
        let mut records: Vec<_> = broken.iter().map(|value| [(ENVELOPE, Some(value))].into_iter().collect()).collect();
        records.push(Headers::new());
        records.push([("x", Some(&good))].into_iter().collect());
        for headers in records {
            let record = Record { headers, ..Record::default() };
            assert_eq!(from_repartitioned(record.clone(), &[]), Err((record, RepartitionError)));
        }
    }
}
