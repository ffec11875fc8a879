use std::sync::Arc;

use super::record::{Coordinates, Header, Record};

/// The header that a record carries on its way through the shard topic, as its last one.
const SOURCE: &str = "switchboard-source";

/// A record of the shard topic that no Switchboard wrote.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the shard topic is Switchboard's own, but this record was not written by it (no {SOURCE} header at its end)")]
pub struct RoutedError;

/// The shard topic's form of a source record: unchanged, and one header more that says where it came from.
///
/// The original timestamp travels in that header, not as the record's own: brokers refuse timestamps far off the
/// present (`message.timestamp.after.max.ms`), and a source record has been taken by its broker already.
pub fn to_routed(mut record: Record, source: &Coordinates) -> Record {
    let timestamp = record.timestamp.take().map(|ms| ms.to_string()).unwrap_or_default();
    let text = format!("{}/{}/{timestamp}/{}", source.partition, source.offset, source.topic);
    record.headers.push(Header::new(SOURCE, text));
    record
}

/// The source record again, with its own coordinates and timestamp.
///
/// # Errors
/// When the record does not end with the host's header.
pub fn restore_routed(mut record: Record) -> Result<(Record, Coordinates), (Record, RoutedError)> {
    let parsed = record.headers.last().and_then(parse);
    let Some((coordinates, timestamp)) = parsed else { return Err((record, RoutedError)) };
    record.headers.pop();
    record.timestamp = timestamp;
    Ok((record, coordinates))
}

fn parse(header: &Header) -> Option<(Coordinates, Option<i64>)> {
    if header.name != SOURCE.as_bytes() {
        return None;
    }
    let text = std::str::from_utf8(header.value.as_deref()?).ok()?;
    let mut parts = text.splitn(4, '/');
    let partition = parts.next()?.parse().ok()?;
    let offset = parts.next()?.parse().ok()?;
    let timestamp = match parts.next()? {
        "" => None,
        ms => Some(ms.parse().ok()?),
    };
    Some((Coordinates { topic: Arc::from(parts.next()?), partition, offset }, timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_from_the_shard_topic_as_it_was() {
        for timestamp in [None, Some(-5), Some(1_700_000_000_000)] {
            let record = Record {
                key: None,
                value: Some(vec![1]),
                headers: vec![
                    Header::new(SOURCE, "1/2/3/a dead letter sent again"),
                    Header { name: vec![], value: None },
                ],
                timestamp,
            };
            let source = Coordinates { topic: "odd/token".into(), partition: 5, offset: i64::MAX };
            let routed = to_routed(record.clone(), &source);
            assert_eq!(restore_routed(routed), Ok((record, source)));
        }
    }

    #[test]
    fn a_foreign_record_is_told_apart() {
        for headers in [vec![], vec![Header::new("x", "1/2/3/t")], vec![Header::new(SOURCE, "1/2")]] {
            let record = Record { headers, ..Record::default() };
            assert_eq!(restore_routed(record.clone()), Err((record, RoutedError)));
        }
    }
}
