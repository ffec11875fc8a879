use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::headers::Headers;
use super::record::{Coordinates, Record};

/// The only header of a record of the shard topic: all that its source record was beside key and value.
const ENVELOPE: &str = "switchboard-envelope";

/// The envelope's first byte: which form it has.
const VERSION: u8 = 1;

/// A record of the shard topic that no Switchboard wrote.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the shard topic is Switchboard's own, but this record was not written by it (no {ENVELOPE} header of a known form)"
)]
pub struct RoutedError;

/// In postcard's form (<https://postcard.jamesmunns.com/wire-format>). One header instead of the source record's: clients
/// pay for each header of a record, and nobody but the host reads these.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    partition: i32,
    offset: i64,
    /// In here and not the record's own: brokers refuse timestamps far off the present
    /// (`message.timestamp.after.max.ms`), and a source record has been taken by its broker already.
    timestamp: Option<i64>,
    topic: &'a str,
    headers: Headers,
}

/// The shard topic's form of a source record: key and value unchanged, and one header with all else.
pub fn to_routed(record: Record, source: &Coordinates) -> Record {
    let Record { key, value, headers, timestamp } = record;
    let room = headers.bytes() + 8 * headers.len() + source.topic.len() + 40;
    let Coordinates { topic, partition, offset } = source;
    let envelope = Envelope { partition: *partition, offset: *offset, timestamp, topic, headers };
    let mut bytes = Vec::with_capacity(room);
    bytes.push(VERSION);
    let bytes = postcard::to_extend(&envelope, bytes).expect("a Vec takes any length, and every field has a form");
    let mut headers = Headers::with_capacity(1, ENVELOPE.len() + bytes.len());
    headers.add(ENVELOPE, &bytes);
    Record { key, value, headers, timestamp: None }
}

/// The source record again, with its own coordinates and timestamp. A known token is shared, not copied.
///
/// # Errors
/// When the record is no such form of one.
pub fn restore_routed(record: Record, tokens: &[Arc<str>]) -> Result<(Record, Coordinates), (Record, RoutedError)> {
    let Some(Envelope { partition, offset, timestamp, topic, headers }) = parse(&record.headers) else {
        return Err((record, RoutedError));
    };
    let topic = tokens.iter().find(|token| ***token == *topic).map_or_else(|| Arc::from(topic), Arc::clone);
    Ok((Record { key: record.key, value: record.value, headers, timestamp }, Coordinates { topic, partition, offset }))
}

fn parse(headers: &Headers) -> Option<Envelope<'_>> {
    let header = headers.iter().next().filter(|header| headers.len() == 1 && header.name == ENVELOPE.as_bytes())?;
    let (version, bytes) = header.value?.split_first()?;
    let envelope: Envelope<'_> = (*version == VERSION).then(|| postcard::from_bytes(bytes).ok())??;
    envelope.headers.is_sound().then_some(envelope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_from_the_shard_topic_as_it_was() {
        for timestamp in [None, Some(-5), Some(1_700_000_000_000)] {
            let odd: [(&[u8], Option<&[u8]>); 3] =
                [(b"switchboard-envelope", Some(b"of old")), (b"", None), (b"\xff", Some(b""))];
            let record = Record { key: None, value: Some(vec![1]), headers: odd.into_iter().collect(), timestamp };
            let source = Coordinates { topic: "odd/token".into(), partition: 5, offset: i64::MAX };
            let routed = to_routed(record.clone(), &source);
            assert_eq!(restore_routed(routed, &[]), Ok((record, source)));
        }
    }

    #[test]
    fn a_foreign_record_is_told_apart() {
        let routed = to_routed(Record::default(), &Coordinates { topic: "T".into(), partition: 0, offset: 0 });
        let good = routed.headers.iter().next().unwrap().value.unwrap().to_vec();
        // Another version; cut off; lengths of headers that do not add up: one header where there are no bytes.
        let broken = [vec![], vec![2], good[..good.len() - 1].to_vec(), [&good[..good.len() - 1], &[1, 9, 0]].concat()];
        let mut records: Vec<_> = broken.iter().map(|value| [(ENVELOPE, Some(value))].into_iter().collect()).collect();
        records.push(Headers::new());
        records.push([("x", Some(&good))].into_iter().collect());
        for headers in records {
            let record = Record { headers, ..Record::default() };
            assert_eq!(restore_routed(record.clone(), &[]), Err((record, RoutedError)));
        }
    }
}
