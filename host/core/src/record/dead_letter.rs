//! Dead letters: the messages that cannot be handled, and why.

use std::fmt;

use super::headers::Headers;
use super::kafka_record::{Coordinates, Record};
use super::timestamp::Timestamp;

/// The prefix of the host's own headers. The host never reads such headers from a consumed record.
pub const HEADER_PREFIX: &str = "switchboard-";

/// The longest reason in bytes. A plugin may write a text of any length; it is cut.
const MAX_REASON: usize = 4096;

/// Why a message became a dead letter, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The record is not a message: a tenant header is missing or malformed.
    Envelope,
    /// The plugin says that the message can never be handled.
    Invalid,
    /// The plugin trapped.
    Trap,
    /// The message exceeded its CPU time.
    Deadline,
    /// The message exceeded another limit: fuel, memory, state, number or size of outputs.
    Limit,
    /// An output may not be sent, or the broker refuses it.
    Output,
    /// A lookup got no answer.
    Lookup,
    /// The release of the tenant's route consumes the topic, but the tenant runs a fallback release that does not.
    Release,
}

impl Class {
    /// The name of the class, as in the header `switchboard-class`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Invalid => "invalid",
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Limit => "limit",
            Self::Output => "output",
            Self::Lookup => "lookup",
            Self::Release => "release",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reason why a message cannot be handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The class, for programs.
    pub class: Class,
    /// The reason, for people.
    pub reason: String,
}

impl DeadLetter {
    /// A dead letter of this class. A long reason is cut.
    pub fn new(class: Class, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if reason.len() > MAX_REASON {
            let end = (0..=MAX_REASON).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
            reason.truncate(end);
        }
        Self { class, reason }
    }

    /// The record for the dead-letter topic. Key, value and all headers of the original come first, unchanged and in
    /// their order. Six headers of the host follow:
    ///
    /// | header | content |
    /// |---|---|
    /// | `switchboard-class` | the [`Class`] |
    /// | `switchboard-reason` | the reason |
    /// | `switchboard-topic` | the alias of the source topic |
    /// | `switchboard-partition` | the source partition, in decimal |
    /// | `switchboard-offset` | the source offset, in decimal |
    /// | `switchboard-timestamp` | the source timestamp in milliseconds; empty if the record had none |
    pub fn to_record(&self, original: &Record, origin: &Coordinates) -> Record {
        let mut headers = original.headers.clone();
        self.write_to(&mut headers, original.timestamp, origin);
        Record { key: original.key.clone(), value: original.value.clone(), headers, timestamp: None }
    }

    /// The same record without key, value and headers of the original, for an original that the broker refuses as a
    /// dead letter. The coordinates say where to find the original.
    pub fn to_minimal_record(&self, original: &Record, origin: &Coordinates) -> Record {
        let mut headers = Headers::new();
        self.write_to(&mut headers, original.timestamp, origin);
        Record { headers, ..Record::default() }
    }

    fn write_to(&self, headers: &mut Headers, timestamp: Option<Timestamp>, origin: &Coordinates) {
        let mut add = |name: &str, value: &str| headers.add(format!("{HEADER_PREFIX}{name}"), value);
        add("class", self.class.as_str());
        add("reason", &self.reason);
        add("topic", &origin.topic);
        add("partition", &origin.partition.to_string());
        add("offset", &origin.offset.to_string());
        add("timestamp", &timestamp.map(|timestamp| timestamp.to_string()).unwrap_or_default());
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_is_unchanged_and_the_headers_of_the_host_follow() {
        let odd: [(&[u8], Option<&[u8]>); 4] = [
            (b"a", Some(b"1")),
            (b"\xc3", None),
            (b"a", Some(b"")),
            (b"switchboard-class", Some(b"of an earlier life")),
        ];
        let headers = odd.into_iter().collect();
        let original =
            Record { key: Some(vec![0xff, 0]), value: None, headers, timestamp: Some(Timestamp::from_millis(7)) };
        let source = Coordinates { topic: "T".into(), partition: 3.into(), offset: 9.into() };
        let letter = DeadLetter::new(Class::Trap, "x".repeat(MAX_REASON - 1) + "äb");
        let record = letter.to_record(&original, &source);
        assert_eq!((&record.key, &record.value), (&original.key, &original.value));
        assert_eq!(record.headers.iter().take(4).collect::<Headers>(), original.headers);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let own: Vec<_> = record.headers.iter().skip(4).map(|h| (text(h.name), text(h.value.unwrap()))).collect();
        assert_eq!(own[0], ("switchboard-class".into(), "trap".into()));
        assert_eq!(own[1].1.len(), MAX_REASON - 1, "cut between characters");
        let rest: Vec<_> = own[2..].iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(rest, ["T", "3", "9", "7"]);
        let minimal = letter.to_minimal_record(&original, &source);
        assert_eq!(minimal.headers, record.headers.iter().skip(4).collect());
    }
}
