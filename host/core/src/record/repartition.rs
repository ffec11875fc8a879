use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::control_position::ControlPosition;
use super::headers::Headers;
use super::kafka_record::{Coordinates, Record};
use super::offset::Offset;
use super::partition::PartitionIndex;
use super::timestamp::Timestamp;

/// The only header of a record of the repartition topic: all that its source record was beside key and value.
const ENVELOPE: &str = "switchboard-envelope";

/// The envelope's first byte: which form it has.
const VERSION: u8 = 3;

/// A record of the repartition topic that no Switchboard wrote.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the repartition topic is Switchboard's own, but this record was not written by it (no {ENVELOPE} header of a known form)"
)]
pub struct RepartitionError;

/// In postcard's form (<https://postcard.jamesmunns.com/wire-format>). One header instead of the source record's: clients
/// pay for each header of a record, and nobody but the host reads these.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    partition: PartitionIndex,
    offset: Offset,
    /// In here and not the record's own: brokers refuse timestamps far off the present
    /// (`message.timestamp.after.max.ms`), and a source record has been taken by its broker already.
    timestamp: Option<Timestamp>,
    /// 1 byte where no route was ever set, else about 13.
    routes: Option<ControlPosition>,
    topic: &'a str,
    headers: Headers,
}

/// A source record that came by way of the repartition topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repartitioned {
    pub record: Record,
    pub source: Coordinates,
    /// The newest change of a route that its router knew of, as `Routing::changed` has it.
    pub routes: Option<ControlPosition>,
}

/// The repartition topic's form of a source record: key and value unchanged, and one header with all else. `routes`: the newest
/// change of a route that is known here.
pub fn to_repartitioned(record: Record, source: &Coordinates, routes: Option<ControlPosition>) -> Record {
    let Record { key, value, headers, timestamp } = record;
    let room = headers.bytes() + 8 * headers.len() + source.topic.len() + 60;
    let Coordinates { topic, partition, offset } = source;
    let envelope = Envelope { partition: *partition, offset: *offset, timestamp, routes, topic, headers };
    let mut bytes = Vec::with_capacity(room);
    bytes.push(VERSION);
    let bytes = postcard::to_extend(&envelope, bytes).expect("a Vec takes any length, and every field has a form");
    let mut headers = Headers::with_capacity(1, ENVELOPE.len() + bytes.len());
    headers.add(ENVELOPE, &bytes);
    Record { key, value, headers, timestamp: None }
}

/// The source record again, with its own coordinates and timestamp. A known alias is shared, not copied.
///
/// # Errors
/// When the record is no such form of one.
pub fn from_repartitioned(record: Record, aliases: &[Arc<str>]) -> Result<Repartitioned, (Record, RepartitionError)> {
    let Some(Envelope { partition, offset, timestamp, routes, topic, headers }) = parse(&record.headers) else {
        return Err((record, RepartitionError));
    };
    let topic = aliases.iter().find(|alias| ***alias == *topic).map_or_else(|| Arc::from(topic), Arc::clone);
    let record = Record { key: record.key, value: record.value, headers, timestamp };
    Ok(Repartitioned { record, source: Coordinates { topic, partition, offset }, routes })
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
    fn a_record_comes_back_from_the_shard_topic_as_it_was() {
        let last = Offset::new(i64::MAX).unwrap();
        let place = |topic, offset| Some(ControlPosition { topic, offset });
        let places = [None, place(None, Offset::ZERO), place(Some(TopicId::new(u64::MAX)), last)];
        let timestamps = [None, Some(-5), Some(1_700_000_000_000)].map(|millis| millis.map(Timestamp::from_millis));
        for (timestamp, routes) in timestamps.into_iter().zip(places) {
            let odd: [(&[u8], Option<&[u8]>); 3] =
                [(b"switchboard-envelope", Some(b"of old")), (b"", None), (b"\xff", Some(b""))];
            let record = Record { key: None, value: Some(vec![1]), headers: odd.into_iter().collect(), timestamp };
            let source = Coordinates { topic: "odd/alias".into(), partition: 5.into(), offset: last };
            let routed = to_repartitioned(record.clone(), &source, routes);
            assert_eq!(from_repartitioned(routed, &[]), Ok(Repartitioned { record, source, routes }));
        }
    }

    #[test]
    fn the_place_in_the_control_topic_is_small() {
        let source = Coordinates { topic: "T".into(), partition: 0.into(), offset: Offset::ZERO };
        let bytes = |routes| to_repartitioned(Record::default(), &source, routes).headers.bytes();
        let place = ControlPosition { topic: Some(TopicId::new(u64::MAX)), offset: 1_000_000.into() };
        assert!(bytes(Some(place)) - bytes(None) <= 14, "{} and {} bytes", bytes(Some(place)), bytes(None));
    }

    #[test]
    fn a_foreign_record_is_told_apart() {
        let source = Coordinates { topic: "T".into(), partition: 0.into(), offset: Offset::ZERO };
        let place = ControlPosition { topic: Some(TopicId::new(1)), offset: 1.into() };
        let routed = to_repartitioned(Record::default(), &source, Some(place));
        let good = routed.headers.iter().next().unwrap().value.unwrap().to_vec();
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
